"""The library in Python: what `import moesweep` gives, as functions over polars frames.

Every function takes `project`, the folder of a study (with config/), and needs none: what a folder lacks of
the catalogue comes with the package. What a user got wrong raises `BadInput`, whose `problems` say all of it.
"""

from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
from moesweep.explain.command import explained
from moesweep.explain.node import Node
from moesweep.predict import predicted
from moesweep.screen.best import searched
from moesweep.screen.choice import Choice
from moesweep.screen.run import clusters_of, screened
from moesweep.store.layout import TRACE_TABLES, Results
from moesweep.store.tablefile import read_table
from moesweep.study import models
from moesweep.study.catalog import Cluster, with_memory
from moesweep.study.catalog import load_cluster as _load_cluster
from moesweep.study.configured import Configuration
from moesweep.study.space import load_space
from moesweep.tables.registry import TABLES

__all__ = [
    "BadInput",
    "Cluster",
    "Node",
    "best",
    "explain",
    "load_cluster",
    "load_model",
    "predict",
    "read",
    "scan",
    "screen",
]

Pathlike = str | PathLike[str]


def load_model(name: str, *, project: Pathlike = ".") -> dict[str, Any]:
    """Return every key of a model of the catalogue, such as `hidden_size`, with defaults filled in.

    Raises BadInput for a model that is not there, with the nearest names.
    """
    return models.load_model(Path(project), name)


def load_cluster(name: str, *, project: Pathlike = ".") -> Cluster:
    """Return a cluster of the catalogue: `value(name)` of a constant in base units, `constants` with sources.

    Raises BadInput for a cluster that is not there, with the nearest names.
    """
    return _load_cluster(Path(project), name)


def predict(runs: pl.DataFrame | Pathlike, *, project: Pathlike = ".") -> pl.DataFrame:
    """Return a list of training runs with all cost columns beside: `iteration_seconds` and so on.

    runs   one row a run: a frame, or a CSV file. Columns are options (docs/runs.md), all with defaults but
           world_size, global_batch_size, seq_length and a `model`, or the sizes of one; others pass through

    Experts are taken to be loaded unevenly unless `routing` says otherwise. Raises BadInput with every fault.
    """
    root = Path(project)
    if not isinstance(runs, pl.DataFrame):
        return predicted(Path(runs), root)[0]
    with TemporaryDirectory() as folder:
        path = Path(folder, "runs.csv")
        runs.write_csv(path)
        try:
            found, _ = predicted(path, root)
        except BadInput as error:
            raise BadInput([replace(each, file="runs") for each in error.problems]) from None
    measured = {name: f"measured_{name}" for name in runs.columns if f"measured_{name}" in found.columns}
    return found.with_columns(runs.rename(measured))


def screen(
    space: Pathlike,
    *,
    top: int | None = None,
    by: str = "iteration_seconds",
    fits: bool = False,
    pareto: bool = False,
    project: Pathlike = ".",
) -> pl.DataFrame:
    """Return every legal point of a space, costed: its layout, `workload`, `cluster`, the cost columns.

    space    a sweep file (docs/sweeps.md), from `project`
    top      the best so many alone, by the column `by`: the least, of tokens, flops and MFU the most
    fits     only those that fit the memory of a GPU
    pareto   only those that no other betters in time, memory and price at once

    It is made in memory: for tens of millions of points use the command, which writes a file. Raises
    BadInput where the space is none, or no point of it is legal.
    """
    configuration = _configuration(project)
    found = load_space(Path(project), str(space))
    return screened(found, clusters_of(found, configuration), Choice(top, by, fits, pareto))


def best(
    model: str,
    gpus: int,
    *,
    cluster: str | None = None,
    memory: str | None = None,
    top: int = 10,
    project: Pathlike = ".",
    **given: Any,
) -> pl.DataFrame:
    """Return the fastest layouts of a model on some GPUs that fit, the best first; empty where none fits.

    cluster   a cluster of the catalogue; by default the configured one
    memory    of a GPU, such as "40GiB", instead of the cluster's
    given     keys of a sweep to take as they are: num_experts=16, tp=8. All else of a layout is searched

    Raises BadInput for what is not known, and where no layout is legal.
    """
    configuration = _configuration(project, cluster=cluster)
    machine = configuration.cluster()
    if memory is not None:
        machine = with_memory(machine, memory)
    space = searched(configuration, model, gpus, given)
    return screened(space, {machine.name: machine}, Choice(top, fits=True))


def explain(workload: str, metric: str, *, results: Pathlike | None = None, project: Pathlike = ".") -> Node:
    """Return a number of a workload with the formula behind it, as a tree.

    workload   its id, a unique beginning of it, or a pattern with * that it alone fits
    metric     a cost column such as `iteration_seconds`

    A node has `name`, `value` and `unit`; `children` are the numbers that its formula is made of, down to
    constants and configured values, whose `origin` says which file gives them. Raises BadInput.
    """
    configuration = _configuration(project, results=None if results is None else str(results))
    return explained(configuration, workload, metric)[1]


def read(table: str, *, results: Pathlike = "results") -> pl.DataFrame:
    """Return a table of finished results: `workloads`, `costs`, `links`, or one of results/tables.

    Raises BadInput for a table that there is not, and for a file that is missing or of another release.
    """
    folder = Results(Path(results))
    single = {
        "workloads": folder.workloads,
        "validation": folder.validation,
        "costs": folder.costs,
        "sensitivity": folder.sensitivity,
        "links": folder.links,
    }
    if table in single:
        return read_table(single[table], table)
    if table in TABLES:
        return read_table(folder.table(table, "parquet"), table)
    raise BadInput([_unknown(table, [*single, *TABLES], f"; traces are read by scan({table!r})")])


def scan(table: str = "ops", *, results: Pathlike = "results") -> pl.LazyFrame:
    """Return a trace table of all workloads, unread: filter by `workload` before you collect it.

    table   ops (every op of every rank), programs, schedules, ranks, groups or routing

    Raises BadInput for a table that there is not, and where there is no trace.
    """
    if table not in TRACE_TABLES:
        raise BadInput([_unknown(table, TRACE_TABLES, "")])
    folder = Results(Path(results)).root
    files = sorted(folder.glob(f"traces/{table}/workload=*/{table}.parquet"))
    if not files:
        place = str(folder / "traces" / table)
        raise BadInput([Problem(place, "", "missing_file", "", "there is no trace", "run moesweep run")])
    return pl.scan_parquet(files, hive_partitioning=True, glob=False)


def _unknown(table: str, known: Iterable[str], more: str) -> Problem:
    known = list(known)
    advice = did_you_mean(table, known)
    return Problem("", "table", "known", shown(table), f"there is no table {shown(table)}{more}", advice)


def _configuration(project: Pathlike, **settings: str | None) -> Configuration:
    """Return what a project's configuration says, or the package's where there is none; settings go first."""
    return Configuration(Path(project), settings={k: v for k, v in settings.items() if v is not None})
