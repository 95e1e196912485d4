"""What parameters take in memory: weights, gradients and optimizer states, and the least of a layout."""

from functools import reduce
from operator import add

import polars as pl

from moesweep.shapes.layer_kinds import number_of_moe_layers
from moesweep.shapes.precision import fp8, keeps_remainders, offloaded_share, weight_copy_bytes
from moesweep.shapes.sharding import states_held
from moesweep.shapes.sizes import ELEMENT_BYTES, gradient_bytes, mla, moment_bytes

MASTER_BYTES, REMAINDER_BYTES = 4, 2
"""Of a parameter that a rank updates: its fp32 master weight, or the bits of it that a bf16 weight lacks."""

FP32_BYTES = 4

HOST_BYTES = 16
"""What the host keeps of a parameter that it updates: weight, both moments and gradient, all of fp32."""

MEMORY = ("weights", "gradients", "optimizer", "activations", "workspace")
"""The parts of a rank's memory: cost columns `<part>_bytes`, which add up to its peak."""

MEMORY_PARTS = tuple(f"{part}_bytes" for part in MEMORY)


def state_bytes(parameters: pl.Expr, owned: pl.Expr, quantised: pl.Expr) -> dict[str, pl.Expr]:
    """Return `weights_bytes gradients_bytes optimizer_bytes` of the parameters that a rank holds and updates.

    `quantised` of them are multiplied in fp8. What its host updates is none of those `owned` here.

    2P, 4P and 12 of those owned; gradients of 16 bits are 2P, and the step makes an fp32 copy of the owned
    ones (Megatron-LM, docs of the distributed optimizer: 18 bytes a parameter in all, with fp16 20). A
    precision-aware optimizer (Transformer Engine's FusedAdam with parameter remainders) needs no copy, keeps
    2 bytes for the master weight's 4, and 2 for a moment in bf16: 6 to 10 of those owned. With fp8 recipes
    other than delayed it keeps whole master weights, and needs the copy: 8 to 12 (Megatron
    `use_precision_aware_optimizer_no_fp8_or_ds_fp8`). In fp8 a linear's weight is there twice more, as its
    products read it: 2P + 2 of those quantised, or 2 of these alone where parameters are gathered in fp8.
    Where Megatron-FSDP shards gradients, or parameters too, it is those owned that are kept of these.
    """
    weights, gradients = states_held(parameters, owned)
    copies = (gradient_bytes < FP32_BYTES) & ~keeps_remainders
    copied = pl.when(copies).then(FP32_BYTES).otherwise(0)
    master = pl.when(keeps_remainders).then(REMAINDER_BYTES).otherwise(MASTER_BYTES)
    return {
        "weights_bytes": ELEMENT_BYTES * weights + weight_copy_bytes * quantised,
        "gradients_bytes": gradient_bytes * gradients + copied * owned,
        "optimizer_bytes": (master + moment_bytes) * owned,
    }


def least_state_bytes() -> pl.Expr:
    """Return the states of the mean stage's rank, over a workload's columns.

    Layers only, L/pp of them: attention h·d(2a + 2g)/tp, left out where it is latent, MLP 2hf/tp (gated
    3hf), experts 2hf(E/ep)/etp; no norms, router, embedding or head. Some stage has at least the mean, so the
    cost stage never finds a lower peak (Megatron-Core: ParamAndGradBuffer, DistributedOptimizer).
    """
    held, owned = _mean_parameters()
    kept = owned * (1 - offloaded_share)
    return reduce(add, state_bytes(held, kept, pl.when(fp8).then(held).otherwise(0.0)).values())


def least_host_bytes() -> pl.Expr:
    """Return what the host of the mean stage's rank keeps, counted as `least_state_bytes` does."""
    return HOST_BYTES * offloaded_share * _mean_parameters()[1]


def _mean_parameters() -> tuple[pl.Expr, pl.Expr]:
    """Return what a rank of the mean stage holds of its layers' matrices, and what it updates of them."""
    c = pl.col
    hidden, width = c("hidden_size").cast(pl.Float64), c("moe_ffn_hidden_size")
    matrices = pl.when(c("gated_mlp")).then(3).otherwise(2)
    heads = 2 * (c("num_attention_heads") + c("num_query_groups"))
    attention = pl.when(mla).then(0.0).otherwise(hidden * c("head_dim") * heads / c("tp"))
    mlp = matrices * hidden * c("ffn_hidden_size") / c("tp")
    shared = matrices * hidden * c("num_shared_experts") * width / c("tp")
    experts = matrices * hidden * width * c("num_experts") / c("ep") / c("etp")
    moe_layers = number_of_moe_layers()
    dense_layers = c("num_layers") - moe_layers
    of_all = (c("num_layers") * attention + dense_layers * mlp + moe_layers * shared) / c("pp")
    of_experts = moe_layers * experts / c("pp")
    replicas = [
        pl.when(c("distributed_optimizer")).then(size).otherwise(1) for size in (c("dp") * c("cp"), c("edp"))
    ]
    return of_all + of_experts, of_all / replicas[0] + of_experts / replicas[1]
