"""The pipeline of every workload as SVG paths: both ends of the iteration, a line a stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.pass_seconds import pass_seconds

WIDTH, LINE = 500, 10
"""Units of the drawing: width of each end, height of a stage."""
BESIDES = 5
"""Micro-batches shown at either end besides one for every stage."""


@dataclass(frozen=True)
class End:
    """One end of an iteration: the seconds it shows, and the paths of its passes by phase."""

    low_seconds: float
    high_seconds: float
    paths: dict[str, str]


def pipeline_maps(evidence: Evidence, ids: Sequence[str]) -> dict[str, list[End]]:
    """Return both ends of some workloads' iterations by workload; one end where that is all of it."""
    chosen = pl.col("workload").is_in(list(ids))
    ops = evidence.ops.filter(chosen).partition_by("workload", as_dict=True, maintain_order=True)
    return {
        row["workload"]: _ends(ops[(row["workload"],)], row, evidence.schedule(row["workload"]))
        for row in evidence.workloads.filter(chosen).iter_rows(named=True)
    }


def _ends(ops: pl.DataFrame, row: dict[str, Any], schedule: pl.DataFrame) -> list[End]:
    steps = pass_seconds(ops, row["iteration_seconds"], schedule)
    total, microbatches = row["iteration_seconds"], max(1, row["num_microbatches"])
    window = total * (row["pp"] + BESIDES) / microbatches
    if 2 * window >= total:
        return [_end(steps, row["pp"], 0.0, total, 2 * WIDTH)]
    return [_end(steps, row["pp"], 0.0, window, WIDTH), _end(steps, row["pp"], total - window, total, WIDTH)]


def _end(steps: pl.DataFrame, pp: int, low: float, high: float, width: int) -> End:
    def across(column: str) -> pl.Expr:
        return ((pl.col(column).clip(low, high) - low) / (high - low) * width).round().cast(pl.Int64)

    left, right, top = across("start"), across("end"), pl.col("stage") * LINE + 1
    path = pl.format("M{} {}h{}v{}h-{}z", left, top, right - left, pl.lit(LINE - 2), right - left)
    shown = steps.filter((pl.col("end") > low) & (pl.col("start") < high))
    by_phase = shown.group_by("phase").agg(path.str.join("")).rows()
    finish = across("end").max()
    closing = steps.select(finish).item()
    paths = {str(phase): str(drawn) for phase, drawn in by_phase}
    if closing < width:
        paths["closing"] = f"M{closing} 0h{width - closing}v{pp * LINE}h-{width - closing}z"
    return End(low, high, paths)
