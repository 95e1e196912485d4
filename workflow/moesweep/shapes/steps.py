"""A pipeline's schedule stepped through: when each pass of each micro-batch ends.

A step starts when its stage is free and its neighbour has finished: forward of virtual stage i waits for that
of i - 1, backward for that of i + 1 (of the last one, for its own forward). Steps are sorted into levels that
wait for earlier levels alone, so a level is one operation on arrays: its steps, of any number of pipelines.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from moesweep.shapes.schedule import SHAPE, schedules, warmup_steps

Array = np.ndarray[Any, np.dtype[Any]]

CACHED_ELEMENTS = 1 << 18
"""Ends of steps that are worked on together: as many as a processor's cache holds."""

KNOWN_ORDERS = 64
"""Orders kept: pipelines of a sweep share few shapes."""


@dataclass(frozen=True)
class Order:
    """The steps of one schedule, in the order of its rows.

    pass_       which pass a step runs: 2 · (chunk · pp + stage), 1 more if backward; or one of `with_pairs`
    before      the step before it on its stage, the number of steps where there is none
    feeder      the step of the neighbour that it waits for, likewise
    crosses     0 where the feeder is on the same stage, else 1 forward and 2 backward
    levels      the steps of each level
    """

    pass_: Array
    before: Array
    feeder: Array
    crosses: Array
    levels: tuple[Array, ...]

    def ends(self, lengths: Array, delays: Array | None = None) -> Array:
        """Return when each step ends, steps × pipelines.

        lengths   passes × pipelines: how long a step of a pass lasts
        delays    2 × pipelines: what passes between the end of a forward, or backward, step and the start of
                  the step on another stage that waits for it
        """
        steps, batch = len(self.pass_), lengths.shape[1]
        ends = np.zeros((steps + 1, batch), dtype=lengths.dtype)
        waits = np.zeros((3, batch), dtype=lengths.dtype)
        if delays is not None:
            waits[1:] = delays
        for level in self.levels:
            ready = ends[self.feeder[level]]
            if delays is not None:
                ready = ready + waits[self.crosses[level]]
            ends[level] = np.maximum(ends[self.before[level]], ready) + lengths[self.pass_[level]]
        return ends[:steps]


def order_of(schedule: pl.DataFrame, warmups: Array | None = None) -> Order:
    """Return the order of a schedule's rows, `stage phase microbatch chunk`, a stage's as it runs them.

    Where passes run in pairs after `warmups` of each stage, a pair's backward step takes what the forward one
    leaves of the pair (`with_pairs`).
    """
    stage, chunk, microbatch = (schedule[name].to_numpy() for name in ("stage", "chunk", "microbatch"))
    backward = (schedule["phase"].cast(pl.String) == "backward").to_numpy()
    pp, chunks = int(stage.max()) + 1, int(chunk.max()) + 1
    rows, virtual = len(stage), chunk * pp + stage
    at = np.full((2, int(microbatch.max()) + 1, pp * chunks), rows)
    at[backward.astype(int), microbatch, virtual] = np.arange(rows)
    last = virtual == pp * chunks - 1
    source = np.where(backward, np.where(last, virtual, virtual + 1), virtual - 1)
    feeder = at[(backward & ~last).astype(int), microbatch, source]
    feeder = np.where(~backward & (virtual == 0), rows, feeder)
    places = np.argsort(stage, kind="stable")
    before = np.full(rows, rows)
    follows = stage[places][1:] == stage[places][:-1]
    before[places[1:][follows]] = places[:-1][follows]
    alone = (source % pp == stage) | (feeder == rows)
    crosses = np.where(alone, 0, np.where(backward, 2, 1))
    pass_ = 2 * virtual + backward
    if warmups is not None:
        of_pair = 2 * pp * chunks + (np.roll(chunk, 1) * chunks + chunk) * pp + stage
        pass_ = np.where(_closes_a_pair(stage, warmups), of_pair, pass_)
    return Order(pass_, before, feeder, crosses, _levels(stage, feeder))


def _closes_a_pair(stage: Array, warmups: Array) -> Array:
    """Return whether steps are the backward ones of pairs; rows are those of one stage after the other."""
    steps = len(stage) // len(warmups)
    step, warmup = np.arange(len(stage)) % steps, warmups[stage]
    closes: Array = (step > warmup) & (step < steps - warmup) & ((step - warmup) % 2 == 1)
    return closes


