"""What can be explained, by name: `iteration_seconds`, `stage:2:seconds`, `op:expert_fc1:forward:seconds`."""

from collections.abc import Iterable

import polars as pl

from moesweep.edge.argument_numbers import is_index
from moesweep.edge.problems import BadInput, Problem, did_you_mean
from moesweep.explain.columns import Table
from moesweep.explain.ledger import QUANTITIES, Ledger
from moesweep.explain.node import Node
from moesweep.store.tablefile import dtypes
from moesweep.study.keys import SCHEMA

OP_METRICS = ("seconds", *QUANTITIES)
PHASES = ("forward", "backward", "optimizer")
KINDS = ("dense", "moe")
FORMS = (
    "a cost column, stage:NUMBER:COLUMN or op:NAME[:PHASE][:dense|moe][:layer=NUMBER][:stage=NUMBER]:COLUMN"
)


def cost_metrics() -> list[str]:
    """Return the columns of results/costs.parquet that have an explanation."""
    return [name for name in dtypes("costs") if name != "workload"]


def metric(ledger: Ledger, name: str) -> Node:
    """Return the node of a metric; raise BadInput with the nearest ones for an unknown name."""
    kind, *parts = name.split(":")
    if kind == "op":
        return _op_metric(ledger, name, parts)
    if kind == "stage":
        return _stage_metric(ledger, name, parts)
    if name in cost_metrics():
        return ledger.costs.column(ledger.costs.frame, name)
    if name in SCHEMA:
        return ledger.workload.column(ledger.workload.frame, name)
    raise _unknown(name, "metric", name, [*cost_metrics(), *SCHEMA, "op:", "stage:"])


def _op_metric(ledger: Ledger, name: str, parts: list[str]) -> Node:
    if len(parts) < 2:
        raise _malformed(name)
    op, *narrower, column = parts
    rows = ledger.ops.frame.filter(pl.col("op") == op)
    if rows.is_empty():
        raise _unknown(name, "op", op, ledger.ops.frame["op"].unique())
    if column not in OP_METRICS:
        raise _unknown(name, "column", column, OP_METRICS)
    for word in narrower:
        rows = _narrowed(ledger, rows, word, name)
    distinct = rows.unique(["phase", "layer_kind"], keep="first", maintain_order=True)
    if distinct[column].n_unique() > 1:
        found = ", ".join(_full_name(row, op, column) for row in distinct.iter_rows(named=True))
        message = f"{op} has more than one {column}"
        raise BadInput([Problem("", "METRIC", "ambiguous", name, message, f"known: {found}")])
    return ledger.ops.column(_on_slowest_stage(ledger, rows), column)


def _narrowed(ledger: Ledger, rows: pl.DataFrame, word: str, name: str) -> pl.DataFrame:
    """Return the rows that a phase, a kind of layer, a layer or a stage names, which must be some."""
    what, _, number = word.partition("=")
    if what == "stage" and is_index(number):
        kept = rows.filter(pl.col("stage") == int(number))
    elif what == "layer" and is_index(number):
        layer = ledger.programs.layers.filter(pl.col("layer") == int(number))
        kept = rows.join(layer, on=["stage", "layer_kind"], how="semi", maintain_order="left")
    elif word in PHASES:
        kept = rows.filter(pl.col("phase") == word)
    else:
        kept = rows.filter(pl.col("layer_kind").str.splitn(" ", 2).struct[0] == word)
    if kept.is_empty():
        there = rows.select(
            pl.concat_list("phase", pl.col("layer_kind"), pl.format("stage={}", "stage")).alias("words")
        )
        raise _unknown(name, "place of that op", word, there["words"].explode().drop_nulls().unique())
    return kept


def _full_name(row: dict[str, str | None], op: str, column: str) -> str:
    kind = row["layer_kind"]
    place = f"layer={row['layer']}" if kind and " " in kind else kind
    parts = ("op", op, row["phase"], place, column)
    return ":".join(part for part in parts if part)


def _on_slowest_stage(ledger: Ledger, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the row on the slowest stage, whose rank the cost columns describe, or on the first with one."""
    stages = ledger.stages.frame
    slowest = stages["stage"][stages["seconds"].arg_max() or 0]
    there = rows.filter(pl.col("stage") == slowest)
    return (rows if there.is_empty() else there)[:1]


def _stage_metric(ledger: Ledger, name: str, parts: list[str]) -> Node:
    if len(parts) != 2:
        raise _malformed(name)
    number, column = parts
    known = ledger.stages.frame["stage"].cast(pl.String)
    if number not in known:
        raise _unknown(name, "stage", number, known)
    tables: list[Table] = [ledger.stages, ledger.memory]
    for table in tables:
        if column in table.of_a_row or column in table.of_rows:
            return table.column(table.frame.filter(pl.col("stage") == int(number)), column)
    raise _unknown(
        name, "column", column, [name for table in tables for name in (*table.of_a_row, *table.of_rows)]
    )


def _malformed(name: str) -> BadInput:
    return BadInput([Problem("", "METRIC", "form", name, f"{name} is not a metric", f"needed: {FORMS}")])


def _unknown(name: str, kind: str, word: str, known: Iterable[str]) -> BadInput:
    message = f"there is no {kind} {word}" + (f" in {name}" if word != name else "")
    return BadInput([Problem("", "METRIC", "known", name, message, did_you_mean(word, known))])
