"""When each stage runs each micro-batch: the schedule stepped through with the predicted seconds."""

import polars as pl

from moesweep.shapes.steps import step_ends

OF_AN_OP = ("stage", "phase", "collective", "seconds", "num_microbatches", "layers")
"""The columns of an op that its pass's seconds are made from."""


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
    ends = pl.Series(step_ends(steps.with_columns(pl.col("length").fill_null(0.0))), dtype=pl.Float64)
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
