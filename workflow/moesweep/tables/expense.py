"""What each workload costs and whether it fits."""

import polars as pl

from moesweep.shapes.states import MEMORY, MEMORY_PARTS
from moesweep.tables.results import BATCH, LAYOUT, Inputs


def costed(inputs: Inputs) -> pl.DataFrame:
    """Return the workloads with their cost columns and `flops_per_token`, model flops a token needs."""
    per_token = pl.col("model_flops_per_second_per_gpu") / pl.col("tokens_per_second_per_gpu")
    joined = inputs.workloads.join(inputs.costs, on="workload", how="inner", maintain_order="left")
    return joined.with_columns(flops_per_token=per_token)


def cost_summary(inputs: Inputs) -> pl.DataFrame:
    """Return what most readers want of results/costs.parquet, beside the layout of each workload."""
    columns = (
        "iteration_seconds",
        "tokens_per_second_per_gpu",
        "mfu",
        "causal_mfu",
        "compute_seconds",
        "exposed_comm_seconds",
        "bubble_seconds",
        "optimizer_seconds",
        "peak_memory_bytes",
        "fits",
        "gpu_hours_per_billion_tokens",
        "usd_per_billion_tokens",
    )
    return costed(inputs).select("workload", "kind", *LAYOUT, *BATCH, *columns)


def memory(inputs: Inputs) -> pl.DataFrame:
    """Return the memory of the worst rank by part, its headroom on the cluster's GPU, its largest part."""
    hbm = pl.lit(inputs.cluster.value("hbm_bytes"), pl.Float64)
    largest = pl.concat_list(MEMORY_PARTS).list.arg_max()
    names = pl.lit(pl.Series(MEMORY).implode())
    return costed(inputs).select(
        "workload",
        "kind",
        *LAYOUT,
        *MEMORY_PARTS,
        "peak_memory_bytes",
        hbm.alias("hbm_bytes"),
        (hbm - pl.col("peak_memory_bytes")).alias("headroom_bytes"),
        "fits",
        names.list.get(largest).alias("largest_part"),
        (pl.max_horizontal(MEMORY_PARTS) / pl.col("peak_memory_bytes")).alias("largest_share"),
    )
