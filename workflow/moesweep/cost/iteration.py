"""One training iteration from its stages: pipeline, data-parallel communication, optimizer.

1F1B with unequal stages lasts m · slowest + (sum of stages - slowest)/v: the first micro-batch
fills the pipeline, then the slowest stage sets the pace, and v interleaved chunks shorten the fill
(Narayanan et al. 2021, arXiv:2104.04473, section 2.2; docs/costs.md compares it with the schedule
run step by step). Gradient reduction and parameter gathering are not overlapped, Megatron's default.
"""

import polars as pl

from moesweep.cost.stages import COMM
from moesweep.shapes.communication import COMM_KINDS


def seconds_of_a_stage() -> dict[str, pl.Expr]:
    """Return what a micro-batch takes and what follows the last one, over the passes of a stage.

    `seconds exposed <kind>_comm` of a micro-batch; `tail_exposed tail_<kind>_comm tail_compute` once
    an iteration (communication, optimizer step).
    """
    weighted = pl.col("repeats")
    repeated = pl.col("phase") != "optimizer"
    tail = ("exposed", "compute", *COMM)
    return {
        **{part: (pl.col(part) * weighted * repeated).sum() for part in ("seconds", "exposed", *COMM)},
        **{f"tail_{part}": (pl.col(part) * ~repeated).sum() for part in tail},
    }


def stage_seconds(passes: pl.DataFrame) -> pl.DataFrame:
    """Return one row per workload and stage, with the columns of `seconds_of_a_stage`."""
    # Not group_by: polars shares out plain sums among its threads; the last digit would depend on how many.
    keys = ("workload", "stage")
    sums = {name: seconds.over(keys) for name, seconds in seconds_of_a_stage().items()}
    return passes.select(*keys, **sums).unique(keys, keep="first", maintain_order=True)


def seconds_of_an_iteration() -> dict[str, pl.Expr]:
    """Return an iteration's seconds and their parts on the rank of its slowest stage, over its stages."""
    m, chunks = pl.col("num_microbatches").first(), pl.col("virtual_pipeline").first()
    slowest = pl.col("seconds").arg_max()
    tail = (pl.col("tail_exposed") + pl.col("tail_compute")).alias("tail_seconds")

    def there(expression: pl.Expr) -> pl.Expr:
        return expression.get(slowest)

    fill = (pl.col("seconds").sum() - pl.col("seconds").max()) / chunks
    pipeline = (m * pl.col("seconds").max() + fill.alias("fill_seconds")).alias("pipeline_seconds")
    per_kind = {
        f"{kind}_comm_seconds": there(m * pl.col(f"{kind}_comm") + pl.col(f"tail_{kind}_comm"))
        for kind in COMM_KINDS
    }
    return {
        "iteration_seconds": pipeline + tail.max(),
        "compute_seconds": there(m * (pl.col("seconds") - pl.col("exposed"))),
        **per_kind,
        "exposed_comm_seconds": there(m * pl.col("exposed") + pl.col("tail_exposed")),
        "optimizer_seconds": there(pl.col("tail_compute")),
    }


def bubble() -> dict[str, pl.Expr]:
    """Return what remains of an iteration: filling, draining, and waiting for stages with a longer tail.

    Without a pipeline nothing remains, and a difference of rounded sums may then be a little below 0.
    """
    busy = pl.col("compute_seconds") + pl.col("exposed_comm_seconds") + pl.col("optimizer_seconds")
    return {"bubble_seconds": pl.max_horizontal(pl.col("iteration_seconds") - busy, 0.0)}


def bubble_share() -> dict[str, pl.Expr]:
    """Return the bubble as a fraction of the iteration."""
    return {"bubble_fraction": pl.col("bubble_seconds") / pl.col("iteration_seconds")}


def iterations(stages: pl.DataFrame) -> pl.DataFrame:
    """Return the seconds of DESIGN section 6 per workload.

    Columns of `stages`: those of `stage_seconds`, and `num_microbatches virtual_pipeline`.
    """
    frame = stages.group_by("workload", maintain_order=True).agg(**seconds_of_an_iteration())
    return frame.with_columns(**bubble()).with_columns(**bubble_share())
