"""The table of all workloads: its columns, and its cells with what they sort by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.words import percent, rounded

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column: title, what the title leaves out, a cell's text and sort key from a workload's row."""

    title: str
    meaning: str
    text: Callable[[Row], str]
    key: Callable[[Row], float | str]
    is_number: bool = True


def _number(title: str, meaning: str, name: str, factor: float = 1.0) -> Column:
    return Column(title, meaning, lambda row: rounded(row[name] / factor, 3), lambda row: row[name] / factor)


def _whole(name: str, title: str, meaning: str) -> Column:
    return Column(title, meaning, lambda row: str(row[name]), lambda row: row[name])


def _exposed(row: Row) -> float:
    return float(row["exposed_comm_seconds"] / row["iteration_seconds"])


COLUMNS = (
    Column("kind", "MoE, or a dense twin", lambda row: row["kind"], lambda row: row["kind"], False),
    _number("iteration, s", "seconds of a training iteration", "iteration_seconds"),
    _number("tokens/s/GPU", "tokens per second and GPU", "tokens_per_second_per_gpu"),
    _number("MFU, %", "model flops utilisation", "mfu", 0.01),
    Column(
        "exposed, %",
        "communication that compute does not hide, of the iteration",
        lambda row: percent(_exposed(row)).removesuffix("%"),
        _exposed,
    ),
    _number("peak, GiB", "device memory of the worst rank", "peak_memory_bytes", 2.0**30),
    Column(
        "fits",
        "whether that fits the GPU",
        lambda row: "yes" if row["fits"] else "no",
        lambda row: "yes" if row["fits"] else "no",
        False,
    ),
    _number("USD/10⁹ tokens", "price of training on a billion tokens", "usd_per_billion_tokens"),
    _whole("warnings", "warnings", "what validation remarks"),
    _whole("world_size", "GPUs", "world size"),
    _whole("tp", "tp", "tensor parallelism"),
    _whole("pp", "pp", "pipeline parallelism"),
    _whole("ep", "ep", "expert parallelism"),
    _whole("dp", "dp", "data parallelism of dense parameters"),
    _whole("edp", "edp", "copies of each expert"),
)


def overview(evidence: Evidence) -> list[Row]:
    """Return every workload's row: `id`, `model`, `kind`, `fits` to filter by, and its `cells`."""
    warned = evidence.validation.group_by("workload").agg(warnings=pl.len())
    rows = evidence.workloads.join(warned, on="workload", how="left", maintain_order="left").with_columns(
        pl.col("warnings").fill_null(0)
    )
    return [
        {
            "id": row["workload"],
            "model": row["model"],
            "kind": row["kind"],
            "fits": "yes" if row["fits"] else "no",
            "cells": [(column.text(row), column.key(row)) for column in COLUMNS],
        }
        for row in rows.iter_rows(named=True)
    ]
