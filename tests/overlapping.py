"""Workloads whose reductions are worth hiding."""

from typing import Any

from small import DENSE

WIDE: dict[str, Any] = DENSE | {
    **{"hidden_size": 4096, "ffn_hidden_size": 16384, "num_layers": 4, "num_attention_heads": 32},
    **{"num_query_groups": 32, "seq_length": 1024, "tp": 1, "pp": 1, "world_size": 8, "vocab_size": 128},
    **{"global_batch_size": 8, "tied_embeddings": False, "position_embedding": "rope"},
}
"""805 M parameters on one stage: 4 layers of 201 M, and two tables of half a million."""
