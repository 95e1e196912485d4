"""Lists of training runs as CSV: read, checked cell by cell, and turned into workloads."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
from moesweep.edge.textfile import read_text
from moesweep.store.tablefile import dictionary
from moesweep.study.keys import SCHEMA
from moesweep.study.validation import findings
from moesweep.study.workload import with_derived

MAX_FILE_BYTES = 1 << 26
TRUTH = {"0": False, "1": True, "false": False, "true": True, "False": False, "True": True}
_MLA = {
    "q_lora_rank": "q_lora",
    "kv_lora_rank": "kv_lora",
    "qk_nope_head_dim": "qk_nope",
    "qk_rope_head_dim": "qk_rope",
    "v_head_dim": "v",
}


@dataclass(frozen=True)
class Runs:
    """A list of runs.

    given      the file's rows, all text
    workloads  one row per run that can be modelled: `row` (its number in the file, from 0), `cluster`,
               and the workload columns; `workload` is the row number as text
    problems   what is wrong with the others, by row number
    """

    given: pl.DataFrame
    workloads: pl.DataFrame
    problems: dict[int, list[Problem]]


def read_runs(path: Path, clusters: list[str]) -> Runs:
    """Read a CSV file of runs; raise BadInput if it is no table or lacks a column."""
    given, file = _read(path), str(path)
    columns = dictionary("runs")["columns"]
    problems: dict[int, list[Problem]] = {}
    typed = given.select(
        _typed(given, column, file, problems) for column in columns if column["name"] in given.columns
    )
    typed = typed.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    for row, name in typed.filter(~pl.col("cluster").is_in(clusters)).select("row", "cluster").iter_rows():
        advice = did_you_mean(name, clusters)
        fault = Problem(file, _cell(row, "cluster"), "known_cluster", name, f"no cluster {name}", advice)
        problems.setdefault(row, []).append(fault)
    workloads = _workloads(typed.filter(~pl.col("row").is_in(list(problems))))
    for found in findings(workloads).filter(pl.col("severity") == "error").iter_rows(named=True):
        row, about = (
            int(found["workload"]),
            [found[key] for key in ("rule", "value", "message", "suggestion")],
        )
        problems.setdefault(row, []).append(Problem(file, _cell(row, found["key"]), *about))
    return Runs(given, workloads.filter(~pl.col("row").is_in(list(problems))), problems)


def _read(path: Path) -> pl.DataFrame:
    frame = _table(path)
    if frame.is_empty():
        raise BadInput([Problem(str(path), "", "empty", "", "holds no run", "one row a run")])
    needed = [c["name"] for c in dictionary("runs")["columns"] if not c.get("optional")]
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        spare = set(frame.columns) - set(needed)
        raise BadInput(
            Problem(str(path), name, "missing_column", "", f"no column {name}", did_you_mean(name, spare))
            for name in missing
        )
    return frame


def _table(path: Path) -> pl.DataFrame:
    """Return a CSV file's cells as text, null where empty; raise BadInput with every line that is no row."""
    file, lines = (
        str(path),
        csv.reader(io.StringIO(read_text(path, str(path), MAX_FILE_BYTES), newline=""), strict=True),
    )
    try:
        rows = [(lines.line_num, row) for row in lines if row]
    except csv.Error as error:
        fault = Problem(file, f"line {lines.line_num}", "csv", "", f"cannot be read as CSV: {error}")
        raise BadInput([fault]) from error
    header = rows[0][1] if rows else []
    problems = [
        Problem(file, "line 1", "duplicate", shown(name), f"the column {shown(name)} occurs twice")
        for name in dict.fromkeys(name for name in header if header.count(name) > 1)
    ]
    problems += [
        Problem(
            file,
            f"line {line}",
            "cells",
            str(len(row)),
            f"{len(row)} cells where the header has {len(header)}",
        )
        for line, row in rows[1:]
        if len(row) != len(header)
    ]
    if problems:
        raise BadInput(problems)
    cells = [[cell or None for cell in row] for _, row in rows[1:]]
    return pl.DataFrame(cells, schema=dict.fromkeys(header, pl.String), orient="row")


def _cell(row: int, column: str) -> str:
    # Line 1 of the file is the header.
    return f"line {row + 2}, column {column}"


def _typed(
    given: pl.DataFrame, column: dict[str, Any], file: str, problems: dict[int, list[Problem]]
) -> pl.Series:
    """Return a column in its type, null where a cell is wrong; the faults go into `problems`."""
    name, text = column["name"], given[column["name"]].str.strip_chars()
    if column["type"] == "Boolean":
        values, needed = text.replace_strict(TRUTH, default=None, return_dtype=pl.Boolean), "0 or 1"
    elif column["type"] == "Enum":
        values = text.set(~text.is_in(column["values"]).fill_null(False), None)
        needed = " or ".join(column["values"])
    elif column["type"] == "String":
        values, needed = text, "text"
    else:
        least = column["least"]
        number = text.cast(pl.Int64 if column["type"] == "Int64" else pl.Float64, strict=False)
        values = number.set((number < least) | (number > 2.0**40) | number.is_nan(), None)
        needed = f"a {'whole ' if column['type'] == 'Int64' else ''}number of at least {least}"
    # An optional cell may be empty, any other not.
    faulty = values.is_null() & text.is_not_null() if column.get("optional") else values.is_null()
    for row in faulty.arg_true():
        message = f"{shown(text[row])} where {needed} is needed"
        problems.setdefault(row, []).append(
            Problem(file, _cell(row, name), "cell", shown(text[row]), message)
        )
    return pl.Series(name, values)


def _workloads(runs: pl.DataFrame) -> pl.DataFrame:
    llama_like = pl.col("gated_mlp")
    mla = pl.col("attention").str.starts_with("mla")
    grouped = pl.col("num_query_groups") < pl.col("num_attention_heads")

    def latent(key: str) -> pl.Expr:
        width = pl.col("attention").str.extract(rf"\b{key}=(\d+)").cast(pl.Int64)
        return pl.when(mla).then(width.fill_null(0)).otherwise(0)

    resolved = with_derived(
        runs.with_columns(
            *(latent(key).alias(name) for name, key in _MLA.items()),
            listed=pl.lit(1, dtype=pl.Int64),
            model=pl.col("run"),
            normalization=pl.when(llama_like).then(pl.lit("rmsnorm")).otherwise(pl.lit("layernorm")),
            position_embedding=pl.when(llama_like).then(pl.lit("rope")).otherwise(pl.lit("learned")),
            tied_embeddings=~llama_like,
            routing=pl.lit("uncontrolled"),
            attention=pl.when(mla)
            .then(pl.lit("mla"))
            .when(grouped)
            .then(pl.lit("gqa"))
            .otherwise(pl.lit("mha")),
        )
    )
    numbered = resolved.with_columns(workload=pl.col("row").cast(pl.String))
    return numbered.select(*SCHEMA, "row", "cluster")
