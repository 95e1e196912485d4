"""The cost model from folded programs to the rows of results/costs.parquet."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from moesweep.cost.iteration import iterations, stage_seconds
from moesweep.cost.memory import stage_memory, worst_rank
from moesweep.cost.ops import timed
from moesweep.cost.stages import passes

COST_COLUMNS = ("workload", "seconds", "bound")


@dataclass(frozen=True)
class Costs:
    """`ops`: the folded rows with `seconds` and `bound`; `workloads`: one row of cost columns each."""

    ops: pl.DataFrame
    workloads: pl.DataFrame


def with_constants(workloads: pl.DataFrame, constants: Mapping[str, float]) -> pl.DataFrame:
    """Add a cluster's constants to each workload, one column a constant, in base units."""
    return workloads.with_columns(
        pl.lit(value, dtype=pl.Float64).alias(name) for name, value in constants.items()
    )


def cost(folded: pl.DataFrame, workloads: pl.DataFrame) -> Costs:
    """Cost folded programs of workloads that carry their cluster's constants."""
    described = workloads.rename({"num_microbatches": "microbatches", "kind": "workload_kind"})
    rows = folded.lazy().join(described.lazy(), on="workload", maintain_order="left")
    ops = timed(rows).collect()
    per_pass = passes(ops, described)
    stages = stage_seconds(per_pass).join(
        workloads.select("workload", "num_microbatches", "virtual_pipeline"),
        on="workload",
        maintain_order="left",
    )
    seconds = iterations(stages)
    memory = worst_rank(stage_memory(folded, workloads))
    frame = (
        workloads.join(seconds, on="workload", maintain_order="left")
        .join(memory, on="workload", maintain_order="left")
        .join(_model_flops(folded, workloads), on="workload", maintain_order="left")
    )
    return Costs(
        ops.select(*folded.columns, "seconds", "bound"),
        frame.with_columns(_throughput()).with_columns(_price()),
    )


def _model_flops(folded: pl.DataFrame, workloads: pl.DataFrame) -> pl.DataFrame:
    """Return the flops of an iteration that the model needs, per GPU: three times the forward pass.

    Twice again for backward; nothing for recomputation; attention in full although a causal kernel
    skips half (Narayanan et al. 2021, section 5.1; the convention of published MFU figures).
    """
    products = (pl.col("phase") == "forward") & (pl.col("flops") > 0)
    halved = pl.col("flash_attention") & (pl.col("kind") == "attention")
    once = pl.col("flops").cast(pl.Float64) * pl.col("repeats") * pl.when(halved).then(2).otherwise(1)
    return (
        folded.filter(products)
        .join(workloads.select("workload", "pp", "flash_attention"), on="workload", maintain_order="left")
        .group_by("workload", maintain_order=True)
        .agg(model_flops=3 * (once * pl.col("num_microbatches")).sum() / pl.col("pp").first())
    )


def _throughput() -> list[pl.Expr]:
    tokens = pl.col("global_batch_size") * pl.col("seq_length") / pl.col("world_size")
    rate = pl.col("model_flops") / pl.col("iteration_seconds")
    return [
        (tokens / pl.col("iteration_seconds")).alias("tokens_per_second_per_gpu"),
        rate.alias("model_flops_per_second_per_gpu"),
        (rate / pl.col("matrix_flops_per_second")).alias("mfu"),
        (pl.col("peak_memory_bytes") + pl.col("reserved_hbm_bytes") <= pl.col("hbm_bytes")).alias("fits"),
    ]


def _price() -> list[pl.Expr]:
    hours = 1e9 / pl.col("tokens_per_second_per_gpu") / 3600
    return [
        hours.alias("gpu_hours_per_billion_tokens"),
        (hours * pl.col("usd_per_gpu_hour")).alias("usd_per_billion_tokens"),
    ]
