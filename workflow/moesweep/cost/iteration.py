"""One training iteration from its stages: pipeline, data-parallel communication, optimizer.

1F1B with unequal stages lasts m · slowest + (sum of stages - slowest)/v: the first micro-batch
fills the pipeline, then the slowest stage sets the pace, and v interleaved chunks shorten the fill
(Narayanan et al. 2021, arXiv:2104.04473, section 2.2; docs/costs.md compares it with the schedule
run step by step). Gradient reduction and parameter gathering are not overlapped, Megatron's default.
"""

import polars as pl

from moesweep.cost.stages import COMM_KINDS

_COMM = [f"{kind}_comm" for kind in COMM_KINDS]


def stage_seconds(passes: pl.DataFrame) -> pl.DataFrame:
    """Return one row per workload and stage: what a micro-batch takes, and what follows the last one.

    `seconds exposed <kind>_comm` of a micro-batch; `tail_exposed tail_<kind>_comm tail_compute` once
    an iteration (communication, optimizer step).
    """
    weighted = pl.col("repeats")
    repeated = pl.col("phase") != "optimizer"
    return passes.group_by("workload", "stage", maintain_order=True).agg(
        *((pl.col(part) * weighted * repeated).sum() for part in ("seconds", "exposed", *_COMM)),
        *((pl.col(part) * ~repeated).sum().alias(f"tail_{part}") for part in ("exposed", "compute", *_COMM)),
    )


def iterations(stages: pl.DataFrame) -> pl.DataFrame:
    """Return the seconds of DESIGN section 6 per workload, on the rank of its slowest stage.

    Columns of `stages`: those of `stage_seconds`, and `num_microbatches virtual_pipeline`. The bubble is
    what remains of the iteration: filling and draining, and waiting for stages with a longer tail.
    """
    m, chunks = pl.col("num_microbatches").first(), pl.col("virtual_pipeline").first()
    slowest = pl.col("seconds").arg_max()
    tail = pl.col("tail_exposed") + pl.col("tail_compute")

    def there(expression: pl.Expr) -> pl.Expr:
        return expression.get(slowest)

    pipeline = m * pl.col("seconds").max() + (pl.col("seconds").sum() - pl.col("seconds").max()) / chunks
    per_kind = {
        f"{kind}_comm_seconds": there(m * pl.col(f"{kind}_comm") + pl.col(f"tail_{kind}_comm"))
        for kind in COMM_KINDS
    }
    frame = stages.group_by("workload", maintain_order=True).agg(
        iteration_seconds=pipeline + tail.max(),
        compute_seconds=there(m * (pl.col("seconds") - pl.col("exposed"))),
        **per_kind,
        exposed_comm_seconds=there(m * pl.col("exposed") + pl.col("tail_exposed")),
        optimizer_seconds=there(pl.col("tail_compute")),
    )
    busy = pl.col("compute_seconds") + pl.col("exposed_comm_seconds") + pl.col("optimizer_seconds")
    return frame.with_columns(bubble_seconds=pl.col("iteration_seconds") - busy).with_columns(
        bubble_fraction=pl.col("bubble_seconds") / pl.col("iteration_seconds")
    )
