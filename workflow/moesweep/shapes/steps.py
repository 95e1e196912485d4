"""A pipeline's schedule stepped through: when each pass of each micro-batch ends."""

from collections.abc import Iterator
from typing import Any

import polars as pl


def step_ends(schedule: pl.DataFrame) -> list[Any]:
    """Return the end of each step, in the order of the rows and in the unit of `length`.

    Columns: `stage chunk phase microbatch`, and `length`, how long the step lasts. A step starts when its
    stage is free and its neighbour has finished: forward of virtual stage i waits for that of i - 1,
    backward for that of i + 1. Steps wait for one another, so this is a loop: a stage runs as far as it can,
    then the next one does.
    """
    pp, chunks = schedule["stage"].n_unique(), schedule["chunk"].n_unique()
    columns = ("at", "forward", "microbatch", "virtual", "length")
    rows = schedule.with_row_index("at").with_columns(
        virtual=pl.col("chunk") * pp + pl.col("stage"), forward=pl.col("phase") == "forward"
    )
    queues: list[Iterator[tuple[Any, ...]]] = [
        rows.filter(pl.col("stage") == stage).select(columns).iter_rows() for stage in range(pp)
    ]
    done: dict[tuple[bool, int, int], Any] = {}
    ends, free, waiting = [0] * schedule.height, [0] * pp, [next(queue, None) for queue in queues]
    while any(step is not None for step in waiting):
        for stage, queue in enumerate(queues):
            while (step := waiting[stage]) is not None:
                at, forward, microbatch, virtual, length = step
                source = virtual - 1 if forward else virtual + 1
                ready = done.get((forward, microbatch, source)) if 0 <= source < pp * chunks else 0
                if ready is None:
                    break
                free[stage] = max(free[stage], ready) + length
                ends[at] = done[forward, microbatch, virtual] = free[stage]
                waiting[stage] = next(queue, None)
    return ends
