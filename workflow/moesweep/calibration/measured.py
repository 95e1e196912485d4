"""Measured training runs as the fit sees them: their programs, their times, their groups and weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from moesweep.edge.problems import BadInput, Problem, collect
from moesweep.evaluate.batch import Batch
from moesweep.evaluate.costs import batch_of
from moesweep.evaluate.factored import iteration_seconds
from moesweep.study.runs import Runs, read_runs

TARGETS = {
    "Korthikanti2022": 2.5,
    "Narayanan2021": 5.0,
    "vTrain-multi": 7.5,
    "vTrain-single": 7.0,
    "BLOOM": 5.0,
    "SimuMax dense": 2.5,
    "SimuMax MoE": 2.0,
    "SimuMax-B200 dense": 5.0,
    "SimuMax-B200 MoE": 8.0,
    "Megatron-Core CI": 8.0,
    "ParallelFolding": 8.0,
    "Megatron-Bridge": 12.0,
    "Megatron-LM 756": 12.0,
}
"""Error in percent that each set should stay below with its group left out; the fit weighs by it.

Narayanan's does not state the interleaving of its runs, some 3% of them.
"""

UNSEEN = (*("SimuMax-B200 MoE", "Megatron-Core CI", "ParallelFolding", "Megatron-Bridge", "Megatron-LM 756"),)
"""Sets that no fit sees: few runs, or of configurations that are known in part."""

PADDED = ("SimuMax",)
"""Sources whose scripts pad every expert to one capacity: their loads are balanced."""


@dataclass(frozen=True)
class Measured:
    """Runs as they are evaluated.

    runs     workload columns, `cluster`, `measured` seconds, `group` (a key of TARGETS), `weight`, and the
             words that group them when they are left out: `source`, `size`, `tp_degree`
    """

    runs: pl.DataFrame
    _batch: list[Batch] = field(default_factory=list, repr=False, compare=False)

    def where(self, condition: pl.Expr) -> "Measured":
        """Return the runs that meet a condition, with weights of their own."""
        return Measured(weighted(self.runs.filter(condition)))

    def predicted(self, constants: pl.DataFrame) -> pl.Series:
        """Return the predicted seconds of the runs, with one row of constants per cluster."""
        if not self._batch:
            # Kept, with the passes that no moved constant concerns.
            self._batch.append(batch_of(self.runs, constants))
        batch = self._batch[0].on(constants.drop("cluster"))
        return pl.Series("iteration_seconds", iteration_seconds(batch))


def read_measured(paths: Sequence[Path], clusters: list[str]) -> Measured:
    """Read runs with their `source` and measured `iteration_seconds`; raise BadInput if any is faulty."""
    problems: list[Problem] = []
    frames = []
    for path in paths:
        runs = collect(problems, read_runs, path, clusters)
        if runs is not None:
            problems += [problem for found in runs.problems.values() for problem in found]
            frames.append(runs.workloads.with_columns(_told(runs)))
    if problems:
        raise BadInput(problems)
    numbered = pl.concat(frames).with_columns(workload=pl.int_range(pl.len()).cast(pl.String))
    return Measured(weighted(grouped(numbered)))


def _told(runs: Runs) -> list[pl.Series]:
    """What a list says of its runs beside their workloads, where all of them are sound."""
    if runs.problems:
        return []
    return [runs.given["source"], runs.given["iteration_seconds"].cast(pl.Float64).alias("measured")]


def grouped(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the set that each run is of, and the words by which groups of runs are left out."""
    source, kind = pl.col("source"), pl.col("kind")
    sort = pl.when(kind == "moe").then(pl.lit(" MoE")).otherwise(pl.lit(" dense"))
    # One source alone ran on B200: without it nothing is known of them, so parts of it are left out.
    alone = source.str.ends_with("B200")
    padded = source.is_in(PADDED) & (kind == "moe")
    return frame.with_columns(
        routing=pl.when(padded).then(pl.lit("balanced")).otherwise("routing"),
        group=pl.when(source.str.starts_with("SimuMax")).then(source + sort).otherwise("source"),
        source=pl.when(alone).then(pl.format("{} tp{}", "source", "tp")).otherwise("source"),
        size=pl.when(source.str.starts_with("vTrain")).then(pl.format("vTrain h{}", "hidden_size")),
        tp_degree=pl.format("tp{}", "tp"),
        # vTrain composed its single-node times from one cell per tp, hidden size and micro-batch.
        cell=pl.when(source == "vTrain-single")
        .then(pl.format("{} {} {}", "tp", "hidden_size", "micro_batch_size"))
        .otherwise("workload"),
    )


def of_every_set(measured: Measured, paths: Sequence[Path]) -> None:
    """Raise BadInput if lists lack one of the sets of TARGETS: some constants are known from it alone."""
    file = " ".join(map(str, paths))
    missing = [group for group in TARGETS if group not in set(measured.runs["group"])]
    unknown = sorted(set(measured.runs["group"]) - TARGETS.keys())
    problems = [
        Problem(file, "column source", "missing_source", group, f"no run of {group}: the fit needs one")
        for group in missing
    ]
    known = "known: " + ", ".join(TARGETS)
    problems += [
        Problem(file, "column source", "unknown_source", group, f"{group} is no set of the fit", known)
        for group in unknown
    ]
    if problems:
        raise BadInput(problems)


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
