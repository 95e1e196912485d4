"""One micro-batch through one stage, and the stage's work after the last micro-batch.

A layer lasts as long as its kernels and the communication that nothing hides, or as long as the
host needs to launch them. Part of a backward tp collective hides behind the GEMM that Megatron
issues with it (`linear_with_grad_accumulation_and_async_allreduce`).
"""

from functools import reduce
from operator import add

import polars as pl

from moesweep.cost.timing import constant

COMM_KINDS = ("tp", "etp", "ep", "dp", "edp", "pp", "other")
OTHER = ("tp_ep", "embedding", "world")

HIDES_BEHIND = {
    "attention_regather": "qkv_dgrad",
    "attention_gather": "qkv_wgrad",
    "attention_reduce_grad": "qkv_wgrad",
    "mlp_regather": "fc1_dgrad",
    "mlp_gather": "fc1_wgrad",
    "mlp_reduce_grad": "fc1_wgrad",
    "shared_regather": "shared_fc1_dgrad",
    "shared_gather": "shared_fc1_wgrad",
    "head_regather": "logits_dgrad",
    "head_gather": "logits_wgrad",
    "head_reduce_grad": "logits_wgrad",
}
"""Backward tp collectives and the GEMM that runs beside each."""

_is_comm = pl.col("collective").is_not_null() & (pl.col("collective") != "send")
"""A message is waited for where it arrives; its sender goes on."""


def _seconds_of(op: str) -> pl.Expr:
    return (pl.col("seconds") * (pl.col("op") == op)).sum()


def _comm_seconds(kind: str) -> pl.Expr:
    among = pl.col("group_kind").is_in(OTHER) if kind == "other" else pl.col("group_kind") == kind
    return (
        (pl.col("seconds") * pl.col("runs") * (_is_comm & among).fill_null(False)).sum().alias(f"{kind}_comm")
    )


def _parts(costed: pl.DataFrame) -> pl.DataFrame:
    """Return one row per workload, stage, phase and layer kind: seconds of one layer's pass, by part.

    `compute`, `<kind>_comm`, `hidden` tp communication, the number of tp collectives, and `repeats`
    layers. Rows outside the layers are a pass of their own (layer_kind null, repeats 1). `runs` is how
    often an op runs per micro-batch: 1, or v for messages of an interleaved pipeline.
    """
    hidden = reduce(
        add,
        (pl.min_horizontal(_seconds_of(op), _seconds_of(gemm)) for op, gemm in HIDES_BEHIND.items()),
    )
    per_pass = pl.when(pl.col("phase") == "optimizer").then(1).otherwise(pl.col("microbatches"))
    tp_collective = (pl.col("group_kind") == "tp") & pl.col("collective").is_not_null()
    return (
        costed.with_columns(runs=pl.col("num_microbatches") / per_pass)
        .group_by("workload", "stage", "phase", "layer_kind", maintain_order=True)
        .agg(
            pl.col("repeats").first(),
            *(_comm_seconds(kind) for kind in COMM_KINDS),
            compute=(pl.col("seconds") * pl.col("collective").is_null()).sum(),
            hidden=hidden,
            tp_collectives=tp_collective.fill_null(False).sum(),
            recomputes=pl.col("op").str.starts_with("recompute_attention_norm").any(),
        )
    )


def passes(costed: pl.DataFrame, workloads: pl.DataFrame) -> pl.DataFrame:
    """Add to the parts of a pass its `comm` in all, `exposed` communication, and `seconds`.

    kernels = compute + comm - tp_overlap · hidden. A layer's host time is the framework's launch time
    of the pass (of both passes where the forward is recomputed) plus `tp_skew_seconds` for every tp
    collective and peer: ranks wait for the slowest host. seconds = max(kernels, host), or their sum
    with blocking launches. Time beyond the exposed communication counts as compute.
    """
    comm = pl.sum_horizontal(f"{kind}_comm" for kind in COMM_KINDS)
    exposed = comm - constant("tp_overlap") * pl.col("hidden")
    modern = pl.col("framework") == "megatron-core"
    forward = pl.when(modern).then(constant("host_seconds")).otherwise(constant("host_2021_seconds"))
    backward = constant("host_backward_ratio") * forward
    again = pl.when(pl.col("recomputes")).then(forward).otherwise(0.0)
    launches = pl.when(pl.col("phase") == "forward").then(forward).otherwise(backward + again)
    skew = constant("tp_skew_seconds") * (pl.col("tp") - 1) * pl.col("tp_collectives")
    host = pl.when(pl.col("layer_kind").is_not_null()).then(launches + skew).otherwise(0.0)
    kernels = pl.col("compute") + exposed
    seconds = (
        pl.when(pl.col("blocking_launches")).then(kernels + host).otherwise(pl.max_horizontal(kernels, host))
    )
    return (
        _parts(costed)
        .join(workloads, on="workload", maintain_order="left")
        .with_columns(comm=comm, exposed=exposed, seconds=seconds)
    )