def with_pairs(lengths: Array, hidden: Array, pp: int, chunks: int) -> Array:
    """Return lengths of passes, and behind them of the backward passes of all pairs of a stage's chunks.

    lengths   passes × pipelines, as for `Order.ends`
    hidden    virtual stages × pipelines: what a chunk's two passes save as a pair. A pair of two chunks saves
              what the one of them does that saves less.

    Those of forward chunk f and backward chunk b stand at (f · chunks + b) · pp + stage.
    """
    backward, saved = (some.reshape(chunks, pp, -1) for some in (lengths[1::2], hidden))
    pairs = backward - np.minimum(saved[:, None], saved)
    return np.concatenate([lengths, pairs.reshape(-1, lengths.shape[1])])


def _levels(stage: Array, feeder: Array) -> tuple[Array, ...]:
    """Return the steps of each level; raise ValueError for a schedule that waits for itself.

    A stage runs as far as it can, then the next one does, until all are through.
    """
    rows = len(stage)
    feeds, level = feeder.tolist(), [0] * rows + [0]
    queues = [iter(np.flatnonzero(stage == each).tolist()) for each in range(int(stage.max()) + 1)]
    waiting, last = [next(queue, None) for queue in queues], [0] * len(queues)
    level[:rows] = [-1] * rows
    while any(step is not None for step in waiting):
        moved = False
        for each, queue in enumerate(queues):
            while (step := waiting[each]) is not None and (fed := level[feeds[step]]) >= 0:
                last[each] = level[step] = max(last[each], fed) + 1
                waiting[each], moved = next(queue, None), True
        if not moved:
            raise ValueError("the steps of this schedule wait for one another")
    found = np.array(level[:rows])
    by_level = np.argsort(found, kind="stable")
    return tuple(np.split(by_level, np.flatnonzero(np.diff(found[by_level])) + 1))


@lru_cache(KNOWN_ORDERS)
def interleaved(
    pp: int, chunks: int, microbatches: int, in_pairs: bool = False, group: int | None = None
) -> Order:
    """Return the order of 1F1B, interleaved where a stage has several chunks; of passes alone or in pairs.

    `group` micro-batches pass through a chunk before the next one begins; unless said otherwise pp.
    """
    size = pp if group is None else group
    values = zip(SHAPE, (pp, chunks, microbatches, in_pairs, size), strict=True)
    schedule = schedules(pl.DataFrame({"workload": ["one"], **{name: [value] for name, value in values}}))
    return order_of(schedule, _warmup(pp, chunks, in_pairs, size, microbatches) if in_pairs else None)


def step_ends(schedule: pl.DataFrame, delays: tuple[Any, Any] = (0, 0)) -> list[Any]:
    """Return the end of each step of a schedule with `length`, in the order of the rows, in length's unit.

    `delays` is how long messages between stages take, forward and backward.
    """
    order, lengths = order_of(schedule), schedule["length"].to_numpy()[:, None]
    each = replace(order, pass_=np.arange(schedule.height))
    ends: list[Any] = each.ends(lengths, np.array(delays, lengths.dtype)[:, None])[:, 0].tolist()
    return ends


LONGER = (1, 2, 4, 8, 16)
"""Multiples of the least iteration in which a steady state shows that are tried, one after the other."""

WINDOW = 16
"""Steps of a stage that are compared: more than lie between a step and the one that it waits for. In groups
of N micro-batches 2(N - pp) more, as a chunk's next step comes N steps of its phase later."""

STEADY = 1e-12
"""How alike two periods have to be, as a share of the whole."""


