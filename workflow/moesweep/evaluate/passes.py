"""Passes in the wide form: the ops of a section evaluated side by side, once for each distinct configuration.

What the row form reads off the words of each row (which timing, which part of a pass) is chosen here once an
op (moesweep.cost.words). The rest are the very expressions of the row form.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from moesweep.cost.collectives import place_of
from moesweep.cost.model import needed_once
from moesweep.cost.ops import QUANTITIES, timing
from moesweep.cost.stages import (
    COMM,
    PARTS,
    counts_as,
    dispatches,
    meets_peers,
    repeats_forward,
    seconds_of_a_pass,
)
from moesweep.cost.words import Words
from moesweep.evaluate.distinct import Array
from moesweep.shapes.communication import HIDES_BEHIND
from moesweep.trace.programs import Section, quantities
from moesweep.trace.vocabulary import Op

SUMS = (*PARTS, "hidden", "peers", "dispatches", "recomputes", "model_flops")
"""What the ops of a pass add up to, besides what is asked for by name."""

OF_A_PASS = ("seconds", "exposed", *COMM, "model_flops")
"""What is kept of a pass through a layer."""

_OWN = {
    *QUANTITIES,
    "group_size",
    "stride",
    "members_per_node",
    "nodes",
    "num_microbatches",
    "runs",
    "seconds",
}
"""Columns that an op's own declaration gives."""


@dataclass(frozen=True)
class Wide:
    """One op of a section, ready to be evaluated: its words, its expressions, the columns that they read."""

    op: Op
    words: Words
    reads: frozenset[str]
    seconds: pl.Expr


def wide(section: Section) -> list[Wide]:
    """Return the ops of a section."""
    return [_wide(op, section.phase) for op in section.ops]


def _wide(op: Op, phase: str) -> Wide:
    words = Words(op.name, op.kind, phase, op.collective, op.group_kind)
    seconds = timing(words).seconds
    declared = [op.when, *(q for name, q in quantities(op).items() if name != "num_microbatches")]
    given = roots(*declared, *place_of(op.group_kind).values())
    own = roots(seconds, *([needed_once(words)] if phase == "forward" else []))
    return Wide(op, words, frozenset(given | (own - _OWN)), seconds)


def roots(*expressions: pl.Expr) -> set[str]:
    """Return the columns that expressions read."""
    return {name for expression in expressions for name in expression.meta.root_names()}


def sums(ops: Sequence[Wide], rows: pl.DataFrame, also: Mapping[str, Iterable[str]] = {}) -> dict[str, Array]:
    """Return what the ops of a section add up to on each row: SUMS, and `<op>_<quantity>` for `also`.

    `rows` are distinct configurations with the columns that the ops read, constants among them.
    """
    frames = pl.collect_all([_evaluated(each, rows, tuple(also.get(each.op.name, ()))) for each in ops])
    found = {name: np.zeros(rows.height) for name in SUMS}
    seconds: dict[str, Array] = {}
    for each, frame in zip(ops, frames, strict=True):
        column = {name: frame[name].to_numpy() for name in frame.columns}
        name, words = each.op.name, each.words
        seconds[name] = seconds.get(name, 0.0) + column["seconds"]
        for part in PARTS:
            if counts_as(words, part):
                found[part] += column["seconds"]
        if meets_peers(words):
            found["peers"] += column["peers"]
        if dispatches(words):
            found["dispatches"] += column["there"]
        if repeats_forward(words):
            found["recomputes"] = np.maximum(found["recomputes"], column["there"])
        found["model_flops"] += column["model_flops"]
        for quantity in also.get(name, ()):
            found[f"{name}_{quantity}"] = column[quantity]
    for hidden, behind in HIDES_BEHIND.items():
        if hidden in seconds and behind in seconds:
            found["hidden"] += np.minimum(seconds[hidden], seconds[behind])
    return found


def _evaluated(each: Wide, rows: pl.DataFrame, also: tuple[str, ...]) -> pl.LazyFrame:
    """Return an op's seconds and what else is summed of it, 0 where it is not there."""
    op = each.op
    own = {name: quantity.cast(pl.Int64) for name, quantity in quantities(op).items()}
    there = pl.col("there")

    def where_there(value: pl.Expr) -> pl.Expr:
        return pl.when(there).then(value).otherwise(0.0)

    needed = needed_once(each.words) if each.words.phase == "forward" else pl.lit(0.0)
    return (
        rows.lazy()
        .with_columns(**own, **place_of(op.group_kind), there=op.when.fill_null(False))
        .with_columns(pl.col(QUANTITIES).cast(pl.Float64))
        .select(
            seconds=where_there(each.seconds),
            there=there.cast(pl.Float64),
            peers=where_there((pl.col("group_size") - 1).cast(pl.Float64)),
            model_flops=where_there(needed),
            **{name: where_there(pl.col(name)) for name in also},
        )
    )


def of_a_layer(section: Section, found: Mapping[str, Array], rows: pl.DataFrame) -> dict[str, Array]:
    """Return OF_A_PASS from the sums of a section, on the rows that they are of."""
    frame = rows.with_columns(
        **{name: pl.Series(values) for name, values in found.items() if name in SUMS},
        phase=pl.lit(section.phase),
        layer_kind=pl.lit(section.layer_kind, dtype=pl.String),
    ).with_columns(pl.col("recomputes") > 0)
    passed = frame.select(**seconds_of_a_pass(), **{name: pl.col(name) for name in (*COMM, "model_flops")})
    return {name: passed[name].to_numpy() for name in OF_A_PASS}
