"""The two implementations of a trace, and short forms of their rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import polars as pl
import pytest

from hand_worked import Brief
from moesweep.trace.programs import programs
from naive_trace import Row, naive_program

Implementation = Callable[[dict[str, Any], int], list[Row]]


def columnar(workload: dict[str, Any], stage: int) -> list[Row]:
    """One stage's program from the library."""
    return _program(tuple(workload.items())).filter(pl.col("stage") == stage).sort("op_index").to_dicts()


@cache
def _program(workload: tuple[tuple[str, Any], ...]) -> pl.DataFrame:
    return programs(pl.DataFrame([dict(workload)]).with_columns(pl.col("twin").cast(pl.String)))


@pytest.fixture(params=[columnar, naive_program], ids=["columnar", "naive"])
def trace(request: pytest.FixtureRequest) -> Implementation:
    """Each implementation in turn."""
    implementation: Implementation = request.param
    return implementation


def brief(row: Row) -> Brief:
    """What the tables below write down of a row."""
    if row["kind"] == "elementwise":
        return (row["op"],)
    if row["collective"] is not None:
        names = "op collective group_kind group_size comm_bytes wire_bytes"
    else:
        names = "op kind m n k groups flops"
    return tuple(row[name] for name in names.split())


def part(rows: list[Row], phase: str, layer: int = -1) -> list[Brief]:
    """Rows of a phase that belong to a layer, or to none."""
    return [brief(row) for row in rows if row["phase"] == phase and row["layer"] == layer]


def by_op(rows: list[Row], phase: str) -> dict[str, Row]:
    """The last row of each op in a phase."""
    return {row["op"]: row for row in rows if row["phase"] == phase}


def ops_of(rows: list[Row], phase: str, layer: int) -> list[str]:
    """Names in order."""
    return [row["op"] for row in rows if row["phase"] == phase and row["layer"] == layer]
