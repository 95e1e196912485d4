"""The least memory that a layout needs whatever its batch: weights, gradients and optimizer states."""

import polars as pl

WEIGHT_AND_GRADIENT_BYTES = 2 + 4
"""Of a parameter that a rank holds: bf16 or fp16, and an fp32 gradient."""

OPTIMIZER_BYTES = 12
"""Of a parameter that it updates: fp32 master weight and two moments."""


def least_state_bytes() -> pl.Expr:
    """Return the states of the mean stage's rank, over a workload's columns.

    Layers only, L/pp of them: attention (2h² + 2h·h_kv)/tp, left out where it is latent, MLP 2hf/tp (gated
    3hf), experts 2hf(E/ep)/etp; no norms, router, embedding or head. Some stage has at least the mean, so the
    cost stage never finds a lower peak (Megatron-Core: ParamAndGradBuffer, DistributedOptimizer).
    """
    c = pl.col
    hidden, width = c("hidden_size").cast(pl.Float64), c("moe_ffn_hidden_size")
    matrices = pl.when(c("gated_mlp")).then(3).otherwise(2)
    keys = hidden * c("num_query_groups") / c("num_attention_heads")
    attention = pl.when(c("attention") == "mla").then(0.0).otherwise(2 * hidden * (hidden + keys) / c("tp"))
    mlp = matrices * hidden * c("ffn_hidden_size") / c("tp")
    shared = matrices * hidden * c("num_shared_experts") * width / c("tp")
    experts = matrices * hidden * width * c("num_experts") / c("ep") / c("etp")
    moe_layers = pl.when(c("kind") == "moe").then(c("num_layers") - c("first_k_dense")).otherwise(0)
    dense_layers = c("num_layers") - moe_layers
    of_all = (c("num_layers") * attention + dense_layers * mlp + moe_layers * shared) / c("pp")
    of_experts = moe_layers * experts / c("pp")
    replicas = [pl.when(c("distributed_optimizer")).then(size).otherwise(1) for size in (c("dp"), c("edp"))]
    owned = of_all / replicas[0] + of_experts / replicas[1]
    return WEIGHT_AND_GRADIENT_BYTES * (of_all + of_experts) + OPTIMIZER_BYTES * owned
