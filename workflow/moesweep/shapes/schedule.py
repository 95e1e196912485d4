"""The order in which a stage runs its micro-batches: 1F1B and Megatron's interleaved form.

Narayanan et al. 2021 (arXiv:2104.04473), section 2.2; Megatron `schedules.py`.
"""

import polars as pl

in_pairs = pl.col("overlap_moe_expert_parallel_comm")
"""A forward step runs beside the backward step that follows it, once the warm-up is over."""

GROUP = "microbatch_group_size_per_vp_stage"
group = pl.col(GROUP)
"""Micro-batches that pass through a chunk before the next chunk begins; the last group may have fewer."""

_rest = pl.col("num_microbatches") % group
last_group = pl.when(_rest > 0).then(_rest).otherwise(group)
"""Micro-batches of the last group."""


def makes_groups(size: int, pp: int, microbatches: int) -> bool:
    """Return whether micro-batches make groups of a size, the last of which keeps all stages busy, too.

    Megatron `schedules.py`, `forward_backward_pipelining_with_interleaving`.
    """
    rest = microbatches % size
    return pp <= size <= microbatches and (rest == 0 or rest >= pp)


more_warmup = pl.when(in_pairs).then(1).otherwise(0)
"""Steps of warm-up that pairs need more: a backward pass cannot run beside what it waits for."""


def warmup_steps() -> pl.Expr:
    """Return a stage's forward steps before its first backward, or before the first pair of both.

    min(pp-1-p, m) for v = 1; min(2(pp-1-p) + (v-1)·N, m·v) chunk steps for v > 1, of groups of N
    micro-batches; in pairs one more.
    """
    behind, chunks = pl.col("pp") - 1 - pl.col("stage"), pl.col("virtual_pipeline")
    interleaved = 2 * behind + (chunks - 1) * group
    steps = pl.when(chunks > 1).then(interleaved).otherwise(behind) + more_warmup
    return pl.min_horizontal(steps, pl.col("num_microbatches") * chunks)


def sets_in_flight(stage: pl.Expr) -> pl.Expr:
    """Return how many of a stage's full sets of layers are alive at once.

    1F1B: min(pp - p, m) micro-batches. Interleaved: min(warm-up + 1, m·v) chunks of 1/v of the layers.
    Where a forward pass runs beside a backward one: one of these more.
    """
    behind, chunks = pl.col("pp") - stage, pl.col("virtual_pipeline")
    interleaved = 2 * (behind - 1) + (chunks - 1) * group + 1
    alive = pl.when(chunks > 1).then(interleaved).otherwise(behind) + more_warmup
    in_flight = pl.min_horizontal(alive, pl.col("num_microbatches") * chunks) / chunks
    return in_flight.alias("microbatches_in_flight")


def most_warmup_steps() -> pl.Expr:
    """Return the warm-up steps of the first stage, which has most, where micro-batches abound."""
    chunks, pp = pl.col("virtual_pipeline"), pl.col("pp")
    return pl.when(chunks > 1).then(2 * (pp - 1) + (chunks - 1) * group).otherwise(pp - 1) + more_warmup


SHAPE = ("pp", "virtual_pipeline", "num_microbatches", "overlap_moe_expert_parallel_comm", GROUP)
"""Columns of a workload that its schedule follows from."""


def _unit(order: pl.Expr, chunks: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Return (micro-batch, chunk) of the i-th forward: a chunk's group of micro-batches, then the next one's.

    Megatron `get_schedule_table`.
    """
    before, within = order // (group * chunks) * group, order % (group * chunks)
    size = pl.min_horizontal(group, pl.col("num_microbatches") - before)
    several = chunks > 1
    microbatch = pl.when(several).then(before + within % size).otherwise(order)
    return microbatch, pl.when(several).then(within // size).otherwise(0)


def schedules(workloads: pl.DataFrame) -> pl.DataFrame:
    """Return workload, stage, step, phase, microbatch, chunk: 2·m·v steps a stage, in execution order."""
    chunks = pl.col("virtual_pipeline")
    total = pl.col("num_microbatches") * chunks
    step, warmup = pl.col("step"), pl.col("warmup")
    alternating = step - warmup
    in_steady_state = (step >= warmup) & (alternating < 2 * (total - warmup))
    forward = (step < warmup) | (in_steady_state & (alternating % 2 == 0))
    done = pl.when(in_steady_state).then(alternating // 2)
    order = (
        pl.when(step < warmup)
        .then(step)
        .when(forward)
        .then(warmup + done)
        .when(in_steady_state)
        .then(done)
        .otherwise(step - total)
    )
    microbatch, chunk = _unit(pl.col("order"), chunks)
    return (
        workloads.select("workload", *SHAPE)
        .with_columns(stage=pl.int_ranges(0, "pp", dtype=pl.Int64))
        .explode("stage")
        .with_columns(warmup=warmup_steps(), step=pl.int_ranges(0, 2 * total, dtype=pl.Int64))
        .explode("step")
        .with_columns(
            phase=pl.when(forward).then(pl.lit("forward")).otherwise(pl.lit("backward")), order=order
        )
        .select(
            "workload",
            "stage",
            "step",
            "phase",
            microbatch=microbatch,
            # backward meets a micro-batch's chunks from the last to the first
            chunk=pl.when(pl.col("phase") == "forward").then(chunk).otherwise(chunks - 1 - chunk),
        )
    )
