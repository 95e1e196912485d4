"""Small workloads for the tests: a base, and what a test changes of it."""

from typing import Any

import polars as pl

from moesweep.study.workload import resolve

BASE: dict[str, Any] = {
    "listed": 1,
    "model": "small",
    "world_size": 16,
    "tp": 2,
    "pp": 2,
    "ep": 2,
    "etp": 2,
    "micro_batch_size": 1,
    "global_batch_size": 32,
    "seq_length": 64,
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 256,
    "num_attention_heads": 8,
    "num_query_groups": 8,
    "vocab_size": 1000,
    "gated_mlp": False,
    "normalization": "layernorm",
    "position_embedding": "learned",
    "tied_embeddings": True,
    "num_experts": 4,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 0,
    "num_shared_experts": 0,
    "first_k_dense": 0,
    "attention": "mha",
    "q_lora_rank": 0,
    "kv_lora_rank": 0,
    "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 0,
    "v_head_dim": 0,
    "virtual_pipeline": 1,
    "sequence_parallel": True,
    "recompute": "none",
    "flash_attention": False,
    "distributed_optimizer": True,
    "dtype": "bf16",
    "framework": "megatron-core",
    "blocking_launches": False,
    "routing": "balanced",
}
DENSE = {"num_experts": 0, "moe_router_topk": 0, "ep": 1}


def small(**changes: Any) -> pl.DataFrame:
    """Return one workload: the base with some values changed. etp follows tp unless given."""
    values = BASE | {"etp": changes.get("tp", BASE["tp"])} | changes
    return resolve([values])


VARIED: dict[str, dict[str, Any]] = {
    "moe": {},
    "dense": DENSE,
    "moe, one expert a rank": {"ep": 4, "world_size": 32},
    "moe, no ep": {"ep": 1},
    "moe, no tp": {"tp": 1, "ep": 4},
    "moe, whole experts beside cut attention": {"etp": 1, "ep": 4},
    "moe, etp wider than tp": {"etp": 4, "tp": 2, "ep": 2},
    "moe, top-1 of 8": {"num_experts": 8, "moe_router_topk": 1},
    "moe, gated and grouped queries": {"gated_mlp": True, "num_query_groups": 2, "attention": "gqa"},
    "moe, narrow experts": {"moe_ffn_hidden_size": 96},
    "moe, selective": {"recompute": "selective"},
    "moe, full": {"recompute": "full"},
    "moe, flash": {"flash_attention": True},
    "moe, replicated optimizer": {"distributed_optimizer": False},
    "moe, interleaved": {"virtual_pipeline": 2},
    "moe, uneven stages": {"num_layers": 7, "pp": 4},
    "moe, no pipeline": {"pp": 1},
    "moe, rope and untied rmsnorm": {
        "position_embedding": "rope",
        "tied_embeddings": False,
        "normalization": "rmsnorm",
    },
    "dense, no sequence parallelism": DENSE | {"sequence_parallel": False},
    "dense, no sequence parallelism, full": DENSE | {"sequence_parallel": False, "recompute": "full"},
    "dense, selective": DENSE | {"recompute": "selective"},
    "dense, gated": DENSE | {"gated_mlp": True},
    "dense, alone": DENSE | {"world_size": 1, "tp": 1, "pp": 1, "global_batch_size": 4},
    "dense, four stages, untied": DENSE | {"pp": 4, "tied_embeddings": False, "num_layers": 6},
    "dense, replicated optimizer": DENSE | {"distributed_optimizer": False},
    "dense, interleaved": DENSE | {"virtual_pipeline": 2, "micro_batch_size": 2},
}
"""Workloads that differ in every option the trace knows; each is legal."""
