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

from moesweep.edge.paths import SHIPPED, provided
from moesweep.edge.problems import BadInput, Problem, did_you_mean
from moesweep.edge.schema import check
from moesweep.edge.yaml_reader import read_yaml
from moesweep.study.entries import Entry, entries, items
from moesweep.study.models import given_by_model
from moesweep.study.routing import misfit, with_texts
from moesweep.study.workload import SCHEMA, dense_twins, frame_of, with_derived

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
    data = read_yaml(provided(root, str(path)), file)
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
        sweep = _with_twins(sweep)
    return replace(sweep, workloads=sweep.workloads.select(*SCHEMA)), problems


@contextmanager
def named_at(root: Path, sweep: Path | str, file: str, path: str) -> Iterator[None]:
    """Where the block finds that there is no such sweep, place the problem at `path` of `file`."""
    missing = _shown_path(root, sweep)
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
            models[name] = given_by_model(root, name)
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
    workloads = with_derived(frame_of([entry.values for entry in listed]))
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
    first: dict[str, str] = {}
    problems = []
    for workload, entry in zip(listed["workload"], entries, strict=True):
        if workload not in first:
            first[workload] = entry.path
            continue
        message = f"{workload} is listed at {first[workload]} already"
        advice = "list it once; with `listed: 2` it counts twice"
        problems.append(Problem(file, entry.path, "duplicate", workload, message, advice, workload=workload))
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


def _with_twins(sweep: Sweep) -> Sweep:
    """Add the dense twins. One that the sweep also lists stays where it is listed."""
    listed, origins = sweep.workloads, sweep.origins
    moe = listed["kind"] == "moe"
    twins = dense_twins(listed)
    ids = listed.filter(moe).select("workload", twin=twins["workload"])
    listed = listed.drop("twin").join(ids, on="workload", how="left", maintain_order="left")
    twin_origins = origins.filter(moe).with_columns(workload=twins["workload"])
    every = pl.concat([listed.select(twins.columns), twins])
    return _distinct(sweep.file, every, pl.concat([origins, twin_origins]))
