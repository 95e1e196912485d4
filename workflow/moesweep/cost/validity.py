"""Whether runs like a workload were measured: on its GPU and kind of node, at its size, with its kernels.

A cluster says by constants what the measured runs on such machines cover (`measured_...`), 0 where none was
measured. What is outside is predicted all the same, with nothing to hold it against.
"""

import polars as pl

from moesweep.cost.timing import constant
from moesweep.shapes import sizes as s
from moesweep.shapes.offloading import offloads_activations
from moesweep.shapes.parallelism import STAGES_BESIDE
from moesweep.shapes.precision import fp8, offloads
from moesweep.shapes.sharding import shards_gradients

MOE = pl.col("kind") == "moe"

HIDING = (
    *("overlap_grad_reduce", "tp_comm_overlap", "moe_shared_expert_overlap"),
    "overlap_moe_expert_parallel_comm",
)
"""Options that hide communication which measured runs on such machines wait for."""


def criteria() -> dict[str, pl.Expr]:
    """Return what takes a workload out of the measured range, each with its words; over its constants too.

    The options count where runs of the kind were measured at all.
    """
    node = constant("gpus_per_node")
    largest = pl.when(MOE).then(constant("measured_moe_gpus")).otherwise(constant("measured_dense_gpus"))
    other = largest > 0
    flash, gated = (constant(f"measured_{name}") == 1 for name in ("flash_attention", "gated_mlp"))
    return {
        "no run of the kind measured on such GPUs and nodes": ~other,
        "on more GPUs than measured": other & (pl.col("world_size") > largest),
        "tensor parallelism across nodes": pl.col("tp") > node,
        "experts across nodes": MOE & (pl.col("etp") * pl.col("ep") > node),
        "context parallelism": other & (pl.col("cp") > 1),
        "pipeline stages before data-parallel ranks": other & pl.col(STAGES_BESIDE),
        "the flex dispatcher": other & s.flex,
        "products in fp8": other & fp8,
        "an optimizer on the host": other & offloads,
        "activations on the host": other & offloads_activations,
        "sums in one order every time": other & pl.col("deterministic_mode"),
        "parameters or gradients sharded": other & shards_gradients,
        "experts balanced over global batches": other & MOE & s.counts_globally,
        "another attention kernel": other & (pl.col("flash_attention") != flash),
        "another gating of MLPs": other & (pl.col("gated_mlp") != gated),
        "communication hidden otherwise than measured": other & pl.any_horizontal(HIDING),
        "modules recomputed that are not core attention": other
        & (pl.col("recompute") == "selective")
        & ~pl.col("recompute_modules").is_in(["core_attn", "none"]),
        "kernels launched by CUDA graphs": other & s.uses_graphs,
        "layers recomputed not each by itself": other
        & ((pl.col("recompute_method") != "uniform") | (pl.col("recompute_num_layers") != 1)),
    }


def outside() -> pl.Expr:
    """Return the criteria that a workload fails, joined by "; "; empty inside the measured range."""
    failed = [pl.when(fails).then(pl.lit(words)) for words, fails in criteria().items()]
    return pl.concat_str(*failed, separator="; ", ignore_nulls=True)


def validity() -> dict[str, pl.Expr]:
    """Return whether a workload is inside the measured range, and what takes it out."""
    fails = pl.any_horizontal(*criteria().values())
    return {
        "validated": pl.when(fails).then(pl.lit("outside")).otherwise(pl.lit("inside")),
        "validated_why": outside(),
    }
