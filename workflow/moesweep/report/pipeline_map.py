"""The pipeline of every workload as SVG paths: both ends of the iteration, a line a stage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.pass_seconds import pass_seconds
from moesweep.shapes.schedule import SHAPE, schedules
from moesweep.shapes.steps import Array

WIDTH, LINE = 500, 10
"""Units of the drawing: width of each end, height of a stage."""
BESIDES = 5
"""Micro-batches shown at either end besides one for every stage."""
AT_ONCE = 1 << 21
"""Steps that are timed together."""


@dataclass(frozen=True)
class End:
    """One end of an iteration: the seconds it shows, and the paths of its passes by phase."""

    low_seconds: float
    high_seconds: float
    paths: dict[str, str]


def pipeline_maps(evidence: Evidence, ids: Sequence[str]) -> dict[str, list[End]]:
    """Return both ends of some workloads' iterations by workload; one end where that is all of it."""
    chosen = pl.col("workload").is_in(list(ids))
    workloads, ops = evidence.workloads.filter(chosen), evidence.ops.filter(chosen)
    found: dict[str, list[End]] = {}
    for alike in workloads.partition_by(SHAPE, maintain_order=True):
        schedule = schedules(alike[:1])
        for some in alike.iter_slices(max(1, AT_ONCE // schedule.height)):
            own = ops.filter(pl.col("workload").is_in(some["workload"].implode()))
            for id_, end in _ends(some, schedule, *pass_seconds(own, some, schedule)):
                found.setdefault(id_, []).append(end)
    return found


def _ends(
    workloads: pl.DataFrame, schedule: pl.DataFrame, starts: Array, ends: Array
) -> Iterator[tuple[str, End]]:
    """Yield the ends of workloads that run one schedule, from when each of its steps starts and ends."""
    total = workloads["iteration_seconds"].to_numpy()
    microbatches, pp = max(1, int(workloads["num_microbatches"][0])), int(workloads["pp"][0])
    window = total * (pp + BESIDES) / microbatches
    whole = 2 * (pp + BESIDES) >= microbatches
    views = [(0.0 * total, total)] if whole else [(0.0 * total, window), (total - window, total)]
    width = 2 * WIDTH if whole else WIDTH
    for low, high in views:
        drawn = _paths(schedule, starts, ends, low, high, width)
        closing = _across(ends.max(axis=0), low, high, width)
        for column, id_ in enumerate(workloads["workload"]):
            paths = drawn.get(column, {})
            if closing[column] < width:
                left, rest = closing[column], width - closing[column]
                paths = paths | {"closing": f"M{left} 0h{rest}v{pp * LINE}h-{rest}z"}
            yield id_, End(float(low[column]), float(high[column]), paths)


def _paths(
    schedule: pl.DataFrame, starts: Array, ends: Array, low: Array, high: Array, width: int
) -> dict[int, dict[str, str]]:
    """Return by column of `ends` the path of each phase's steps between two times."""
    column, step = np.nonzero(((ends > low) & (starts < high)).T)
    shown = schedule[step].select("phase", top=pl.col("stage") * LINE + 1)
    sides = {
        name: _across(times[step, column], low[column], high[column], width)
        for name, times in (("left", starts), ("right", ends))
    }
    frame = shown.with_columns(pl.Series(name, at) for name, at in {"column": column, **sides}.items())
    long = pl.col("right") - pl.col("left")
    path = pl.format("M{} {}h{}v{}h-{}z", "left", "top", long, pl.lit(LINE - 2), long)
    found: dict[int, dict[str, str]] = {}
    by_phase = frame.group_by("column", "phase", maintain_order=True).agg(path.str.join(""))
    for at, phase, drawn in by_phase.iter_rows():
        found.setdefault(at, {})[str(phase)] = drawn
    return found


def _across(times: Array, low: Array, high: Array, width: int) -> Array:
    """Return where times between two others lie on the drawing, whole units from its left."""
    share = (np.clip(times, low, high) - low) / (high - low)
    places: Array = np.rint(share * width).astype(np.int64)
    return places
