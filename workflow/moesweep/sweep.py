"""Enumeration: a sweep file's grids and rows as a frame of distinct workloads.

Snakemake calls this while it parses, so it must take well under half a second. It checks the sweep against
its schema and finds the models; whether the workloads make sense is validation's question.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.catalog import load_model
from moesweep.paths import inside
from moesweep.problems import BadInput, Problem, shown
from moesweep.routing import misfit, with_texts
from moesweep.schema import check, load_schema
from moesweep.workload import SCHEMA, dense_twins, resolve
from moesweep.yaml_reader import read_yaml

MAX_WORKLOADS = 100_000
_NEEDED = ("model", "world_size", "tp", "pp", "global_batch_size", "seq_length")


@dataclass(frozen=True)
class Entry:
    """One listed workload before it is resolved: its values, and where the sweep file says them.

    `path` is the grid or row, such as `grids[0]`; `own` are the keys given there, all others are from
    `options`.
    """

    path: str
    own: tuple[str, ...]
    values: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """An enumerated sweep.

    workloads  one row per distinct workload: those listed, in order of listing, then the twins; columns of
               moesweep.workload.SCHEMA
    origins    one row per workload, in the same order: workload, file, entry (`grids[0]`, `rows[3]`), own
    (keys given
               in that entry; the others stand under `options`). A twin has the origin of the first workload
               it belongs to.
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
    file = _shown_path(root, path)
    data = read_yaml(inside(root, path), file)
    problems = check(data, "sweep", file)
    models, unknown = _models(root, data, file)
    malformed = {problem.path for problem in problems}
    problems += [problem for problem in unknown if problem.path not in malformed]
    if not problems:
        data, problems = with_texts(data, root, file)
    if problems:
        raise BadInput(problems)
    entries = _entries(data, models, file)
    listed = resolve([entry.values for entry in entries])
    problems = _duplicates(listed, entries, file) + _misfits(root, listed, entries, file)
    if problems:
        raise BadInput(problems)
    origins = pl.DataFrame(
        {
            "workload": listed["workload"],
            "file": [file] * len(entries),
            "entry": [entry.path for entry in entries],
            "own": [list(entry.own) for entry in entries],
            "options": [list(data.get("options", {}))] * len(entries),
        },
        schema_overrides=dict.fromkeys(("own", "options"), pl.List(pl.String)),
    )
    return _with_twins(listed, origins, file) if data.get("twins") else Sweep(file, listed, origins)


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


def _entries(data: dict[str, Any], models: Mapping[str, dict[str, Any]], file: str) -> list[Entry]:
    """Every listed workload, in order: the grids' points, then the rows. Raises BadInput."""
    defaults = {
        key: part["default"] for key, part in load_schema("sweep")["$defs"].items() if "default" in part
    }
    options = defaults | data.get("options", {})
    items = [
        (f"{part}[{i}]", item) for part in ("grids", "rows") for i, item in enumerate(data.get(part, []))
    ]
    problems = [
        Problem(
            file,
            f"{path}.{key}",
            "missing_key",
            "",
            f"{key} is given neither here nor in options",
            f"add {key}",
        )
        for path, item in items
        for key in _NEEDED
        if key not in options | item
    ]
    total = sum(prod(len(value) for value in item.values() if isinstance(value, list)) for _, item in items)
    if total > MAX_WORKLOADS:
        message = f"the sweep lists {total} workloads; the limit is {MAX_WORKLOADS}"
        advice = "cost large spaces with `moesweep screen`"
        problems.append(Problem(file, "grids", "sweep_size", str(total), message, advice))
    entries = (
        [] if problems else [e for item in items for e in _points(*item, options, models, file, problems)]
    )
    if problems:
        raise BadInput(dict.fromkeys(problems))
    return entries


def _points(
    path: str,
    own: Mapping[str, Any],
    options: Mapping[str, Any],
    models: Mapping[str, dict[str, Any]],
    file: str,
    problems: list[Problem],
) -> Iterator[Entry]:
    """The workloads of one grid or row: the product of its lists, the schema's first key varying slowest."""
    values = {**options, **own}
    keys = [key for key in load_schema("sweep")["$defs"] if key in values]
    for choice in product(*(value if isinstance(value := values[key], list) else [value] for key in keys)):
        point = dict(zip(keys, choice, strict=True))
        point = models[point["model"]] | point
        if point["etp"] == "tp":
            point["etp"] = point["tp"]
        if isinstance(point["global_batch_size"], dict):
            point["global_batch_size"] = point["global_batch_size"]["per_gpu"] * point["world_size"]
        # ep comes last: its rules depend on the other values.
        for ep in _expert_degrees(point, f"{path}.ep", file, problems):
            yield Entry(path, tuple(own), point | {"ep": ep})


def _expert_degrees(point: Mapping[str, Any], path: str, file: str, problems: list[Problem]) -> list[int]:
    """Values of ep at one point: as given, or gcd(num_experts, world_size / (q * pp)) for each named q."""
    ep = point["ep"]
    if isinstance(ep, int):
        return [ep]
    degrees = []
    for q in [point["tp"]] if ep == "largest" else ep["largest_for_tp"]:
        whole, remainder = divmod(point["world_size"], q * point["pp"])
        if remainder:
            message = f"world_size {point['world_size']} is not a multiple of tp {q} * pp {point['pp']}"
            problems.append(Problem(file, path, "ep_rule", shown(ep), f"no largest ep: {message}"))
        else:
            degrees.append(gcd(point["num_experts"], whole) if point["num_experts"] else 1)
    return list(dict.fromkeys(degrees))


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


def _with_twins(listed: pl.DataFrame, origins: pl.DataFrame, file: str) -> Sweep:
    """Add the dense twins. One that the sweep also lists itself stays where it is listed."""
    moe = listed["kind"] == "moe"
    twins = dense_twins(listed)
    ids = listed.filter(moe).select("workload", twin=twins["workload"])
    listed = listed.drop("twin").join(ids, on="workload", how="left", maintain_order="left").select(*SCHEMA)
    twin_origins = origins.filter(moe).with_columns(workload=twins["workload"])
    dense = pl.concat([listed.filter(~moe), twins])
    dense_origins = pl.concat([origins.filter(~moe), twin_origins])
    problems = _twin_conflicts(dense, dense_origins, file)
    if problems:
        raise BadInput(problems)
    fresh = twins.join(listed, on="workload", how="anti", maintain_order="left")
    return Sweep(
        file,
        pl.concat([listed, fresh]).unique("workload", keep="first", maintain_order=True),
        pl.concat([origins, twin_origins]).unique("workload", keep="first", maintain_order=True),
    )


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
