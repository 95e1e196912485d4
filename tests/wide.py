"""Workloads wide enough for their GEMMs to be bound by arithmetic."""

from typing import Any

from small import DENSE

# tp 4, one stage: bs = 1024 tokens, h 1024, f 4096
WIDE: dict[str, Any] = DENSE | {
    "world_size": 4,
    "tp": 4,
    "pp": 1,
    "global_batch_size": 2,
    "seq_length": 1024,
    "hidden_size": 1024,
    "ffn_hidden_size": 4096,
    "num_layers": 1,
}

MOE = WIDE | {"num_experts": 4, "moe_router_topk": 2, "world_size": 16, "ep": 4, "global_batch_size": 8}
