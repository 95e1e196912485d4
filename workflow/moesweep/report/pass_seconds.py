"""When each stage runs each micro-batch: the schedule stepped through with the predicted seconds."""

from dataclasses import replace

import numpy as np
import polars as pl

from moesweep.shapes.steps import Array, order_of

OF_AN_OP = ("workload", "stage", "phase", "collective", "seconds", "num_microbatches", "layers")
"""The columns of an op that its pass's seconds are made from."""


def pass_seconds(ops: pl.DataFrame, workloads: pl.DataFrame, schedule: pl.DataFrame) -> tuple[Array, Array]:
    """Return start and end of each step of the schedule in seconds, steps × workloads.

    ops         costed ops of the workloads (OF_AN_OP)
    workloads   `workload` and `iteration_seconds` of workloads that all run this schedule

    A pass lasts as long as its ops one after the other; then all passes are stretched by one factor, so that
    the last one ends when the predicted iteration's closing communication and optimizer step begin. The
    factor stands for what sums of ops do not know: hidden communication and the host's launches.
    """
    columns = workloads.select("workload").with_row_index("column")
    stage = schedule["stage"].to_numpy()
    backward = (schedule["phase"].cast(pl.String) == "backward").to_numpy()
    rounds = int(((stage == 0) & ~backward).sum())
    lengths = _lengths(ops, columns, int(stage.max()) + 1) / rounds
    order = replace(order_of(schedule), pass_=2 * stage + backward)
    ends = order.ends(lengths)
    tails = columns.join(tail_seconds(ops), on="workload", how="left", maintain_order="left")
    last = ends.max(axis=0)
    working = workloads["iteration_seconds"].to_numpy() - tails["tail"].fill_null(0.0).to_numpy()
    factor = working / np.where(last > 0, last, 1.0)
    return (ends - lengths[order.pass_]) * factor, ends * factor


def _lengths(ops: pl.DataFrame, columns: pl.DataFrame, pp: int) -> Array:
    """Return the seconds of stages' passes of all micro-batches, (2 · stage + 1 if backward) × workloads."""
    sums = (
        ops.filter(pl.col("phase") != "optimizer")
        .group_by("workload", "stage", backward=pl.col("phase").cast(pl.String) == "backward")
        .agg(length=_occupied().sum())
        .join(columns, on="workload")
    )
    lengths = np.zeros((2 * pp, columns.height))
    lengths[2 * sums["stage"].to_numpy() + sums["backward"].to_numpy(), sums["column"].to_numpy()] = sums[
        "length"
    ].to_numpy()
    return lengths


def tail_seconds(ops: pl.DataFrame) -> pl.DataFrame:
    """Return `workload` and `tail`: how long its slowest stage works after its last micro-batch.

    That is reductions, the optimizer, gathers.
    """
    tails = ops.filter(pl.col("phase") == "optimizer").group_by("workload", "stage")
    return tails.agg(tail=_occupied().sum()).group_by("workload").agg(pl.col("tail").max())


def _occupied() -> pl.Expr:
    """Return the seconds of a row in one iteration; a send is waited for where it arrives."""
    waited = pl.when(pl.col("collective").eq_missing("send")).then(0.0).otherwise(pl.col("seconds"))
    return waited * pl.col("num_microbatches") * pl.col("layers")
