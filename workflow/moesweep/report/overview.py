"""The table of all workloads: its columns, and its cells with what they sort by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.words import percent, rounded
from moesweep.study.varying import varying

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column: its name in filters, title, what that leaves out, a cell's text and what it sorts by."""

    name: str
    title: str
    meaning: str
    text: Callable[[Row], str]
    key: Callable[[Row], float | str]
    is_number: bool = True


def _number(short: str, title: str, meaning: str, name: str, factor: float = 1.0) -> Column:
    return Column(
        short, title, meaning, lambda row: rounded(row[name] / factor, 3), lambda row: row[name] / factor
    )


def _whole(name: str, title: str, meaning: str) -> Column:
    return Column(title.lower(), title, meaning, lambda row: str(row[name]), lambda row: row[name])


def _word(name: str, meaning: str) -> Column:
    return Column(name, name, meaning, lambda row: str(row[name]), lambda row: str(row[name]), False)


def _yes_or_no(name: str, meaning: str) -> Column:
    def said(row: Row) -> str:
        return "yes" if row[name] else "no"

    return Column(name, name, meaning, said, said, False)


def _exposed(row: Row) -> float:
    return float(row["exposed_comm_seconds"] / row["iteration_seconds"])


def _band(row: Row) -> float:
    low, high = row["iteration_seconds_low"], row["iteration_seconds_high"]
    return float((high - low) / 2 / row["iteration_seconds"])


COLUMNS = (
    _word("kind", "MoE, or a dense twin"),
    _number("seconds", "iteration, s", "seconds of a training iteration", "iteration_seconds"),
    Column(
        "band",
        "band, ±%",
        "half the band of the seconds, in which about 80% of measured runs of this kind lie",
        lambda row: percent(_band(row)).removesuffix("%"),
        lambda row: 100 * _band(row),
    ),
    _word("validated", "whether it resembles runs that were measured: inside their range, or outside"),
    _number("tokens", "tokens/s/GPU", "tokens per second and GPU", "tokens_per_second_per_gpu"),
    _number("mfu", "MFU, %", "model flops utilisation", "mfu", 0.01),
    Column(
        "exposed",
        "exposed, %",
        "communication that compute does not hide, of the iteration",
        lambda row: percent(_exposed(row)).removesuffix("%"),
        lambda row: 100 * _exposed(row),
    ),
    _number("gib", "peak, GiB", "device memory of the worst rank", "peak_memory_bytes", 2.0**30),
    _yes_or_no("fits", "whether that fits the GPU"),
    _yes_or_no("refused", "whether Megatron would refuse the layout"),
    _number("usd", "USD/10⁹ tokens", "price of training on a billion tokens", "usd_per_billion_tokens"),
    _whole("warnings", "warnings", "what validation remarks"),
    _word("model", "the model trained"),
    _whole("world_size", "GPUs", "world size"),
    _whole("tp", "tp", "tensor parallelism"),
    _whole("pp", "pp", "pipeline parallelism"),
    _whole("virtual_pipeline", "vp", "chunks of a stage: virtual pipeline"),
    _whole("ep", "ep", "expert parallelism"),
    _whole("dp", "dp", "data parallelism of dense parameters"),
    _whole("edp", "edp", "copies of each expert"),
)


def columns(evidence: Evidence) -> tuple[Column, ...]:
    """Return COLUMNS, and behind them one for each other option of which the sweep has several values."""
    shown = {column.name for column in COLUMNS} | {"virtual_pipeline", "world_size"}
    types = evidence.workloads.schema
    return (
        *COLUMNS,
        *(
            _option(name, types[name].is_integer())
            for name in varying(evidence.workloads)
            if name not in shown
        ),
    )


def _option(name: str, is_number: bool) -> Column:
    """A column of any option; a dense workload may have no value of one of experts."""

    def said(row: Row) -> str:
        value = row[name]
        if value is None:
            return "–"
        return ("yes" if value else "no") if isinstance(value, bool) else str(value)

    def key(row: Row) -> float | str:
        return float(row[name]) if is_number and row[name] is not None else said(row)

    return Column(name, name, f"option {name}", said, key, is_number)


def overview(evidence: Evidence, of: Sequence[Column]) -> list[Row]:
    """Return every workload's row: `id`, `model`, `kind`, `fits` to filter by, and its `cells`."""
    warned = evidence.validation.group_by("workload").agg(warnings=pl.len())
    rows = evidence.workloads.join(warned, on="workload", how="left", maintain_order="left").with_columns(
        pl.col("warnings").fill_null(0), refused=pl.col("workload").is_in(evidence.refused)
    )
    return [
        {
            "id": row["workload"],
            "model": row["model"],
            "kind": row["kind"],
            "fits": "yes" if row["fits"] else "no",
            "cells": [(column.text(row), column.key(row)) for column in of],
        }
        for row in rows.iter_rows(named=True)
    ]
