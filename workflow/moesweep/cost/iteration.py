"""One training iteration from its stages: pipeline, data-parallel communication, optimizer.

1F1B whose stages hold as many layers each, the last one being the slowest with its head, lasts m · slowest +
the sum of the others: the first micro-batch fills the pipeline, then the last stage sets the pace (Narayanan
et al. 2021, arXiv:2104.04473, section 2.2). Any other pipeline is stepped through (moesweep.cost.pipeline).
What of gradient reduction and parameter gathering runs beside passes says moesweep.cost.buckets.
"""

import polars as pl

from moesweep.cost.buckets import (
    BUCKETS_OF,
    HIDDEN_OF_THE_TAIL,
    OF_BUCKETS,
    hidden_of_the_tail,
    layer_seconds,
)
from moesweep.cost.pairs import pairs, pairs_of_a_stage
from moesweep.cost.stages import COMM
from moesweep.shapes.communication import COMM_KINDS
from moesweep.shapes.expressions import total
from moesweep.shapes.schedule import in_pairs, warmup_steps

HIDDEN = ("cp_hidden", "ep_hidden", "dp_hidden", "edp_hidden")
"""Columns of a pass and a stage: what of a micro-batch's communication is hidden, by kind."""


def seconds_of_a_stage() -> dict[str, pl.Expr]:
    """Return what a micro-batch takes and what follows the last one, over the passes of a stage.

    `seconds exposed <kind>_hidden <kind>_comm` of a micro-batch; `tail_exposed tail_<kind>_comm
    tail_compute` once an iteration (communication, optimizer step); OF_BUCKETS and LAYER_SECONDS.
    """
    weighted = pl.col("repeats")
    repeated = pl.col("phase") != "optimizer"
    tail = ("exposed", "compute", *COMM)
    return {
        **{
            part: (pl.col(part) * weighted * repeated).sum()
            for part in ("seconds", "exposed", *HIDDEN, *COMM)
        },
        **{f"tail_{part}": (pl.col(part) * ~repeated).sum() for part in tail},
        **{name: pl.col(name).sum() for name in OF_BUCKETS},
        **layer_seconds(),
    }


def stage_seconds(passes: pl.DataFrame) -> pl.DataFrame:
    """Return one row per workload and stage: the columns of `seconds_of_a_stage` and `pairs_of_a_stage`."""
    stages, paired = _sums(passes, seconds_of_a_stage()), _sums(pairs(passes), pairs_of_a_stage())
    return stages.join(paired, on=("workload", "stage"), how="left", maintain_order="left").with_columns(
        pl.col("paired").fill_null(0.0)
    )


def _sums(rows: pl.DataFrame, sums: dict[str, pl.Expr]) -> pl.DataFrame:
    # Not group_by: polars shares out plain sums among its threads; the last digit would depend on how many.
    keys = ("workload", "stage")
    each = {name: seconds.over(keys) for name, seconds in sums.items()}
    return rows.select(*keys, **each).unique(keys, keep="first", maintain_order=True)


overlaps_messages = pl.col("overlap_p2p_comm")
"""Messages of an interleaved pipeline travel while the next chunk runs."""


def own_seconds() -> dict[str, pl.Expr]:
    """Return what a stage is busy with for a micro-batch and what of it is exposed communication.

    A message that is overlapped keeps no stage busy: who needs it waits for it. Passes that run in pairs
    count as such, those of the warm-up too: what these take longer says `alone`.
    """
    beside = pl.when(overlaps_messages).then("pp_comm").otherwise(0.0)
    return {
        "own_seconds": pl.col("seconds") - beside - pl.col("paired"),
        "own_exposed": pl.col("exposed") - beside - pl.col("paired"),
        "pp_hidden": beside,
    }


def alone() -> dict[str, pl.Expr]:
    """Return of how many micro-batches a stage's passes run in no pair, where others do: of its warm-up."""
    return {"alone": pl.when(in_pairs).then(warmup_steps() / pl.col("virtual_pipeline")).otherwise(0.0)}


