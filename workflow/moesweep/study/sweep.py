"""Enumeration: a sweep file's grids and rows as a frame of distinct workloads.

Snakemake calls this while it parses, so it must take well under half a second. It checks the sweep against
its schema and finds the models; whether the workloads make sense is validation's question.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.paths import inside
from moesweep.edge.problems import BadInput, Problem, did_you_mean
from moesweep.edge.schema import check
from moesweep.edge.yaml_reader import read_yaml
from moesweep.study.catalog import load_model
from moesweep.study.entries import Entry, entries, items
from moesweep.study.routing import misfit, with_texts
from moesweep.study.workload import SCHEMA, dense_twins, resolve

_UNRULED = "recompute|flash_attention|distributed_optimizer|dtype|framework|blocking_launches|routing"
_OF_SOME = re.compile(rf"(grids|rows)\[|options\.({_UNRULED})\b")
"""Paths of problems that do not concern every workload's numbers."""


@dataclass(frozen=True)
class Sweep:
    """An enumerated sweep.

    workloads  one row per distinct workload: those listed, in order of listing, then the twins; columns of
               moesweep.study.workload.SCHEMA
    origins    one row per workload, in the same order: workload, file, entry (`grids[0]`, `rows[3]`), own
               (keys given in that entry), options (keys given there). A twin has the origin of the first
               workload it belongs to.
    """

    file: str
    workloads: pl.DataFrame
    origins: pl.DataFrame


def enumerate_sweep(root: Path, path: Path | str) -> pl.DataFrame:
    """The distinct workloads of a sweep file, one row each; see Sweep.workloads. Raises BadInput."""
    return load_sweep(root, path).workloads


def load_sweep(root: Path, path: Path | str) -> Sweep:
    """Read, check and enumerate a sweep file; a relative path counts from `root`.

    Raises BadInput with every fault found: YAML, schema, unknown models, missing keys, ep rules without an
    answer, workloads listed twice, too many workloads.
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
    file = _shown_path(root, path)
    data = read_yaml(inside(root, path), file)
    problems = check(data, "sweep", file)
    models, unknown = _models(root, data, file)
    malformed = {problem.path for problem in problems}
    problems += [problem for problem in unknown if problem.path not in malformed]
    parts, misrouted = with_texts(_understood(data, problems, models, file), root, file)
    options = parts.pop("options", {})
    listed, unresolved = entries(_unharmed(parts, misrouted), options, models, file)
    problems += misrouted + unresolved
    if not listed:
        return None, problems
    sweep, faults = _enumerated(root, listed, list(options), file)
    problems += faults
    if data.get("twins"):
        sweep, faults = _with_twins(sweep)
        problems += faults
    return sweep, problems


@contextmanager
def named_at(root: Path, sweep: Path | str, file: str, path: str) -> Iterator[None]:
    """Where the block finds that there is no such sweep, place the problem at `path` of `file`."""
    missing = _shown_path(root, sweep)
    known = [str(Path("config/sweeps", found.name)) for found in (root / "config/sweeps").glob("*.yaml")]
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


def _understood(
    data: Any, problems: list[Problem], models: Mapping[str, Any], file: str
) -> dict[str, dict[str, Any]]:
    """The options, grids and rows by path that no problem concerns; empty if one concerns them all.

    A faulty option that no rule judges others by falls back to its default.
    """
    here = [problem for problem in problems if problem.file == file]
    if not all(_OF_SOME.match(problem.path) for problem in here):
        return {}
    given = {f"options.{key}": value for key, value in data.get("options", {}).items()}
    options = {path.removeprefix("options."): value for path, value in _unharmed(given, here).items()}
    sound = _unharmed(items(data), here)
    listed = {path: item for path, item in sound.items() if _named(options | item) <= models.keys()}
    return {"options": options, **listed}


def _unharmed(parts: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The parts, by path, that no problem lies in."""
    ends = re.compile(r"[.\[]|$")
    harmed = {problem.path[: end.start()] for problem in problems for end in ends.finditer(problem.path)}
    return {path: part for path, part in parts.items() if path not in harmed}


def _named(part: Mapping[str, Any]) -> set[str]:
    """The models that a part of a sweep names."""
    names = part.get("model", [])
    return {names} if isinstance(names, str) else set(names)


def _shown_path(root: Path, path: Path | str) -> str:
    """The path as problems show it: from the root where it lies inside."""
    full = root / path
    return str(full.relative_to(root)) if full.is_relative_to(root) else str(path)


