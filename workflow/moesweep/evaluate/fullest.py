"""Bytes of the rank that needs most: what layers hold evaluated once for all stages that have such layers."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from moesweep.cost.memory import peak_bytes
from moesweep.evaluate.batch import Batch
from moesweep.evaluate.passes import roots
from moesweep.evaluate.tails import STATES, Tails, classes_of
from moesweep.shapes.distinct import Array, Distinct, coded, distinct, joined
from moesweep.shapes.expressions import exact
from moesweep.shapes.schedule import most_warmup_steps

AT_ONCE = 1 << 18
"""Workloads whose stages' memory is worked out together."""


class Parts:
    """Parts of expressions that depend on the workload alone: columns of a frame of their own.

    found   by column, what it holds
    """

    def __init__(self, of_a_stage: set[str]) -> None:
        self.found: dict[str, pl.Expr] = {}
        self._of_a_stage = of_a_stage

    def __call__(self, name: str, part: pl.Expr) -> pl.Expr:
        """Return a column in the place of a part, or the part where it depends on the stage or on nothing."""
        reads = roots(part)
        if not reads or reads & self._of_a_stage:
            return part
        self.found[name] = part
        return pl.col(name)


@dataclass(frozen=True)
class OfClasses:
    """Bytes of each stage class of some workloads: `starts` is where those of each distinct one begin."""

    found: Distinct
    starts: Array
    values: dict[str, Array]


def fullest(batch: Batch, tail: Tails) -> dict[str, Array]:
    """Return the bytes of the rank that needs most, by part, of every workload."""
    parts = Parts({*batch.class_columns, *STATES})
    of_ranks = batch.bytes_of_a_stage(parts)
    of_states = {name: each for name, each in of_ranks.items() if roots(each) & set(STATES)}
    passes = _of_passes(batch, parts, {name: of_ranks[name] for name in of_ranks if name not in of_states})
    of_classes = sorted(roots(*of_states.values()) & set(batch.class_columns))
    reads = sorted(roots(*of_states.values()) - {*STATES, *of_classes})
    own = [batch.coded.codes(name) for name in reads]
    whole = distinct(joined([tail.of, passes.found.codes, *own], batch.workloads.height))
    pieces = []
    for at in range(0, len(whole.first), AT_ONCE):
        first = whole.first[at : at + AT_ONCE]
        classes = classes_of(batch, first)
        place = classes.rows - batch.layouts.starts[batch.layout.of[first]][classes.owner]
        held = (tail.starts[tail.of.of[first]])[classes.owner] + place
        run = passes.starts[passes.found.index[first]][classes.owner] + place
        frame = (
            batch.workloads[first]
            .select(reads)[classes.owner]
            .hstack(batch.layouts.classes[classes.rows].select(of_classes))
            .with_columns(**{name: pl.Series(tail.values[name][held]) for name in STATES})
            .pipe(exact)
            .select(**of_states)
            .with_columns(**{name: pl.Series(values[run]) for name, values in passes.values.items()})
            .with_columns(**peak_bytes())
        )
        _, most = classes.greatest(frame["peak_memory_bytes"].to_numpy())
        pieces.append({name: frame[name].to_numpy()[most] for name in frame.columns})
    return {name: np.concatenate([piece[name] for piece in pieces])[whole.index] for name in pieces[0]}


def _of_passes(batch: Batch, parts: Parts, of_passes: dict[str, pl.Expr]) -> OfClasses:
    """Return what passes take in each stage class; whoever shares a rank's states changes none of it."""
    rows, layers, _ = batch.distinct_rows(roots(*parts.found.values()))
    held = pl.concat(exact(some).select(**parts.found) for some in rows.iter_slices(AT_ONCE))
    reads = sorted(roots(*of_passes.values()) - {*batch.class_columns, *held.columns})
    # Beyond what fills the pipeline, more micro-batches need no more memory.
    most = batch.workloads.select(_microbatches_in_flight()).to_series()
    own = [batch.coded.codes(name) for name in reads if name != "num_microbatches"]
    found = distinct(joined([batch.layout, coded(most), layers, *own], batch.workloads.height))
    pieces = []
    for at in range(0, len(found.first), AT_ONCE):
        first = found.first[at : at + AT_ONCE]
        classes = classes_of(batch, first)
        frame = (
            batch.workloads[first]
            .select(reads)
            .hstack(held[layers.of[first]])[classes.owner]
            .hstack(batch.layouts.classes[classes.rows].select(batch.class_columns))
        )
        pieces.append(exact(frame).select(**of_passes))
    sizes = batch.layouts.sizes[batch.layout.of[found.first]]
    values = {name: column.to_numpy() for name, column in pl.concat(pieces).to_dict().items()}
    return OfClasses(found, np.cumsum(sizes) - sizes, values)


def _microbatches_in_flight() -> pl.Expr:
    """Return the micro-batches, but no more than a pipeline ever holds at once."""
    chunks = pl.col("virtual_pipeline")
    return pl.min_horizontal("num_microbatches", (most_warmup_steps() + 2 * chunks) // chunks)