def seconds_of_the_tail() -> dict[str, pl.Expr]:
    """Return what of a stage's closing communication is waited for, and its closing work in all."""
    exposed = pl.col("tail_exposed") - total(HIDDEN_OF_THE_TAIL)
    return {"own_tail_exposed": exposed, "tail_seconds": exposed + pl.col("tail_compute")}


def with_own(stages: pl.DataFrame) -> pl.DataFrame:
    """Add to stages, with columns of their workload, what they are busy with."""
    own = own_seconds() | alone() | hidden_of_the_tail()
    return stages.with_columns(**own).with_columns(**seconds_of_the_tail())


def seconds_of_the_slowest() -> dict[str, pl.Expr]:
    """Return what an iteration takes of its stages, over them: `stage_` of the slowest, `all_` of all.

    Of stages that are equally slow the first counts.
    """
    slowest = pl.col("own_seconds").arg_max()
    there = (
        "own_exposed",
        *HIDDEN,
        "pp_hidden",
        "paired",
        "alone",
        *COMM,
        "own_tail_exposed",
        *HIDDEN_OF_THE_TAIL,
        *(f"tail_{part}" for part in COMM),
        "tail_compute",
    )
    return {
        "stage_seconds": pl.col("own_seconds").max(),
        "all_seconds": pl.col("own_seconds").sum(),
        "longest_tail_seconds": pl.col("tail_seconds").max(),
        **{f"stage_{part}": pl.col(part).get(slowest) for part in there},
    }


def filled_and_drained() -> dict[str, pl.Expr]:
    """Return the seconds of a pipeline of stages with as many layers, in one chunk, the last the slowest.

    The first micro-batch fills the pipeline, the last one drains it: Σ of the others. On one stage a
    forward pass before the first pair and a backward pass after the last one run alone.
    """
    fill = (pl.col("all_seconds") - pl.col("stage_seconds")).alias("fill_seconds")
    unpaired = pl.col("stage_alone") * pl.col("stage_paired")
    return {"pipeline_seconds": pl.col("num_microbatches") * pl.col("stage_seconds") + fill + unpaired}


def seconds_of_an_iteration() -> dict[str, pl.Expr]:
    """Return an iteration's seconds and their parts on the rank of its slowest stage."""
    m = pl.col("num_microbatches")
    unpaired = pl.col("stage_alone") * pl.col("stage_paired")
    hidden = {f"{kind}_hidden_seconds": m * pl.col(f"stage_{kind}_hidden") for kind in ("cp", "ep", "pp")}
    hidden["ep_hidden_seconds"] += (m - pl.col("stage_alone")) * pl.col("stage_paired")
    per_kind = {
        f"{kind}_comm_seconds": m * pl.col(f"stage_{kind}_comm") + pl.col(f"stage_tail_{kind}_comm")
        for kind in COMM_KINDS
    }
    return {
        "iteration_seconds": pl.col("pipeline_seconds") + pl.col("longest_tail_seconds"),
        "compute_seconds": m * (pl.col("stage_seconds") - pl.col("stage_own_exposed")),
        **per_kind,
        **hidden,
        **{
            f"{kind}_hidden_seconds": total(f"stage_{op}_hidden" for op in ops)
            + m * pl.col(f"stage_{kind}_hidden")
            for kind, ops in BUCKETS_OF.items()
        },
        "exposed_comm_seconds": m * pl.col("stage_own_exposed") + unpaired + pl.col("stage_own_tail_exposed"),
        "optimizer_seconds": pl.col("stage_tail_compute"),
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


def with_parts(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the seconds of DESIGN section 6 to `seconds_of_the_slowest` and `pipeline_seconds`."""
    timed = frame.with_columns(**seconds_of_an_iteration()).with_columns(**bubble())
    return timed.with_columns(**bubble_share())
