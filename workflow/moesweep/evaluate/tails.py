"""What depends on a stage's contents and on who shares its states: closing work, and memory."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from moesweep.cost.buckets import BUCKETED, OF_BUCKETS
from moesweep.cost.memory import peak_bytes
from moesweep.cost.stages import COMM
from moesweep.evaluate.batch import TAIL, Batch, declared
from moesweep.evaluate.distinct import Array, Codes, coded, distinct, joined
from moesweep.evaluate.passes import roots, sums
from moesweep.evaluate.segments import Segments, segments
from moesweep.shapes.expressions import exact
from moesweep.shapes.schedule import most_warmup_steps

STATES = {"parameters": "adam_m", "owned": "adam_n"}
"""What a rank holds and updates: the shape of the optimizer's op."""

AT_ONCE = 1 << 18
"""Workloads whose stages' memory is worked out together."""


@dataclass(frozen=True)
class Tails:
    """What follows the last micro-batch, by stage class of each distinct tail.

    of       the tail of each workload
    starts   where the classes of each tail start
    values   tail_exposed, tail_compute, tail_<kind>_comm, OF_BUCKETS and STATES, by class
    longest  by tail, nothing of it hidden
    """

    of: Codes
    starts: Array
    values: dict[str, Array]
    longest: Array


def tails(batch: Batch) -> Tails:
    """Return the tails of a batch."""
    what = declared()[TAIL]
    # An optimizer step has no layer, and no host waits in it.
    reads = frozenset().union(*(op.reads for op in what.ops)) - set(batch.class_columns)
    rows, codes, first = batch.distinct_rows(reads, batch.layout)
    classes = _classes(batch, first)
    frame = rows[classes.owner].hstack(batch.layouts.classes[classes.rows].select(batch.class_columns))
    of_buckets = dict.fromkeys(BUCKETED, ("seconds", "comm_bytes"))
    found = sums(what.ops, frame, {"adam": ("m", "n")} | of_buckets)
    exposed = np.sum([found[part] for part in COMM], axis=0)
    values = {
        "tail_exposed": exposed,
        "tail_compute": found["compute"],
        **{f"tail_{part}": found[part] for part in COMM},
        **{name: found[name.replace("_bytes", "_comm_bytes")] for name in OF_BUCKETS},
        **{name: found[own] for name, own in STATES.items()},
    }
    longest, _ = classes.greatest(exposed + found["compute"])
    return Tails(codes, classes.starts, values, longest)


def _classes(batch: Batch, first: Array) -> Segments:
    """Return the stage classes of some workloads."""
    layout = batch.layout.of[first]
    return segments(batch.layouts.starts[layout], batch.layouts.sizes[layout])


def fullest(batch: Batch, tail: Tails) -> dict[str, Array]:
    """Return the bytes of the rank that needs most, by part, of every workload."""
    reads = roots(*batch.bytes_of_a_stage().values()) - {*batch.class_columns, *STATES}
    # Beyond what fills the pipeline, more micro-batches need no more memory.
    most = batch.workloads.select(_microbatches_in_flight()).to_series()
    codes = [
        tail.of,
        batch.layout,
        coded(most),
        *(batch.coded.codes(name) for name in sorted(reads - {"num_microbatches"})),
    ]
    found = distinct(joined(codes, batch.workloads.height))
    pieces = [
        _fullest(batch, tail, found.first[at : at + AT_ONCE], sorted(reads))
        for at in range(0, len(found.first), AT_ONCE)
    ]
    return {name: np.concatenate([piece[name] for piece in pieces])[found.index] for name in pieces[0]}


def _microbatches_in_flight() -> pl.Expr:
    """Return the micro-batches, but no more than a pipeline ever holds at once."""
    chunks = pl.col("virtual_pipeline")
    return pl.min_horizontal("num_microbatches", (most_warmup_steps() + 2 * chunks) // chunks)


def _fullest(batch: Batch, tail: Tails, first: Array, reads: list[str]) -> dict[str, Array]:
    classes = _classes(batch, first)
    states = (
        tail.starts[tail.of.of[first]][classes.owner]
        + classes.rows
        - batch.layouts.starts[batch.layout.of[first]][classes.owner]
    )
    frame = (
        batch.workloads[first]
        .select(reads)[classes.owner]
        .hstack(batch.layouts.classes[classes.rows].select(batch.class_columns))
        .with_columns(**{name: pl.Series(tail.values[name][states]) for name in STATES})
        .pipe(exact)
        .select(**batch.bytes_of_a_stage())
        .with_columns(**peak_bytes())
    )
    _, at = classes.greatest(frame["peak_memory_bytes"].to_numpy())
    return {name: frame[name].to_numpy()[at] for name in frame.columns}
