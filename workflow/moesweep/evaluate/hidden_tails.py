"""What of a stage's closing communication runs beside its passes: where tails and pipelines meet."""

import numpy as np
import polars as pl

from moesweep.cost.buckets import HIDDEN_OF_THE_TAIL, LAYER_SECONDS, OF_BUCKETS, hidden_of_the_tail
from moesweep.cost.iteration import seconds_of_the_tail
from moesweep.evaluate.batch import Batch
from moesweep.evaluate.passes import roots
from moesweep.evaluate.pipelines import Pipelines
from moesweep.evaluate.segments import segments
from moesweep.evaluate.tails import Tails
from moesweep.shapes.distinct import Array, distinct, joined

OVERLAPS = pl.col("overlap_grad_reduce") | pl.col("overlap_param_gather")
"""Whether anything of a tail may be hidden."""


def waited_for(batch: Batch, tail: Tails, lines: Pipelines) -> dict[str, Array]:
    """Return of every workload what its slowest stage waits for, what it hides, and the longest tail.

    Columns own_tail_exposed, HIDDEN_OF_THE_TAIL and longest, in seconds.
    """
    at = tail.starts[tail.of.of] + lines.slowest[lines.of.of]
    found = {name: np.zeros(len(at)) for name in HIDDEN_OF_THE_TAIL}
    found |= {"own_tail_exposed": tail.values["tail_exposed"][at], "longest": tail.longest[tail.of.of]}
    some = np.flatnonzero(batch.workloads.select(OVERLAPS).to_series().to_numpy())
    if some.size:
        for name, values in _hidden(batch, tail, lines, some).items():
            found[name] = found[name].copy()
            found[name][some] = values
    return found


def _hidden(batch: Batch, tail: Tails, lines: Pipelines, some: Array) -> dict[str, Array]:
    """Return the same of some workloads, once for all that share their stages, tails and what it reads."""
    hidden = hidden_of_the_tail()
    reads = roots(*hidden.values()) - {*OF_BUCKETS, *LAYER_SECONDS, "stage"}
    own = sorted(reads & set(batch.workloads.columns))
    codes = [tail.of, lines.of, batch.cluster, *(batch.coded.codes(name) for name in own)]
    once = distinct(joined(codes, batch.workloads.height))
    kept = np.unique(once.index[some])
    first = once.first[kept]
    layout = batch.layout.of[first]
    classes = segments(batch.layouts.starts[layout], batch.layouts.sizes[layout])
    place = classes.rows - batch.layouts.starts[layout][classes.owner]
    closing = tail.starts[tail.of.of[first]][classes.owner] + place
    passing = lines.starts[lines.of.of[first]][classes.owner] + place
    frame = (
        batch.workloads[first]
        .select(own)[classes.owner]
        .with_columns(
            batch.layouts.classes["stage"][classes.rows],
            *(pl.Series(name, lines.layers[name][passing]) for name in LAYER_SECONDS),
            *(
                pl.Series(name, tail.values[name][closing])
                for name in (*OF_BUCKETS, "tail_exposed", "tail_compute")
            ),
        )
    )
    frame = batch.with_constants(frame, first[classes.owner], reads - set(own))
    frame = frame.with_columns(**hidden).with_columns(**seconds_of_the_tail())
    longest, _ = classes.greatest(frame["tail_seconds"].to_numpy())
    slowest = classes.starts + lines.slowest[lines.of.of[first]]
    values = {name: frame[name].to_numpy()[slowest] for name in ("own_tail_exposed", *HIDDEN_OF_THE_TAIL)} | {
        "longest": longest
    }
    index = np.searchsorted(kept, once.index[some])
    return {name: each[index] for name, each in values.items()}
