"""Passes of workloads whose gradients, or parameters too, are sharded.

What these gather and reduce in a pass depends on who holds the same parameters, which nothing else of a pass
does. So it is evaluated apart, for such workloads alone, and joined with the pass that others share.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moesweep.cost.sharding import SHARDED, beside_passes
from moesweep.cost.stages import COMM
from moesweep.evaluate.passes import Wide, roots, sums
from moesweep.shapes.communication import LAYER_SHARDS
from moesweep.shapes.distinct import Array, Codes

if TYPE_CHECKING:
    from moesweep.evaluate.batch import Batch, Pass

_SHARED = ("seconds", "exposed")
"""What of the shared pass the joined one is made from."""


def reads_of(ops: list[Wide]) -> frozenset[str]:
    """Return the columns and constants that the joining reads, besides the shared pass."""
    beside = roots(*beside_passes(_columns()).values()) - {*_SHARED, *SHARDED}
    return frozenset().union(beside, *(op.reads for op in ops)) - {"stage"}


def _columns() -> dict[str, pl.Expr]:
    return {name: pl.col(name) for name in _SHARED}


def joined_with(
    known: "Pass", ops: list[Wide], batch: "Batch", some: Array
) -> tuple[Codes, Mapping[str, Array]]:
    """Return a pass of all workloads as codes and values: `known`, but joined with `ops` on `some` workloads.

    `batch` holds these alone.
    """
    shared = Codes(known.codes.of[some], known.codes.size)
    rows, codes, first = batch.distinct_rows(reads_of(ops), shared)
    own = {name: known.of(some[first], name) for name in known.values}
    found = sums(ops, rows, {each.op.name: ("seconds",) for each in ops})
    nothing = np.zeros(rows.height)
    seconds = {each.op.name: found[f"{each.op.name}_seconds"] for each in ops}
    parts = [sum((seconds.get(op, nothing) for op in names), nothing) for names in LAYER_SHARDS.values()]
    parts += [seconds.get(f"{end}_reduce_dense", nothing) for end in ("head", "embedding")]
    frame = rows.with_columns(
        **{name: pl.Series(own[name]) for name in _SHARED},
        **{name: pl.Series(part) for name, part in zip(SHARDED, parts, strict=True)},
    )
    beside = frame.select(**beside_passes(_columns()))
    own |= {name: own[name] + found[name] for name in COMM}
    own |= {name: beside[name].to_numpy() for name in beside.columns}
    of = known.codes.of.copy()
    of[some] = known.codes.size + codes.of
    values = {name: np.concatenate([known.values[name], own[name]]) for name in known.values}
    return Codes(of, known.codes.size + rows.height), values
