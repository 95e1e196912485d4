"""Passes with communication over ranks that have other batches.

How long it takes depends on how many of these there are, which nothing else of a pass does. So it is
evaluated apart, for the workloads alone that have it, and joined with the pass that others share: what
sharded parameters and gradients take, and counts of tokens over a stage, for losses of global batches.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moesweep.cost.sharding import SHARDED, beside_passes
from moesweep.cost.stages import COMM, with_more
from moesweep.evaluate.passes import Wide, roots, sums
from moesweep.shapes.communication import LAYER_SHARDS
from moesweep.shapes.distinct import Array, Codes

if TYPE_CHECKING:
    from moesweep.evaluate.batch import Batch, Pass

_SHARED = ("seconds", "exposed", "spare")
"""What of the shared pass the joined one is made from."""


def _joined() -> dict[str, pl.Expr]:
    """Return `seconds exposed dp_hidden edp_hidden` of a joined pass, over _SHARED, SHARDED and `counted`."""
    return beside_passes(with_more({name: pl.col(name) for name in _SHARED}, pl.col("counted")))


def reads_of(ops: list[Wide]) -> frozenset[str]:
    """Return the columns and constants that the joining reads, besides the shared pass."""
    beside = roots(*_joined().values()) - {*_SHARED, *SHARDED, "counted"}
    return frozenset().union(beside, *(op.reads for op in ops)) - {"stage"}


def joined_with(
    known: "Pass", ops: list[Wide], batch: "Batch", some: Array
) -> tuple[Codes, Mapping[str, Array]]:
    """Return a pass of all workloads as codes and values: `known`, but joined with `ops` on `some` workloads.

    `batch` holds these alone. `known` has `spare` where some workload counts tokens over a stage.
    """
    shared = Codes(known.codes.of[some], known.codes.size)
    rows, codes, first = batch.distinct_rows(reads_of(ops), shared)
    own = {name: known.of(some[first], name) for name in known.values}
    found = sums(ops, rows, {each.op.name: ("seconds",) for each in ops})
    seconds = {each.op.name: found[f"{each.op.name}_seconds"] for each in ops}
    frame = rows.with_columns(
        **{name: pl.Series(own.pop(name, np.zeros(rows.height))) for name in _SHARED},
        **{name: pl.Series(part) for name, part in _parts(seconds, rows.height).items()},
    )
    own |= {name: own[name] + found[name] for name in COMM}
    own |= {name: values.to_numpy() for name, values in frame.select(**_joined()).to_dict().items()}
    of = known.codes.of.copy()
    of[some] = known.codes.size + codes.of
    values = {name: np.concatenate([known.values[name], own[name]]) for name in own}
    return Codes(of, known.codes.size + rows.height), values


def _parts(seconds: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """Return SHARDED, and as `counted` what the other ops take, from the seconds of each op."""
    nothing = np.zeros(rows)
    of = [*LAYER_SHARDS.values(), *((f"{end}_reduce_dense",) for end in ("head", "embedding"))]
    parts = [sum((seconds.get(op, nothing) for op in names), nothing) for names in of]
    sharded = {op for names in of for op in names}
    counted = sum((each for op, each in seconds.items() if op not in sharded), nothing)
    return dict(zip(SHARDED, parts, strict=True)) | {"counted": counted}
