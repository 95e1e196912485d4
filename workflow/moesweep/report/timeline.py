"""When each stage runs each micro-batch: the schedule stepped through with the predicted seconds."""

from collections.abc import Iterator
from typing import Any

import polars as pl


def pass_seconds(ops: pl.DataFrame, iteration_seconds: float, schedule: pl.DataFrame) -> pl.DataFrame:
    """Return the schedule with `start` and `end` of each step in seconds.

    A pass lasts as long as its ops one after the other; then all passes are stretched by one factor, so that
    the last one ends when the predicted iteration's closing communication and optimizer step begin. The
    factor stands for what sums of ops do not know: hidden communication and the host's launches.
    """
    length = (
        ops.filter(pl.col("phase") != "optimizer")
        .group_by("stage", "phase")
        .agg(length=_occupied().sum())
        .with_columns(pl.col("phase").cast(pl.String))
    )
    rounds = schedule.filter((pl.col("stage") == 0) & (pl.col("phase") == "forward")).height
    steps = schedule.with_columns(pl.col("phase").cast(pl.String)).join(
        length.with_columns(pl.col("length") / rounds),
        on=["stage", "phase"],
        how="left",
        maintain_order="left",
    )
    ends = pl.Series(_ends(steps.with_columns(pl.col("length").fill_null(0.0))), dtype=pl.Float64)
    factor = (iteration_seconds - tail_seconds(ops)) / float(ends.max() or 1.0)  # type: ignore[arg-type]
    return steps.with_columns(end=ends * factor).with_columns(start=pl.col("end") - pl.col("length") * factor)


def tail_seconds(ops: pl.DataFrame) -> float:
    """Return how long the slowest stage works after its last micro-batch: reductions, optimizer, gathers."""
    tails = ops.filter(pl.col("phase") == "optimizer").group_by("stage").agg(_occupied().sum().alias("tail"))
    return float(tails["tail"].max() or 0.0)  # type: ignore[arg-type]


def _occupied() -> pl.Expr:
    """Return the seconds of a row in one iteration; a send is waited for where it arrives."""
    waited = pl.when(pl.col("collective").eq_missing("send")).then(0.0).otherwise(pl.col("seconds"))
    return waited * pl.col("num_microbatches") * pl.col("layers")


def _ends(steps: pl.DataFrame) -> list[float]:
    """Return when each step ends, in the order of the rows.

    A step starts when its stage is free and its neighbour has finished: forward of virtual stage i waits
    for that of i - 1, backward for that of i + 1. Steps wait for one another, so this is a loop; a stage
    runs as far as it can, then the next one does.
    """
    pp, chunks = steps["stage"].n_unique(), steps["chunk"].n_unique()
    columns = ("at", "forward", "microbatch", "virtual", "length")
    rows = steps.with_row_index("at").with_columns(
        virtual=pl.col("chunk") * pp + pl.col("stage"), forward=pl.col("phase") == "forward"
    )
    queues: list[Iterator[tuple[Any, ...]]] = [
        rows.filter(pl.col("stage") == stage).select(columns).iter_rows() for stage in range(pp)
    ]
    done: dict[tuple[bool, int, int], float] = {}
    ends, free, waiting = [0.0] * steps.height, [0.0] * pp, [next(queue, None) for queue in queues]
    while any(step is not None for step in waiting):
        for stage, queue in enumerate(queues):
            while (step := waiting[stage]) is not None:
                at, forward, microbatch, virtual, length = step
                source = virtual - 1 if forward else virtual + 1
                ready = done.get((forward, microbatch, source)) if 0 <= source < pp * chunks else 0.0
                if ready is None:
                    break
                free[stage] = max(free[stage], ready) + length
                ends[at] = done[forward, microbatch, virtual] = free[stage]
                waiting[stage] = next(queue, None)
    return ends
