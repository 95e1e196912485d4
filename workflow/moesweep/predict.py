"""Predict lists of training runs, on the code path of the sweep: programs, costs."""

import sys
from pathlib import Path

import polars as pl

from moesweep.edge.outputs import folders_only_if_written, output_file
from moesweep.edge.problems import BadInput, Problem, collect
from moesweep.evaluate.costs import costed_on
from moesweep.store.tablefile import dtypes, whole
from moesweep.study import run_columns
from moesweep.study.catalog import in_project, load_cluster
from moesweep.study.catalog_files import catalogued
from moesweep.study.configured import Configuration
from moesweep.study.runs import Runs, read_runs


def cluster_names(root: Path) -> list[str]:
    """Return the names of the catalogue's clusters; raise BadInput below a project's root."""
    in_project(root)
    return catalogued(root, "cluster")


def predict(path: Path, written: str, root: Path, keep_going: bool) -> int:
    """Write the runs of a CSV file with their predicted cost columns; return how many could not be modelled.

    Raises BadInput with every fault, unless `keep_going`: then faulty runs are written with their
    faults in the column `problem` and no costs. `written` is the file to write as the user names it.
    """
    problems: list[Problem] = []
    out = collect(problems, output_file, written, [path])
    found = collect(problems, predicted, path, root, keep_going)
    if out is None or found is None:
        raise BadInput(problems)
    table, runs = found
    faults = _faults(runs)
    with folders_only_if_written(out), whole(out) as partial:
        table.write_csv(partial)
    print(*(problem.line() for problem in faults), sep="\n", file=sys.stderr, end="\n" if faults else "")
    if runs.unread:
        print(f"{path}: columns that pass through unread: {', '.join(runs.unread)}")
    print(*(f"{path}: {line}" for line in covered(table)), sep="\n")
    return len(runs.problems)


def covered(table: pl.DataFrame) -> list[str]:
    """Return how many predicted runs resemble measured ones, and what takes the others out, a line each."""
    known = table.filter(pl.col("validated").is_not_null())
    others = known.filter(pl.col("validated") == "outside")
    whys = others.group_by("validated_why").len().sort("len", "validated_why", descending=[True, False])
    return [
        f"{known.height - others.height} of {known.height} runs inside the range of measured runs",
        *(f"outside: {many}: {why}" for why, many in whys.rows()),
    ]


def predicted(path: Path, root: Path, keep_going: bool = False) -> tuple[pl.DataFrame, Runs]:
    """Return the runs of a CSV file with their predicted cost columns, what is given as text; and the runs.

    A measured `iteration_seconds` passes through as `measured_iteration_seconds` and is never read.
    Raises BadInput as `predict` does.
    """
    runs = read_runs(path, cluster_names(root), root, _configured_cluster(root))
    names = [name for name in dtypes("costs") if name != "workload"]
    faults, clashes = _faults(runs), _clashes(runs.given.columns, names, str(path))
    if clashes or (faults and not keep_going):
        raise BadInput([*clashes, *faults])
    used = runs.workloads["cluster"].unique().sort().to_list()
    clusters = [load_cluster(root, name) for name in used]
    costs = costed_on(runs.workloads, clusters).select(runs.workloads["row"], *names) if used else None
    return _joined(runs, costs, names), runs


def _faults(runs: Runs) -> list[Problem]:
    return [problem for row in sorted(runs.problems) for problem in runs.problems[row]]


def template(root: Path) -> str:
    """Return a list of one run, on the configured cluster or the catalogue's first, as CSV text."""
    return run_columns.template(_configured_cluster(root) or cluster_names(root)[0])


def _configured_cluster(root: Path) -> str:
    """The cluster of runs that name none: the configuration's; empty where there is none."""
    return str(Configuration(root).sound()[0].get("cluster", ""))


def _joined(runs: Runs, costs: pl.DataFrame | None, names: list[str]) -> pl.DataFrame:
    given = runs.given.rename({name: _renamed(name) for name in names if name in runs.given.columns})
    if costs is None:
        costs = pl.DataFrame(schema={"row": pl.Int64, **{name: dtypes("costs")[name] for name in names}})
    faults = {row: "; ".join(map(_without_file, found)) for row, found in runs.problems.items()}
    rows = pl.DataFrame({"row": pl.int_range(given.height, dtype=pl.Int64, eager=True)})
    added = rows.join(costs, on="row", how="left", maintain_order="left").with_columns(
        problem=pl.col("row").replace_strict(faults, default=None, return_dtype=pl.String)
    )
    return given.hstack(added.drop("row"))


def _renamed(name: str) -> str:
    """What a given column is called beside the predicted one of its name."""
    return f"measured_{name}"


def _clashes(given: list[str], names: list[str], file: str) -> list[Problem]:
    """Return a problem for each given column whose name the prediction needs for another."""
    reasons = {
        _renamed(name): f"the column {name} is written by that name" for name in names if name in given
    }
    reasons["problem"] = "the prediction writes a column by that name"
    advice = "rename or remove it; if the file is itself a prediction, predict the list that it was made from"
    return [
        Problem(file, f"line 1, column {name}", "reserved", name, f"{name} is taken: {reason}", advice)
        for name, reason in reasons.items()
        if name in given
    ]


def _without_file(problem: Problem) -> str:
    return Problem("", problem.path, problem.rule, problem.value, problem.message, problem.suggestion).line()
