"""One micro-batch through one stage, and the stage's work after the last micro-batch.

A layer lasts as long as its kernels and the communication that nothing hides, or as long as the
host needs to launch them. Part of a backward tp collective hides behind the GEMM that Megatron
issues with it (`linear_with_grad_accumulation_and_async_allreduce`).
"""

from functools import reduce
from operator import add

import polars as pl

from moesweep.cost.timing import constant
from moesweep.shapes.expressions import total

COMM_KINDS = ("tp", "etp", "ep", "dp", "edp", "pp", "other")
OTHER = ("tp_ep", "embedding", "world")

PASS_KEY = ("workload", "stage", "phase", "layer_kind")
"""What tells passes apart."""

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
    return (pl.col("seconds") * pl.col("runs") * (_is_comm & among).fill_null(False)).sum()


def runs() -> pl.Expr:
    """Return how often an op runs per micro-batch: 1, or v for messages of an interleaved pipeline."""
    per_pass = pl.when(pl.col("phase") == "optimizer").then(1).otherwise(pl.col("microbatches"))
    return pl.col("num_microbatches") / per_pass


def parts_of_a_pass() -> dict[str, pl.Expr]:
    """Return what the op rows of one layer's pass add up to: seconds by part, over the rows of the pass.

    `compute`, `<kind>_comm`, `hidden` tp communication, `peers` in all tp and etp collectives,
    `dispatches` of tokens to experts, `repeats` layers. Rows outside the layers are a pass of their
    own (layer_kind null, repeats 1).
    """
    hidden = reduce(
        add,
        (pl.min_horizontal(_seconds_of(op), _seconds_of(gemm)) for op, gemm in HIDES_BEHIND.items()),
    )
    # Ranks of a tp or etp group issue their kernels alone and meet at every collective.
    tensor = pl.col("group_kind").is_in(["tp", "etp"]) & pl.col("collective").is_not_null()
    return {
        "repeats": pl.col("repeats").first(),
        **{f"{kind}_comm": _comm_seconds(kind) for kind in COMM_KINDS},
        "compute": (pl.col("seconds") * pl.col("collective").is_null()).sum(),
        "hidden": hidden,
        "peers": ((pl.col("group_size") - 1) * tensor.fill_null(False)).sum(),
        "dispatches": pl.col("op").str.ends_with("token_counts").sum(),
        "recomputes": pl.col("op").str.starts_with("recompute_attention_norm").any(),
    }


def seconds_of_a_pass() -> dict[str, pl.Expr]:
    """Return `comm` in all, `exposed` communication and `seconds` of a pass, over its parts.

    kernels = compute + comm - tp_overlap · hidden + dispatch_wait_seconds · dispatches. A layer's host
    time is the framework's launch time of the pass (of both passes where the forward is recomputed)
    plus `tp_skew_seconds` for every peer in every tp or etp collective: ranks wait for the slowest
    host. seconds = max(kernels, host), or their sum with blocking launches. Time beyond the exposed
    communication counts as compute.
    """
    comm = total(f"{kind}_comm" for kind in COMM_KINDS)
    exposed = comm - constant("tp_overlap") * pl.col("hidden")
    modern = pl.col("framework") == "megatron-core"
    forward = pl.when(modern).then(constant("host_seconds")).otherwise(constant("host_2021_seconds"))
    backward = constant("host_backward_ratio") * forward
    again = pl.when(pl.col("recomputes")).then(forward).otherwise(0.0)
    launches = pl.when(pl.col("phase") == "forward").then(forward).otherwise(backward + again)
    skew = constant("tp_skew_seconds") * pl.col("peers")
    in_layer = pl.col("layer_kind").is_not_null()
    host = pl.when(in_layer).then(launches + skew).otherwise(0.0).alias("launching_seconds")
    waits = constant("dispatch_wait_seconds") * pl.col("dispatches")
    kernels = (pl.col("compute") + exposed + waits).alias("kernels_seconds")
    seconds = (
        pl.when(pl.col("blocking_launches")).then(kernels + host).otherwise(pl.max_horizontal(kernels, host))
    )
    return {"comm": comm, "exposed": exposed, "seconds": seconds}


def passes(costed: pl.DataFrame, workloads: pl.DataFrame) -> pl.DataFrame:
    """Return the parts and the seconds of one layer's pass, one row per PASS_KEY."""
    return (
        costed.with_columns(runs=runs())
        .group_by(PASS_KEY, maintain_order=True)
        .agg(**parts_of_a_pass())
        .join(workloads, on="workload", maintain_order="left")
        .with_columns(**seconds_of_a_pass())
    )
