"""What tests of ranks that share sequences have in common: a workload, both traces, a layer's ops by name."""

from typing import Any

import pytest

from moesweep.trace.programs import programs
from naive_trace import naive_program
from small import small

# Sequences of 64 tokens over cp 2: 32 a rank, of which tp 2 has 4 of 8 heads of 8 and 2 of 4 key heads:
# queries and output 32 wide, keys and values 16.
SHARED: dict[str, Any] = {
    **{"world_size": 16, "tp": 2, "cp": 2, "pp": 2, "num_query_groups": 4, "attention": "gqa"},
    "flash_attention": True,
}


def columnar(**changes: Any) -> list[dict[str, Any]]:
    """The first stage's rows as the library makes them."""
    return programs(small(**changes)).filter(stage=0).to_dicts()


def naive(**changes: Any) -> list[dict[str, Any]]:
    """The same as plain loops do."""
    return naive_program(small(**changes).row(0, named=True), 0)


def found(rows: list[dict[str, Any]], phase: str, *names: str) -> dict[str, tuple[Any, ...]]:
    """What the first layer's ops move, by name."""
    of_layer = [row for row in rows if (row["phase"], row["layer"]) == (phase, 0)]
    return {row["op"]: tuple(row[name] for name in names) for row in of_layer}


both = pytest.mark.parametrize("trace", [columnar, naive])
SENT = ("collective", "group_size", "comm_bytes", "wire_bytes")
