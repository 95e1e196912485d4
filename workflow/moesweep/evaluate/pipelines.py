"""What stage classes take for a micro-batch, and how long all micro-batches take to pass through them."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
import polars as pl

from moesweep.cost.buckets import LAYER_SECONDS
from moesweep.cost.iteration import HIDDEN, overlaps_messages, own_seconds
from moesweep.cost.model import MODEL_FLOPS
from moesweep.cost.pairs import OF_A_PAIR, PHASES, hidden_of_a_pair
from moesweep.cost.stages import COMM
from moesweep.evaluate.batch import Batch, Pass, Scope
from moesweep.evaluate.layouts import Layouts
from moesweep.evaluate.segments import Segments, segments
from moesweep.shapes.distinct import Array, Codes, distinct, joined
from moesweep.shapes.placement import ARRIVALS, ENDS
from moesweep.shapes.schedule import GROUP, in_pairs
from moesweep.shapes.steps import makespans

OF_A_STAGE = ("seconds", "exposed", *HIDDEN, *COMM, *MODEL_FLOPS)
"""What is summed of the passes of a stage."""


@dataclass(frozen=True)
class Pipelines:
    """Distinct pipelines: which one each workload has, and what they take.

    of         the pipeline of each workload
    slowest    the class of each pipeline's slowest stage, counted from its layout's first
    values     by pipeline: all_seconds and MODEL_FLOPS of all stages; stage_seconds, stage_<part> and the
               number `stage` of the slowest
    starts     where the stage classes of each pipeline start; `layers` are their LAYER_SECONDS
    stepping   those that `filled_and_drained` is not exact for
    """

    of: Codes
    slowest: Array
    values: dict[str, Array]
    starts: Array
    layers: dict[str, Array]
    stepping: "Stepping"


def pipelines(batch: Batch) -> Pipelines:
    """Return the pipelines of a batch."""
    lines = batch.layouts
    passes = {scope: batch.passes(scope) for scope in batch.scopes if scope[0] in lines.scopes}
    own = (batch.coded.codes(name) for name in ("overlap_p2p_comm", GROUP))
    codes = [batch.layout, *own, *(each.codes for each in passes.values())]
    found = distinct(joined(codes, batch.workloads.height))
    paired = _paired(batch, passes, found.first)
    layout = batch.layout.of[found.first]
    rows = segments(lines.starts[layout], lines.sizes[layout])
    stages = _stages(batch, passes, paired, found.first, rows)
    count = lines.classes["count"].to_numpy()[rows.rows].astype(np.float64)
    most, at = rows.greatest(stages["own_seconds"])
    values = {
        "all_seconds": rows.sums(count * stages["own_seconds"]),
        "stage_seconds": most,
        **{
            f"stage_{part}": stages[part][at]
            for part in ("own_exposed", *HIDDEN, "pp_hidden", "paired", *COMM)
        },
        "stage": lines.classes["stage"].to_numpy()[rows.rows][at],
        **{name: rows.sums(count * stages[name]) for name in MODEL_FLOPS},
    }
    is_last = lines.classes["is_last"].to_numpy()[rows.rows]
    last, _ = rows.greatest(np.where(is_last, stages["own_seconds"], 0.0))
    closed = lines.alike[layout] & (last >= most)
    layers = {name: stages[name] for name in LAYER_SECONDS}
    stepping = Stepping(batch, passes, paired, found.first, closed)
    return Pipelines(found.codes, at - rows.starts, values, rows.starts, layers, stepping)


def _paired(batch: Batch, passes: dict[Scope, Pass], first: Array) -> dict[str, Array]:
    """Return what a layer of each kind saves in pairs, by pipeline; nothing of kinds of which none does."""
    some = np.flatnonzero(batch.workloads.select(in_pairs).to_series().to_numpy()[first])
    found = {}
    for kind in (
        dict.fromkeys(name for name, _ in passes if name not in (*ENDS, *ARRIVALS)) if some.size else ()
    ):
        both = {
            f"{phase}_{name}": passes[kind, phase].of(first[some], name)
            for phase in PHASES
            for name in ("seconds", *OF_A_PAIR)
        }
        found[kind] = np.zeros(len(first))
        found[kind][some] = pl.DataFrame(both).select(**hidden_of_a_pair()).to_series().to_numpy()
    return found


def _stages(
    batch: Batch, passes: dict[Scope, Pass], paired: dict[str, Array], first: Array, rows: Segments
) -> dict[str, Array]:
    """Return OF_A_STAGE, LAYER_SECONDS, `paired` and `own_seconds` of every stage class of every pipeline."""
    contents = batch.layouts.contents[rows.rows]
    total = {name: np.zeros(len(rows.rows)) for name in (*OF_A_STAGE, *LAYER_SECONDS, "paired")}
    for kind, saved in paired.items():
        total["paired"] += contents[:, batch.layouts.scopes.index(kind)] * saved[rows.owner]
    for at, scope in enumerate(batch.layouts.scopes):
        own = [each for (name, _), each in passes.items() if name == scope]
        for name in OF_A_STAGE:
            if any(each.values[name].any() for each in own):
                once = np.sum([each.of(first, name) for each in own], axis=0)
                total[name] += contents[:, at] * once[rows.owner]
        for (name, phase), each in passes.items():
            if name == scope and name not in (*ENDS, *ARRIVALS):
                total[f"{phase}_seconds"] += contents[:, at] * each.of(first, "seconds")[rows.owner]
    beside = batch.workloads["overlap_p2p_comm"].to_numpy()[first][rows.owner]
    read = ("seconds", "exposed", "pp_comm", "paired")
    frame = pl.DataFrame({"overlap_p2p_comm": beside} | {name: total[name] for name in read})
    busy = frame.select(**own_seconds())
    return total | {name: busy[name].to_numpy() for name in busy.columns}


class Stepping:
    """Pipelines to be stepped through for some number of micro-batches, but those with a `closed` form."""

    def __init__(
        self,
        batch: Batch,
        passes: dict[Scope, Pass],
        paired: dict[str, Array],
        first: Array,
        closed: Array,
    ) -> None:
        self._layouts, self._passes, self._paired, self._first = batch.layouts, passes, paired, first
        self._layout, own = batch.layout.of[first], batch.workloads[first]
        self._pp, self._chunks = own["pp"].to_numpy(), own["virtual_pipeline"].to_numpy()
        self._groups = own[GROUP].to_numpy()
        self._overlaps = own.select(overlaps_messages).to_series().to_numpy()
        self._in_pairs = own.select(in_pairs).to_series().to_numpy()
        self._stepped = ~closed & (self._pp > 1)

    def seconds(self, pipeline: Array, microbatches: Array) -> Array:
        """Return the seconds of micro-batches through pipelines, NaN where a closed form says them."""
        ended = np.full(len(pipeline), np.nan)
        some = np.flatnonzero(self._stepped[pipeline])
        if not some.size:
            return ended
        line, count = pipeline[some], microbatches[some]
        codes = [Codes(line, len(self._first)), Codes(count, int(count.max()) + 1)]
        pairs = distinct(joined(codes, some.size))
        line, count = line[pairs.first], count[pairs.first]
        found = np.empty(len(line))
        shapes = np.stack([each[line] for each in (self._pp, self._chunks, self._groups, self._in_pairs)])
        kinds, of = np.unique(shapes, axis=1, return_inverse=True)
        for kind, (pp, chunks, group, paired) in enumerate(kinds.T.tolist()):
            here = np.flatnonzero(of.ravel() == kind)
            own, which = np.unique(line[here], return_inverse=True)
            lengths, delays = self._times(own, pp, chunks)
            hidden = self._hidden(own, pp, chunks) if paired else None
            found[here] = makespans(lengths, delays, (pp, chunks), which, count[here], hidden, group)
        ended[some] = found[pairs.index]
        return ended

    def _times(self, lines: Array, pp: int, chunks: int) -> tuple[Array, Array]:
        """Return how long passes of some pipelines last, and messages take (`Order.ends`)."""
        first, scopes = self._first[lines], self._layouts.scopes
        lengths, delays = np.empty((2 * pp * chunks, len(lines))), np.zeros((2, len(lines)))
        values = np.zeros((2, len(scopes), len(lines)))
        for (name, phase), each in self._passes.items():
            way, seconds = PHASES.index(phase), each.of(first, "seconds")
            if name in ARRIVALS:
                delays[way] = np.where(self._overlaps[lines], each.of(first, "pp_comm"), 0.0)
                seconds = seconds - delays[way]
            values[way, scopes.index(name)] = seconds
        layouts = self._layout[lines]
        for layout in np.unique(layouts).tolist():
            here = np.flatnonzero(layouts == layout)
            held = _chunks_of(self._layouts, layout, pp, chunks)
            for way in range(len(PHASES)):
                # One scope after the other: how a product of matrices rounds depends on the batch's size.
                parts = zip(held.T, values[way][:, here], strict=True)
                lengths[way::2, here] = reduce(np.add, (np.outer(*part) for part in parts))
        return lengths, delays

    def _hidden(self, lines: Array, pp: int, chunks: int) -> Array:
        """Return what passes of each chunk of some pipelines save in pairs, virtual stages × pipelines."""
        layouts, hidden = self._layout[lines], np.zeros((pp * chunks, len(lines)))
        for layout in np.unique(layouts).tolist():
            here = np.flatnonzero(layouts == layout)
            held = _chunks_of(self._layouts, layout, pp, chunks)
            for kind, saved in self._paired.items():
                hidden[:, here] += np.outer(held[:, self._layouts.scopes.index(kind)], saved[lines[here]])
        return hidden


def _chunks_of(layouts: Layouts, layout: int, pp: int, chunks: int) -> Array:
    """Return what each chunk of a layout holds, virtual stages × scopes."""
    start = layouts.stage_starts[layout]
    first = layouts.chunk_starts[layouts.staged[start : start + pp]]
    held: Array = layouts.chunked[(first[None, :] + np.arange(chunks)[:, None]).ravel()]
    return held
