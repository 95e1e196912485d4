"""Costs in the factored form: every section evaluated once for each distinct configuration that it reads.

A pass through a layer depends on the model, tp, the micro-batch, not on the world size or the number of
micro-batches; so a million workloads have few distinct passes, somewhat more distinct stages, and only sums
of a few numbers each for themselves. The expressions are those of the row form (moesweep.cost.model), and a
test holds both equal.
"""

import numpy as np
import polars as pl

from moesweep.cost.buckets import HIDDEN_OF_THE_TAIL
from moesweep.cost.iteration import (
    alone,
    bubble,
    bubble_share,
    filled_and_drained,
    seconds_of_an_iteration,
    with_parts,
)
from moesweep.cost.model import MODEL_FLOPS, price, throughput
from moesweep.cost.stages import COMM
from moesweep.cost.uncertainty import band, regime
from moesweep.cost.validity import validity
from moesweep.evaluate.batch import Batch
from moesweep.evaluate.fullest import fullest
from moesweep.evaluate.hidden_tails import waited_for
from moesweep.evaluate.passes import roots
from moesweep.evaluate.pipelines import pipelines
from moesweep.evaluate.tails import Tails, tails
from moesweep.shapes.distinct import Array
from moesweep.shapes.schedule import SHAPE


def costs(batch: Batch) -> pl.DataFrame:
    """Return `workload` and the cost columns of every workload of a batch, and its model's flops."""
    tail = tails(batch)
    timed, memory = _timed(batch, tail), fullest(batch, tail)
    rated = [throughput(), price() | regime() | validity(), band()]
    reads = roots(*(each for some in rated for each in some.values()))
    own, constants = reads & set(batch.workloads.columns), reads & set(batch.constants.columns)
    frame = timed.hstack(batch.workloads.select("workload", *sorted(own - set(timed.columns))))
    frame = batch.with_constants(frame, np.arange(frame.height), constants)
    frame = frame.with_columns(**{name: pl.Series(values) for name, values in memory.items()})
    for some in rated:
        frame = frame.with_columns(**some)
    shown = {name for some in (seconds_of_an_iteration(), bubble(), bubble_share(), *rated) for name in some}
    return frame.select("workload", *sorted(shown | set(memory)))


def seconds(batch: Batch) -> pl.DataFrame:
    """Return the seconds of every workload's iteration alone, and their parts."""
    return _timed(batch, tails(batch))


def iteration_seconds(batch: Batch) -> Array:
    """Return the iteration's seconds alone."""
    found: Array = seconds(batch)["iteration_seconds"].to_numpy()
    return found


def _timed(batch: Batch, tail: Tails) -> pl.DataFrame:
    """Return the seconds of every workload's iteration by part, and the flops that its model needs."""
    lines = pipelines(batch)
    line, m = lines.of.of, batch.workloads["num_microbatches"].to_numpy()
    at = tail.starts[tail.of.of] + lines.slowest[line]
    hidden = waited_for(batch, tail, lines)
    stage = pl.Series("stage", lines.values["stage"][line])
    solo = batch.workloads.select(SHAPE).with_columns(stage).select(**alone())["alone"]
    columns = {
        **{name: lines.values[name][line] for name in lines.values if name not in (*MODEL_FLOPS, "stage")},
        "stage_alone": solo,
        **{
            f"stage_{name}": tail.values[name][at]
            for name in ("tail_compute", *(f"tail_{part}" for part in COMM))
        },
        **{f"stage_{name}": hidden[name] for name in ("own_tail_exposed", *HIDDEN_OF_THE_TAIL)},
        "longest_tail_seconds": hidden["longest"],
        "stepped_seconds": lines.stepping.seconds(line, m),
        **{name: 3 * m * lines.values[name][line] / batch.workloads["pp"].to_numpy() for name in MODEL_FLOPS},
    }
    frame = pl.DataFrame(columns | {"num_microbatches": m})
    closed = filled_and_drained()["pipeline_seconds"]
    stepped = pl.when(pl.col("stepped_seconds").is_nan()).then(closed).otherwise("stepped_seconds")
    return with_parts(frame.with_columns(pipeline_seconds=stepped))