def makespans(
    lengths: Array,
    delays: Array,
    shape: tuple[int, int],
    pipeline: Array,
    microbatches: Array,
    hidden: Array | None = None,
    group: int | None = None,
) -> Array:
    """Return when the last step ends of each iteration: `microbatches` of them through one `pipeline` each.

    lengths, delays   as for `Order.ends`, of all pipelines; `shape` is their pp and chunks a stage
    pipeline          which of them each iteration runs
    hidden            what passes save that run in pairs (`with_pairs`), None where they do not
    group             micro-batches that pass through a chunk before the next one begins, None: pp

    Steps come in the order of the period before, a micro-batch earlier (interleaved: a group of them). So a
    short iteration is stepped through, and where all stages' steps in a window lie one and the same time
    after those of the period before, so do all that follow, and the micro-batches left out take that time a
    period.
    Where they do not yet, a longer iteration is tried, in the end the whole.
    """
    pp, chunks = shape
    in_pairs = hidden is not None
    if hidden is not None:
        lengths = with_pairs(lengths, hidden, pp, chunks)
    size = pp if group is None else group
    period = size if chunks > 1 else 1
    least = _least(pp, chunks, in_pairs, size, period)
    ended, rest = np.full(len(pipeline), np.nan), np.arange(len(pipeline))
    for longer in LONGER:
        for residue in np.unique(microbatches[rest] % period).tolist():
            tried = longer * least + residue  # a last group of fewer comes after what is compared
            short = tried + (residue - tried) % period
            some = rest[(microbatches[rest] % period == residue) & (microbatches[rest] >= short + period)]
            if not some.size:
                continue
            which, own = np.unique(pipeline[some], return_inverse=True)
            whole = pp, chunks, short, in_pairs, size
            last, each, steady = _settled(lengths[:, which], delays[:, which], whole, period)
            left_out = (microbatches[some] - short) // period
            ended[some] = np.where(steady[own], last[own] + each[own] * left_out, np.nan)
        rest = np.flatnonzero(np.isnan(ended))
    for count in np.unique(microbatches[rest]).tolist():
        some = rest[microbatches[rest] == count]
        which, own = np.unique(pipeline[some], return_inverse=True)
        order = interleaved(pp, chunks, count, in_pairs, size)
        ended[some] = _ended(lengths[:, which], delays[:, which], order)[own]
    return ended


def _ended(lengths: Array, delays: Array, order: Order) -> Array:
    """Return when the last step of each pipeline ends, a few pipelines at a time."""
    return np.concatenate([order.ends(*some).max(axis=0) for some in _batches(lengths, delays, order)])


def _batches(lengths: Array, delays: Array, order: Order) -> Iterator[tuple[Array, Array]]:
    size = max(CACHED_ELEMENTS // len(order.pass_), 1)
    for start in range(0, lengths.shape[1], size):
        yield lengths[:, start : start + size], delays[:, start : start + size]


def _settled(
    lengths: Array, delays: Array, shape: tuple[int, int, int, bool, int], period: int
) -> tuple[Array, Array, Array]:
    """Return the end of each pipeline, the time of its last period, and whether it has settled by then."""
    order = interleaved(*shape)
    later, earlier = _windows(*shape, period)
    found = []
    for some in _batches(lengths, delays, order):
        ends = order.ends(*some)
        last, between = ends.max(axis=0), ends[later] - ends[earlier]
        found.append((last, between[-1], (np.abs(between - between[-1]) <= STEADY * last).all(axis=0)))
    last, each, steady = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return last, each, steady


def _least(pp: int, chunks: int, in_pairs: bool, group: int, period: int) -> int:
    """Return the fewest micro-batches with which no warm-up is compared, a period before either."""
    most = int(_warmup(pp, chunks, in_pairs, group).max())
    return -(-(2 * most + _compared(pp, group) + 2 * period * chunks) // (2 * chunks))


@lru_cache(KNOWN_ORDERS)
def _windows(
    pp: int, chunks: int, microbatches: int, in_pairs: bool, group: int, period: int
) -> tuple[Array, Array]:
    """Return the last steps of every stage that are like those a period earlier, and these.

    They end before the first stage drains, or before it begins with a last group of fewer micro-batches.
    """
    steps = 2 * microbatches * chunks
    until = steps - 2 * (microbatches % period) * chunks - int(_warmup(pp, chunks, in_pairs, group).max())
    later = (np.arange(pp) * steps)[:, None] + np.arange(until - _compared(pp, group), until)
    return later.ravel(), later.ravel() - 2 * period * chunks


def _compared(pp: int, group: int) -> int:
    """Return how many steps of a stage are compared (WINDOW)."""
    return WINDOW + 2 * (group - pp)


@lru_cache(KNOWN_ORDERS)
def _warmup(pp: int, chunks: int, in_pairs: bool, group: int, microbatches: int = 1 << 40) -> Array:
    """Return each stage's `warmup_steps`; unless said otherwise, micro-batches abound."""
    stages = pl.DataFrame(dict(zip(SHAPE, (pp, chunks, microbatches, in_pairs, group), strict=True)))
    stages = stages.with_columns(stage=pl.int_ranges(0, "pp", dtype=pl.Int64)).explode("stage")
    return stages.select(warmup_steps()).to_series().to_numpy()
