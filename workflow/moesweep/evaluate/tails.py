"""What depends on a stage's contents and on who shares its states: closing work."""

from dataclasses import dataclass

import numpy as np

from moesweep.cost.buckets import BUCKETED, OF_BUCKETS
from moesweep.cost.stages import COMM
from moesweep.evaluate.batch import TAIL, Batch
from moesweep.evaluate.passes import sums
from moesweep.evaluate.segments import Segments, segments
from moesweep.shapes.distinct import Array, Codes

STATES = {"parameters": "adam_m", "owned": "adam_n", "quantised": "adam_k"}
"""What a rank holds, updates and multiplies in fp8: the shape of the optimizer's op."""


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
    what = batch.declared(TAIL)
    # An optimizer step has no layer, and no host waits in it.
    reads = frozenset().union(*(op.reads for op in what.ops)) - set(batch.class_columns)
    rows, codes, first = batch.distinct_rows(reads, batch.layout)
    classes = classes_of(batch, first)
    frame = rows[classes.owner].hstack(batch.layouts.classes[classes.rows].select(batch.class_columns))
    wanted: dict[str, tuple[str, ...]] = dict.fromkeys(BUCKETED, ("seconds", "comm_bytes"))
    found = sums(what.ops, frame, wanted | {"adam": ("m", "n", "k")})
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


def classes_of(batch: Batch, first: Array) -> Segments:
    """Return the stage classes of some workloads."""
    layout = batch.layout.of[first]
    return segments(batch.layouts.starts[layout], batch.layouts.sizes[layout])