def _models(root: Path, data: Any, file: str) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Every model the sweep names, and the problems with them, placed where the sweep names them."""
    models: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for path, name in _model_mentions(data):
        if name in models:
            continue
        try:
            models[name] = load_model(root, name)
        except BadInput as bad:
            unknown = [
                replace(p, file=file, path=path) if p.rule == "unknown_model" else p for p in bad.problems
            ]
            problems += [problem for problem in unknown if problem not in problems]
    return models, problems


def _model_mentions(data: Any) -> Iterator[tuple[str, str]]:
    """(path, name) of every model name in a sweep that may still be malformed."""
    if not isinstance(data, dict):
        return
    places = [("options", data.get("options"))]
    for part in ("grids", "rows"):
        items = data.get(part)
        places += [(f"{part}[{i}]", item) for i, item in enumerate(items if isinstance(items, list) else [])]
    for path, item in places:
        names = item.get("model") if isinstance(item, dict) else None
        if isinstance(names, str):
            yield f"{path}.model", names
        for i, name in enumerate(names if isinstance(names, list) else []):
            if isinstance(name, str):
                yield f"{path}.model[{i}]", name


def _enumerated(
    root: Path, listed: list[Entry], options: list[str], file: str
) -> tuple[Sweep, list[Problem]]:
    """The listed workloads as a sweep without twins; which are listed twice, or routed for other layers."""
    workloads = resolve([entry.values for entry in listed])
    problems = _duplicates(workloads, listed, file) + _misfits(root, workloads, listed, file)
    origins = pl.DataFrame(
        {
            "workload": workloads["workload"],
            "file": [file] * len(listed),
            "entry": [entry.path for entry in listed],
            "own": [list(entry.own) for entry in listed],
            "options": [options] * len(listed),
        },
        schema_overrides=dict.fromkeys(("own", "options"), pl.List(pl.String)),
    )
    return _distinct(file, workloads, origins), problems


def _distinct(file: str, workloads: pl.DataFrame, origins: pl.DataFrame) -> Sweep:
    """The sweep of these rows, of which the first of each workload counts."""
    first = workloads["workload"].is_first_distinct()
    return Sweep(file, workloads.filter(first), origins.filter(first))


def _duplicates(listed: pl.DataFrame, entries: list[Entry], file: str) -> list[Problem]:
    """A problem for each workload that an earlier entry lists already."""
    repeated = listed.with_row_index("at").filter(pl.col("workload").is_duplicated())
    options = repeated.drop("at", "listed")
    first: dict[str, int] = {}
    problems = []
    for row, (at, workload) in enumerate(repeated.select("at", "workload").iter_rows()):
        if workload not in first:
            first[workload] = row
            continue
        before = entries[repeated["at"][first[workload]]].path
        if options.row(row) == options.row(first[workload]):
            what, advice = "is listed", "list it once; with `listed: 2` it counts twice"
        else:
            what, advice = "is listed with other options", "put one of the two in a sweep of its own"
        message = f"{workload} {what} at {before} already"
        problems.append(
            Problem(file, entries[at].path, "duplicate", workload, message, advice, workload=workload)
        )
    return problems


def _misfits(root: Path, listed: pl.DataFrame, entries: list[Entry], file: str) -> list[Problem]:
    """A problem for each workload whose measured routing counts other layers or experts than it has."""
    problems = []
    measured = listed.with_row_index("at").filter(pl.col("routing").str.starts_with("table("))
    for row in measured.iter_rows(named=True):
        entry = entries[row["at"]]
        path = f"{entry.path if 'routing' in entry.own else 'options'}.routing.table"
        message = misfit(row["routing"], root, row)
        if message:
            problems.append(
                Problem(file, path, "routing_table", row["routing"], message, workload=row["workload"])
            )
    return problems


def _with_twins(sweep: Sweep) -> tuple[Sweep, list[Problem]]:
    """Add the dense twins, and say which conflict. One that the sweep also lists stays where it is listed."""
    listed, origins = sweep.workloads, sweep.origins
    moe = listed["kind"] == "moe"
    twins = dense_twins(listed)
    ids = listed.filter(moe).select("workload", twin=twins["workload"])
    listed = listed.drop("twin").join(ids, on="workload", how="left", maintain_order="left").select(*SCHEMA)
    twin_origins = origins.filter(moe).with_columns(workload=twins["workload"])
    dense = pl.concat([listed.filter(~moe), twins])
    problems = _twin_conflicts(dense, pl.concat([origins.filter(~moe), twin_origins]), sweep.file)
    every = _distinct(sweep.file, pl.concat([listed, twins]), pl.concat([origins, twin_origins]))
    return every, problems


def _twin_conflicts(dense: pl.DataFrame, origins: pl.DataFrame, file: str) -> list[Problem]:
    """A problem for each dense workload that is asked for with different options under one id."""
    columns = [column for column in dense.columns if column not in ("listed", "twin")]
    distinct = dense.with_columns(entry=origins["entry"]).unique(columns, keep="first", maintain_order=True)
    repeated = distinct.filter(~pl.col("workload").is_first_distinct())
    return [
        Problem(
            file,
            entry,
            "twin_conflict",
            workload,
            f"the dense twin {workload} is also asked for with other options",
            "put one of the two in a sweep of its own",
            workload=workload,
        )
        for entry, workload in repeated.select("entry", "workload").iter_rows()
    ]
