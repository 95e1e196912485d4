"""Measured training runs as the fit sees them: their programs, their times, their groups and weights."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from moesweep.cost.model import cost
from moesweep.edge.problems import BadInput
from moesweep.study.runs import read_runs
from moesweep.trace.programs import folded

TARGETS = {
    "Korthikanti2022": 2.5,
    "Narayanan2021": 4.0,
    "vTrain-multi": 8.0,
    "vTrain-single": 8.0,
    "BLOOM": 5.5,
    "SimuMax dense": 2.5,
    "SimuMax MoE": 8.0,
}
"""Error in percent that each set should stay below with its group left out; the fit weighs by it."""


@dataclass(frozen=True)
class Measured:
    """Runs with their folded programs.

    runs     workload columns, `cluster`, `measured` seconds, `group` (a key of TARGETS), `weight`, and the
             words that group them when they are left out: `source`, `size`, `tp_degree`
    folded   their programs
    """

    runs: pl.DataFrame
    folded: pl.DataFrame

    def where(self, condition: pl.Expr) -> "Measured":
        """Return the runs that meet a condition, with weights of their own."""
        runs = weighted(self.runs.filter(condition))
        return Measured(runs, self.folded.join(runs.select("workload"), on="workload", how="semi"))

    def predicted(self, constants: pl.DataFrame) -> pl.Series:
        """Return the predicted seconds of the runs, with one row of constants per cluster."""
        frame = self.runs.join(constants, on="cluster", maintain_order="left")
        return cost(self.folded, frame).workloads["iteration_seconds"]


def read_measured(path: Path, clusters: list[str]) -> Measured:
    """Read runs with their `source` and measured `iteration_seconds`; raise BadInput if any is faulty."""
    runs = read_runs(path, clusters)
    if runs.problems:
        raise BadInput(problem for found in runs.problems.values() for problem in found)
    source = runs.given["source"]
    frame = runs.workloads.with_columns(
        source, runs.given["iteration_seconds"].cast(pl.Float64).alias("measured")
    )
    simumax = pl.col("source") == "SimuMax"
    sort = pl.when(pl.col("kind") == "moe").then(pl.lit(" MoE")).otherwise(pl.lit(" dense"))
    vtrain = pl.col("source").str.starts_with("vTrain")
    frame = frame.with_columns(
        group=pl.when(simumax).then(pl.col("source") + sort).otherwise("source"),
        size=pl.when(vtrain).then(pl.format("vTrain h{}", "hidden_size")),
        tp_degree=pl.format("tp{}", "tp"),
        # vTrain composed its single-node times from one cell per tp, hidden size and micro-batch.
        cell=pl.when(pl.col("source") == "vTrain-single")
        .then(pl.format("{} {} {}", "tp", "hidden_size", "micro_batch_size"))
        .otherwise("workload"),
    )
    return Measured(weighted(frame), folded(frame))


def weighted(runs: pl.DataFrame) -> pl.DataFrame:
    """Add `weight`: a group of n cells counts sqrt(n)/target, its cells alike, the runs of a cell alike."""
    cells, size = pl.col("cell").n_unique().over("group"), pl.len().over("group", "cell")
    target = pl.col("group").replace_strict(TARGETS, default=8.0, return_dtype=pl.Float64)
    return runs.with_columns(weight=1 / (cells.sqrt() * size * target))


def thinned(measured: Measured, per_cell: int) -> Measured:
    """Return at most so many runs of each cell, evenly spread: composed cells hold little more."""
    place, of = pl.int_range(pl.len()).over("group", "cell"), pl.len().over("group", "cell")
    # The runs at which place · per_cell / n passes a whole number.
    chosen = (place * per_cell) // of != ((place - 1) * per_cell) // of
    return measured.where(chosen)
