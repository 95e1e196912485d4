"""Enumeration: a sweep file's grids and rows as a frame of distinct workloads.

Snakemake calls this while it parses, so it must take well under half a second. It checks the sweep against
its schema and finds the models; whether the workloads make sense is validation's question.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from moesweep.edge.paths import SHIPPED
from moesweep.edge.problems import BadInput, Problem, and_more, collect, did_you_mean, shown
from moesweep.study.blocks import Block
from moesweep.study.claims import Claim
from moesweep.study.conditions import AGAIN, NO_LARGEST_EP, SAID_AGAIN, checks, removed
from moesweep.study.entries import ENTRY, blocks, points
from moesweep.study.ids import OF_OPTIONS, with_ids
from moesweep.study.keys import SCHEMA
from moesweep.study.of_clusters import with_constants_of_rules
from moesweep.study.parts import Parts, read_parts, shown_path
from moesweep.study.routing import misfit
from moesweep.study.workload import dense_twins

MAX_WORKLOADS = 100_000
MAX_POINTS = 10_000_000
"""Points of the grids that leave some out."""

_COUNTS = {"entry": pl.String, "reason": pl.String, "points": pl.Int64}


@dataclass(frozen=True)
class Sweep:
    """An enumerated sweep.

    workloads  one row per distinct workload: those listed, in order of listing, then the twins; columns of
               moesweep.study.workload.SCHEMA
    origins    one row per workload, in the same order: workload, file, entry (`grids[0]`, `rows[3]`), own
               (keys given in that entry), options (keys given there). A twin has the origin of the first
               workload it belongs to.
    left_out   how many points of a grid were left out for what reason: entry, reason (a rule, or `where`
               and the condition), points
    claims     what the file claims of expert parallelism
    """

    file: str
    workloads: pl.DataFrame
    origins: pl.DataFrame
    left_out: pl.DataFrame
    claims: tuple[Claim, ...] = ()


def enumerate_sweep(root: Path, path: Path | str) -> pl.DataFrame:
    """The distinct workloads of a sweep file, one row each; see Sweep.workloads. Raises BadInput."""
    return load_sweep(root, path).workloads


def load_sweep(root: Path, path: Path | str) -> Sweep:
    """Read, check and enumerate a sweep file; a relative path counts from `root`.

    Raises BadInput with every fault found: YAML, schema, unknown models, missing keys, ep rules without an
    answer, workloads listed twice, too many workloads, grids that list none.
    """
    sweep, problems = sound_part(root, path)
    if sweep is None or problems:
        raise BadInput(problems)
    return sweep


def sound_part(root: Path, path: Path | str) -> tuple[Sweep | None, list[Problem]]:
    """Enumerate the grids and rows that can be understood; return them and every fault of the others.

    So validation can judge the former beside the faults of the latter. The sweep is None where a fault
    concerns them all. Raises BadInput if the file is no YAML.
    """
    parts, problems = read_parts(root, path)
    listed, unresolved = blocks(parts.listed, parts.said)
    problems += unresolved + _too_many(listed, parts.said.file)
    if not listed or _too_many(listed, parts.said.file):
        return None, problems
    found = collect(problems, _listed, listed, parts)
    if found is None:
        return None, problems
    frame, left_out, faults = found
    sweep = _sweep(frame, left_out, listed, parts)
    problems += [*faults, *_duplicates(sweep), *_misfits(root, sweep)]
    sweep = _distinct(sweep)
    if parts.twins:
        sweep = _with_twins(sweep)
    return replace(sweep, workloads=sweep.workloads.select(*SCHEMA)), problems


@contextmanager
def named_at(root: Path, sweep: Path | str, file: str, path: str) -> Iterator[None]:
    """Where the block finds that there is no such sweep, place the problem at `path` of `file`."""
    missing = shown_path(root, sweep)
    folders = (root / "config/sweeps", SHIPPED / "config/sweeps")
    known = {str(Path("config/sweeps", found.name)) for folder in folders for found in folder.glob("*.yaml")}
    try:
        yield
    except BadInput as bad:
        message, advice = f"there is no file {missing}", did_you_mean(missing, known)
        raise BadInput(
            Problem(file, path, problem.rule, missing, message, advice)
            if (problem.file, problem.rule) == (missing, "missing_file")
            else problem
            for problem in bad.problems
        ) from None


def _too_many(listed: list[Block], file: str) -> list[Problem]:
    """A problem where the grids and rows have more points than can be enumerated."""
    whole = sum(block.size for block in listed if not (block.skips or block.where))
    every = sum(block.size for block in listed)
    for size, limit in ((whole, MAX_WORKLOADS), (every, MAX_POINTS)):
        if size > limit:
            message = f"the sweep lists {size} workloads; the limit is {limit}"
            return [Problem(file, "grids", "sweep_size", str(size), message, "split the sweep")]
    return []


def _listed(listed: list[Block], parts: Parts) -> tuple[pl.DataFrame, pl.DataFrame, list[Problem]]:
    """The workloads of all blocks in order of listing, with ENTRY and ids; what was left out; what is wrong.

    Raises BadInput where a condition cannot be asked.
    """
    frames, problems, counts = [], [], []
    for block in listed:
        frame = points(block)
        gone = removed(with_constants_of_rules(frame, {}), block.where, block.skips)
        lost = frame.filter(pl.col("ep").is_null() & ~pl.col(AGAIN)) if not block.skips else frame.clear()
        problems += _without_ep(lost, parts)
        kept = frame.filter(gone.is_null())
        counts.append(_left_out(block, gone, parts))
        if not (kept.height or lost.height):
            problems.append(_nothing_left(block, counts[-1], parts))
        frames.append(kept)
    frame = pl.concat(frames, how="diagonal").sort(ENTRY, maintain_order=True)
    # Where another entry sets a key, this one says what the options say.
    of_options = [name for name in frame.columns if name.endswith(OF_OPTIONS)]
    same = [pl.coalesce(name, name.removesuffix(OF_OPTIONS)).alias(name) for name in of_options]
    return with_ids(frame.with_columns(same)), pl.concat(counts), problems


def _left_out(block: Block, gone: pl.Series, parts: Parts) -> pl.DataFrame:
    """How many points of a block were left out for what reason, in the order in which reasons count."""
    names = list(checks(block.where, block.skips))
    numbers = gone.drop_nulls().value_counts().sort(gone.name).iter_rows()
    entry = list(parts.listed)[block.entries[0]]
    reasons = [(names[number], count) for number, count in numbers]
    rows = [(entry, reason, count) for reason, count in reasons if reason != SAID_AGAIN]
    return pl.DataFrame(rows, schema=_COUNTS, orient="row")


def _nothing_left(block: Block, counts: pl.DataFrame, parts: Parts) -> Problem:
    *before, (entry, reason, count) = counts.iter_rows()
    others = "".join(f"{other} leaves out {points_}, " for _, other, points_ in before)
    message = f"of {block.size} points none is left: {others}{reason} removes the last {count}"
    return Problem(parts.said.file, entry, "empty", reason, message, "ask for less, or for other values")


def _without_ep(lost: pl.DataFrame, parts: Parts) -> list[Problem]:
    """A problem for each entry with points that have no largest ep."""
    paths = list(parts.listed)
    columns = ("world_size", "largest_at", "pp")
    first = lost.group_by(ENTRY, maintain_order=True).agg(pl.first(*columns), pl.len())
    problems = []
    for number, world, tp, pp, count in first.iter_rows():
        given = parts.listed[paths[number]].get("ep", parts.said.options.get("ep"))
        why = f"world_size {world} is not a multiple of tp {tp} * pp {pp}{and_more(count)}"
        place = f"{paths[number]}.ep"
        problems.append(Problem(parts.said.file, place, NO_LARGEST_EP, shown(given), f"no largest ep: {why}"))
    return problems


def _sweep(frame: pl.DataFrame, left_out: pl.DataFrame, listed: list[Block], parts: Parts) -> Sweep:
    """The workloads of a frame with their origins, those listed twice still among them."""
    own = pl.DataFrame(
        [([*block.entries], [*block.own]) for block in listed],
        schema={ENTRY: pl.List(pl.Int64), "own": pl.List(pl.String)},
        orient="row",
    )
    entries = own.explode(ENTRY).unique(ENTRY).sort(ENTRY)
    entry = pl.Series("entry", list(parts.listed))[entries[ENTRY]]
    origins = frame.select("workload", ENTRY).join(
        entries.with_columns(entry), on=ENTRY, maintain_order="left"
    )
    file, options = pl.lit(parts.said.file), pl.lit(list(parts.said.options), pl.List(pl.String))
    origins = origins.select("workload", file.alias("file"), "entry", "own", options.alias("options"))
    return Sweep(parts.said.file, frame.drop(ENTRY), origins, left_out, parts.claims)


def _distinct(sweep: Sweep) -> Sweep:
    """The sweep with the first row of each workload."""
    first = sweep.workloads["workload"].is_first_distinct()
    return replace(sweep, workloads=sweep.workloads.filter(first), origins=sweep.origins.filter(first))


def _duplicates(sweep: Sweep) -> list[Problem]:
    """A problem for each entry with workloads that an earlier one lists already."""
    places = sweep.origins.select("workload", "entry", before=pl.col("entry").first().over("workload"))
    again = places.filter(~pl.col("workload").is_first_distinct())
    counts = again.group_by("entry", maintain_order=True).agg(pl.first("workload", "before"), pl.len())
    advice = "list it once; with `listed: 2` it counts twice"
    return [
        Problem(
            sweep.file,
            entry,
            "duplicate",
            workload,
            f"{workload} is listed at {before} already{and_more(count)}",
            advice,
            workload=workload,
        )
        for entry, workload, before, count in counts.iter_rows()
    ]


def _misfits(root: Path, sweep: Sweep) -> list[Problem]:
    """A problem for each workload whose measured routing counts other layers or experts than it has."""
    problems = []
    frame = pl.concat([sweep.workloads, sweep.origins.select("entry", "own")], how="horizontal")
    measured = frame.filter(pl.col("routing").str.starts_with("table("))
    asked = ["entry", "routing", "num_experts", "num_layers", "first_k_dense", "moe_router_topk"]
    for row in measured.unique(asked, keep="first", maintain_order=True).iter_rows(named=True):
        path = f"{row['entry'] if 'routing' in row['own'] else 'options'}.routing.table"
        message = misfit(row["routing"], root, row)
        if message:
            problems.append(
                Problem(sweep.file, path, "routing_table", row["routing"], message, workload=row["workload"])
            )
    return problems


def _with_twins(sweep: Sweep) -> Sweep:
    """Add the dense twins. One that the sweep also lists stays where it is listed."""
    listed, origins = sweep.workloads, sweep.origins
    moe = listed["kind"] == "moe"
    twins = dense_twins(listed)
    ids = listed.filter(moe).select("workload", twin=twins["workload"])
    listed = listed.drop("twin").join(ids, on="workload", how="left", maintain_order="left")
    twin_origins = origins.filter(moe).with_columns(workload=twins["workload"])
    every = pl.concat([listed.select(twins.columns), twins])
    return _distinct(replace(sweep, workloads=every, origins=pl.concat([origins, twin_origins])))
