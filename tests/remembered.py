"""Memory of one stage of Korthikanti's 22B model, with some values changed."""

from functools import cache
from typing import Any

import polars as pl

from costing import constants
from moesweep.cost.memory import stage_memory, worst_rank
from moesweep.cost.model import with_constants
from moesweep.trace.programs import folded
from small import DENSE, small

# Korthikanti's 22B model: s 2048, b 4, h 6144, a 64, t 8
S, B, H, A, T = 2048, 4, 6144, 64, 8

KORTHIKANTI: dict[str, Any] = DENSE | {
    "world_size": 8,
    "tp": T,
    "pp": 1,
    "num_layers": 48,
    "hidden_size": H,
    "ffn_hidden_size": 4 * H,
    "num_attention_heads": A,
    "num_query_groups": A,
    "seq_length": S,
    "micro_batch_size": B,
    "global_batch_size": B,
    "vocab_size": 51200,
    "distributed_optimizer": False,
}


def memory(changes: dict[str, Any]) -> dict[str, float]:
    return memories(changes)[0]


def memories(*changes: dict[str, Any]) -> list[dict[str, float]]:
    """Several at once, which takes hardly longer than one."""
    return _memories(tuple(tuple(each.items()) for each in changes))


@cache
def _memories(changes: tuple[tuple[tuple[str, Any], ...], ...]) -> list[dict[str, float]]:
    each = [small(**dict(change)).with_columns(workload=pl.lit(str(n))) for n, change in enumerate(changes)]
    workloads = with_constants(pl.concat(each), constants())
    found = worst_rank(stage_memory(folded(workloads), workloads))
    return workloads.select("workload").join(found, on="workload", maintain_order="left").to_dicts()
