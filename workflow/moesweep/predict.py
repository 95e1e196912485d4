"""Predict lists of training runs, on the code path of the sweep: programs, costs."""

import sys
from pathlib import Path

import polars as pl

from moesweep.catalog import Cluster, load_cluster
from moesweep.cost.model import cost
from moesweep.cost.uncertainty import banded, farther_ends, sensitivity
from moesweep.problems import BadInput, Problem
from moesweep.runs import Runs, read_runs
from moesweep.tablefile import dtypes, whole
from moesweep.trace.programs import folded


def cluster_names(root: Path) -> list[str]:
    """Return the names of the catalogue's clusters."""
    return sorted(path.stem for path in (root / "config/clusters").glob("*.yaml"))


def constants_frame(clusters: list[Cluster]) -> pl.DataFrame:
    """Return one row per cluster: its name in `cluster`, and one column per constant, in base units."""
    return pl.DataFrame([{"cluster": cluster.name} | cluster.values for cluster in clusters])


def predicted(workloads: pl.DataFrame, clusters: list[Cluster]) -> pl.DataFrame:
    """Return the cost columns of workloads that name their `cluster`, in the same order."""
    frame = workloads.join(constants_frame(clusters), on="cluster", maintain_order="left")
    ranges = pl.DataFrame([{"cluster": c.name} | farther_ends(c.constants) for c in clusters])
    ends = workloads.select("cluster").join(ranges, on="cluster", maintain_order="left")
    programs = folded(workloads)
    return banded(cost(programs, frame).workloads, sensitivity(programs, frame, ends))


def predict(path: Path, out: Path, root: Path, keep_going: bool) -> int:
    """Write the runs of a CSV file with their predicted cost columns; return how many could not be modelled.

    A measured `iteration_seconds` passes through as `measured_iteration_seconds` and is never read.
    Raises BadInput with every fault, unless `keep_going`: then faulty runs are written with their
    faults in the column `problem` and no costs.
    """
    runs = read_runs(path, cluster_names(root))
    faults = [problem for row in sorted(runs.problems) for problem in runs.problems[row]]
    if faults and not keep_going:
        raise BadInput(faults)
    used = runs.workloads["cluster"].unique().sort().to_list()
    clusters = [load_cluster(root, name) for name in used]
    names = [name for name in dtypes("costs") if name != "workload"]
    costs = predicted(runs.workloads, clusters).select("row", *names) if used else None
    with whole(out) as partial:
        _joined(runs, costs, names).write_csv(partial)
    print(*(problem.line() for problem in faults), sep="\n", file=sys.stderr, end="\n" if faults else "")
    return len(runs.problems)


def _joined(runs: Runs, costs: pl.DataFrame | None, names: list[str]) -> pl.DataFrame:
    given = runs.given.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    given = given.rename({name: f"measured_{name}" for name in names if name in given.columns})
    if costs is None:
        costs = pl.DataFrame(schema={"row": pl.Int64, **{name: dtypes("costs")[name] for name in names}})
    faults = {row: "; ".join(map(_without_file, found)) for row, found in runs.problems.items()}
    frame = given.join(costs, on="row", how="left", maintain_order="left")
    return frame.with_columns(
        problem=pl.col("row").replace_strict(faults, default=None, return_dtype=pl.String)
    ).drop("row")


def _without_file(problem: Problem) -> str:
    return Problem("", problem.path, problem.rule, problem.value, problem.message, problem.suggestion).line()
