"""Matched comparisons: each MoE workload against its dense twin, and one ep against another."""

import polars as pl

from moesweep.shapes.standing import placement
from moesweep.shapes.states import MEMORY_PARTS
from moesweep.study.claims import QUANTITIES
from moesweep.tables.communication import communication, wire_bytes_per_rank
from moesweep.tables.expense import costed
from moesweep.tables.results import BATCH, LAYOUT, Inputs, per_iteration, seconds_per_iteration

_COMPARED = (
    "iteration_seconds",
    "tokens_per_second_per_gpu",
    "flops_per_token",
    "compute_seconds",
    "exposed_comm_seconds",
    "mfu",
    "peak_memory_bytes",
    "fits",
    "usd_per_billion_tokens",
)
_DENSE_KINDS = ("tp", "cp", "dp", "pp", "other")
_moe = pl.col("kind") == "moe"


def moe_against_dense(inputs: Inputs) -> pl.DataFrame:
    """Return each MoE workload beside its dense twin; a ratio is MoE over dense, null where dense is 0."""
    costs = costed(inputs)
    moe = costs.filter(_moe).select(
        "workload", "twin", *LAYOUT, *BATCH, *(pl.col(name).alias(f"moe_{name}") for name in _COMPARED)
    )
    dense = costs.select(
        pl.col("workload").alias("twin"),
        pl.col("dp", "edp").name.prefix("dense_"),
        *(pl.col(name).alias(f"dense_{name}") for name in _COMPARED),
    )
    kinds = [f"dense_{kind}_wire_bytes" for kind in _DENSE_KINDS]
    dense_wire = wire_bytes_per_rank(inputs, "dense").select(
        pl.col("workload").alias("twin"), "dense_wire_bytes", *kinds
    )
    ratios = [_ratio(name) for name in (*_COMPARED, "wire_bytes") if name != "fits"]
    return (
        moe.join(dense, on="twin", maintain_order="left")
        .join(wire_bytes_per_rank(inputs, "moe"), on="workload", how="left", maintain_order="left")
        .join(dense_wire, on="twin", how="left", maintain_order="left")
        .with_columns(ratios)
    )


def _ratio(name: str) -> pl.Expr:
    return _over(pl.col(f"moe_{name}"), pl.col(f"dense_{name}")).alias(f"{name}_ratio")


def _over(value: pl.Expr, base: pl.Expr) -> pl.Expr:
    return pl.when(base != 0).then(value / base)


def ep_scaling(inputs: Inputs) -> pl.DataFrame:
    """Return workloads that differ in nothing but ep, side by side, each measured against the lowest ep.

    Rows of one `comparison` share every column of the catalogue but ep and what follows from it (edp, the
    id, the listing). A `_ratio` is against the row of the lowest ep, null where that is 0. Without expert
    parallelism, ep 1, nothing is exchanged: 0.
    """
    follows = ("workload", "ep", "edp", "listed")
    fixed = [name for name in inputs.workloads.columns if name not in follows]
    matched = (
        costed(inputs)
        .filter(_moe)
        .filter(pl.col("ep").n_unique().over(fixed) > 1)
        .with_row_index("first")
        .with_columns(comparison=pl.col("first").min().over(fixed))
        .join(_expert_work(inputs), on="workload", how="left", maintain_order="left")
        .join(_all_to_all(inputs), on="workload", how="left", maintain_order="left")
        .sort("comparison", "ep", maintain_order=True)
    )
    return matched.with_columns(
        pl.col("^all_to_all_.*$").fill_null(0),
        comparison=pl.col("comparison").rle_id().cast(pl.Int64) + 1,
        experts_per_ep_rank=pl.col("num_experts") // pl.col("ep"),
        nodes_per_ep_group=placement("ep", int(inputs.cluster.value("gpus_per_node"))).nodes,
        state_bytes=pl.sum_horizontal(MEMORY_PARTS[:3]),
    ).with_columns(
        _over(pl.col(name), pl.col(name).first().over("comparison")).alias(f"{name}_ratio")
        for name in QUANTITIES
    )


def _expert_work(inputs: Inputs) -> pl.DataFrame:
    """Return flops and seconds of the expert GEMMs, and seconds of sorting rows by local expert and back."""
    gemm, sort = pl.col("kind") == "grouped_gemm", pl.col("op").str.contains("expert_(un)?sort$")
    stages, seconds = pl.col("pp").first(), seconds_per_iteration()
    return (
        inputs.ops.filter(gemm | sort)
        .join(inputs.workloads.select("workload", "pp"), on="workload", maintain_order="left")
        .group_by("workload", maintain_order=True)
        .agg(
            expert_flops=per_iteration(pl.col("flops")).filter(gemm).sum().cast(pl.Float64) / stages,
            expert_gemm_seconds=seconds.filter(gemm).sum() / stages,
            expert_sort_seconds=seconds.filter(sort).sum() / stages,
        )
    )


def _all_to_all(inputs: Inputs) -> pl.DataFrame:
    """Return buffers, bytes on links and seconds of the token exchange."""
    world = inputs.workloads.select("workload", "world_size")
    return (
        communication(inputs)
        .filter((pl.col("collective") == "all_to_all") & (pl.col("group_kind") == "ep"))
        .join(world, on="workload", maintain_order="left")
        .group_by("workload", maintain_order=True)
        .agg(
            all_to_all_comm_bytes=pl.col("total_comm_bytes").sum() / pl.col("world_size").first(),
            all_to_all_wire_bytes=pl.col("wire_bytes_per_rank").sum(),
            all_to_all_seconds=pl.col("seconds_per_rank").sum(),
        )
    )
