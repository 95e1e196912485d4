"""Schedules stepped through in arrays, against the naive loop; short iterations that stand for long ones."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesweep.cost.iteration import filled_and_drained
from moesweep.shapes.schedule import SHAPE, most_warmup_steps, schedules
from moesweep.shapes.steps import (
    LONGER,
    WINDOW,
    _least,
    _windows,
    interleaved,
    makespans,
    order_of,
    step_ends,
)
from naive_pipeline import makespan

SHAPES = [(1, 1, 3), (2, 1, 2), (4, 1, 8), (8, 1, 5), (2, 2, 4), (4, 2, 8), (4, 3, 12), (8, 2, 16)]


ORDERS = {
    # 1F1B: 2 forwards ahead of the first stage's backward, 1, none
    (3, 1, 4, 0): "F0 F1 F2 B0 F3 B1 B2 B3",
    (3, 1, 4, 1): "F0 F1 B0 F2 B1 F3 B2 B3",
    (3, 1, 4, 2): "F0 B0 F1 B1 F2 B2 F3 B3",
    # fewer micro-batches than stages: all forwards first
    (3, 1, 1, 0): "F0 B0",
    (3, 1, 2, 0): "F0 F1 B0 B1",
    # 2 chunks, told by a dash: 2·1 + 2 = 4 steps ahead on the first stage, 2 on the last
    (2, 2, 4, 0): "F0 F1 F0- F1- F2 B0- F3 B1- F2- B0 F3- B1 B2- B3- B2 B3",
    (2, 2, 4, 1): "F0 F1 F0- B0- F1- B1- F2 B0 F3 B1 F2- B2- F3- B3- B2 B3",
}
"""Steps by (stages, chunks, micro-batches, stage): Narayanan et al. 2021, figures 3 and 4."""


@pytest.mark.parametrize("shape", ORDERS)
def test_steps_by_hand(shape: tuple[int, int, int, int]) -> None:
    pp, chunks, m, stage = shape
    row = {"workload": "w"} | dict(zip(SHAPE, (pp, chunks, m, False, pp), strict=True))
    steps = schedules(pl.DataFrame([row])).filter(stage=stage).sort("step")
    said = steps.select(pl.col("phase").str.head(1).str.to_uppercase(), "microbatch", "chunk").rows()
    assert " ".join(f"{phase}{batch}{'-' * chunk}" for phase, batch, chunk in said) == ORDERS[shape]


@pytest.mark.parametrize(("pp", "chunks", "most"), [(4, 1, 3), (1, 1, 0), (4, 2, 10), (4, 3, 14)])
def test_most_steps_ahead(pp: int, chunks: int, most: int) -> None:
    # pp - 1; 2·3 + 1·4 and 2·3 + 2·4 of chunks
    # In pairs one more: no backward pass runs beside the forward pass that it waits for.
    for in_pairs, steps in ((False, most), (True, most + 1)):
        row = dict(zip(SHAPE, (pp, chunks, 1, in_pairs, pp), strict=True))
        assert pl.DataFrame([row]).select(most_warmup_steps()).item() == steps


GROUPS = {
    # Megatron's own example (`schedules.py`): 2 stages, 2 chunks, groups of 3, 5 micro-batches. 2·1 + 3 = 5
    # steps ahead on the first stage, 3 on the last; of the last group's 2 micro-batches each chunk runs both
    (2, 2, 5, 3, 0): "F0 F1 F2 F0- F1- F2- B0- F3 B1- F4 B2- F3- B0 F4- B1 B2 B3- B4- B3 B4",
    (2, 2, 5, 3, 1): "F0 F1 F2 F0- B0- F1- B1- F2- B2- F3 B0 F4 B1 F3- B2 F4- B3- B4- B3 B4",
    # one group of all: all of the first chunk, then all of the second
    (2, 2, 3, 3, 1): "F0 F1 F2 F0- B0- F1- B1- F2- B2- B0 B1 B2",
}
"""Steps by (stages, chunks, micro-batches, those of a group, stage)."""


@pytest.mark.parametrize("shape", GROUPS)
def test_steps_of_groups_by_hand(shape: tuple[int, int, int, int, int]) -> None:
    pp, chunks, m, group, stage = shape
    row = {"workload": "w"} | dict(zip(SHAPE, (pp, chunks, m, False, group), strict=True))
    steps = schedules(pl.DataFrame([row])).filter(stage=stage).sort("step")
    said = steps.select(pl.col("phase").str.head(1).str.to_uppercase(), "microbatch", "chunk").rows()
    assert " ".join(f"{phase}{batch}{'-' * chunk}" for phase, batch, chunk in said) == GROUPS[shape]


def test_groups_and_chunks_ahead() -> None:
    # 2·3 + 2·6 of chunks, in pairs one more
    for in_pairs, steps in ((False, 18), (True, 19)):
        row = dict(zip(SHAPE, (4, 3, 60, in_pairs, 6), strict=True))
        assert pl.DataFrame([row]).select(most_warmup_steps()).item() == steps


GROUPED = [(2, 2, 5, 3), (2, 3, 8, 8), (4, 2, 14, 5), (4, 3, 11, 7), (3, 2, 33, 6)]


@pytest.mark.parametrize(("pp", "chunks", "m", "group"), GROUPED)
@pytest.mark.parametrize("in_pairs", [False, True])
def test_groups_against_the_naive_loop(pp: int, chunks: int, m: int, group: int, in_pairs: bool) -> None:
    rng = np.random.default_rng(pp + chunks + m)
    lengths, delays = passes(rng, pp, chunks, 3, 3.0), rng.uniform(0, 0.5, (2, 3))
    hidden = rng.uniform(0, 1, (pp * chunks, 3)) if in_pairs else None
    found = makespans(lengths, delays, (pp, chunks), np.arange(3), np.full(3, m), hidden, group)
    for pipeline in range(3):
        forward, backward = lengths[0::2, pipeline], lengths[1::2, pipeline]
        saved = None if hidden is None else hidden[:, pipeline]
        expected = makespan(forward, backward, m, chunks, tuple(delays[:, pipeline]), pp, saved, group)
        assert found[pipeline] == pytest.approx(expected, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    pp=st.integers(2, 4),
    chunks=st.integers(2, 3),
    more=st.integers(0, 6),
    rounds=st.integers(1, 20),
    rest=st.integers(0, 9),
    spread=st.sampled_from([1.0, 1.3, 4.0]),
    seed=st.integers(0, 1000),
)
def test_a_short_iteration_of_groups_stands_for_a_long_one(
    pp: int, chunks: int, more: int, rounds: int, rest: int, spread: float, seed: int
) -> None:
    group = pp + more
    m = rounds * group + (rest if pp <= rest < group else 0)
    rng = np.random.default_rng(seed)
    lengths, delays = passes(rng, pp, chunks, 4, spread), rng.uniform(0, 0.3, (2, 4))
    whole = interleaved(pp, chunks, m, group=group).ends(lengths, delays).max(axis=0)
    found = makespans(lengths, delays, (pp, chunks), np.arange(4), np.full(4, m), group=group)
    assert found == pytest.approx(whole, rel=1e-11)


def test_groups_are_stepped_in_short_too() -> None:
    lengths, delays = passes(np.random.default_rng(1), 4, 2, 2, 2.0), np.zeros((2, 2))
    interleaved.cache_clear()
    m = 6 * 1000 + 5
    found = makespans(lengths, delays, (4, 2), np.arange(2), np.full(2, m), group=6)
    # a few short orders, not all LONGER ones and then that of all
    assert interleaved.cache_info().misses <= len(LONGER)
    assert (found > m * lengths.reshape(2, 4, 2, 2).sum(axis=(0, 2)).max(axis=0)).all()


def passes(rng: np.random.Generator, pp: int, chunks: int, pipelines: int, spread: float) -> np.ndarray:
    """Return random lengths of all passes; backward takes about twice as long."""
    lengths = rng.uniform(1, spread, (2 * pp * chunks, pipelines))
    lengths[1::2] *= 2
    return lengths


@pytest.mark.parametrize(("pp", "chunks", "m"), SHAPES)
def test_every_chunk_of_its_own_length_and_messages_that_take_time(pp: int, chunks: int, m: int) -> None:
    rng = np.random.default_rng(pp + chunks + m)
    lengths, delays = passes(rng, pp, chunks, 3, 3.0), rng.uniform(0, 0.5, (2, 3))
    found = interleaved(pp, chunks, m).ends(lengths, delays).max(axis=0)
    for pipeline in range(3):
        forward, backward = lengths[0::2, pipeline], lengths[1::2, pipeline]
        expected = makespan(forward, backward, m, chunks, tuple(delays[:, pipeline]), pp)
        assert found[pipeline] == pytest.approx(expected, rel=1e-12)


@settings(max_examples=25)
@given(
    pp=st.integers(2, 6),
    chunks=st.integers(1, 3),
    rounds=st.integers(1, 40),
    spread=st.sampled_from([1.0, 1.05, 1.3, 4.0]),
    seed=st.integers(0, 1000),
)
def test_a_short_iteration_stands_for_a_long_one(
    pp: int, chunks: int, rounds: int, spread: float, seed: int
) -> None:
    rng, m = np.random.default_rng(seed), rounds * pp
    lengths, delays = passes(rng, pp, chunks, 4, spread), rng.uniform(0, 0.3, (2, 4))
    whole = interleaved(pp, chunks, m).ends(lengths, delays).max(axis=0)
    found = makespans(lengths, delays, (pp, chunks), np.arange(4), np.full(4, m))
    assert found == pytest.approx(whole, rel=1e-11)


def test_iterations_of_several_lengths_share_their_pipelines() -> None:
    rng, counts = np.random.default_rng(3), np.array([4, 8, 400, 404, 1000, 8])
    lengths, delays = passes(rng, 4, 2, 2, 1.5), np.zeros((2, 2))
    which = np.array([0, 1, 0, 1, 1, 1])
    found = makespans(lengths, delays, (4, 2), which, counts)
    for at, (pipeline, m) in enumerate(zip(which, counts, strict=True)):
        alone = interleaved(4, 2, int(m)).ends(lengths[:, [pipeline]]).max()
        assert found[at] == pytest.approx(alone, rel=1e-11)


@settings(max_examples=100)
@given(
    layer=st.floats(0.5, 5),
    ratio=st.floats(1, 3),
    message=st.floats(0, 0.3),
    embedding=st.tuples(st.floats(0, 2), st.floats(0, 2)),
    head=st.tuples(st.floats(0, 20), st.floats(0, 20)),
    pp=st.integers(2, 8),
    m=st.integers(1, 60),
)
def test_a_pipeline_that_its_last_stage_paces_fills_and_drains_as_the_formula_says(
    layer: float,
    ratio: float,
    message: float,
    embedding: tuple[float, float],
    head: tuple[float, float],
    pp: int,
    m: int,
) -> None:
    """The closed form, as the costs have it, and the schedule are one where stages hold as many layers."""
    lengths = np.full((2 * pp, 1), layer)
    lengths[1::2] *= ratio
    lengths[2::2] += message
    lengths[1:-1:2] += message
    lengths[:2, 0] += embedding
    lengths[-2:, 0] += head
    stages = lengths.reshape(pp, 2).sum(axis=1)
    frame = pl.DataFrame(
        {
            **{"all_seconds": [stages.sum()], "stage_seconds": [stages.max()], "num_microbatches": [m]},
            **{"stage_alone": [0.0], "stage_paired": [0.0]},
        }
    )
    formula = frame.select(**filled_and_drained()).item()
    stepped = makespans(lengths, np.zeros((2, 1)), (pp, 1), np.array([0]), np.array([m]))[0]
    assert stepped <= formula * (1 + 1e-12)
    if stages[-1] == stages.max():
        assert stepped == pytest.approx(formula, rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "period", "last"),
    [
        # 2 stages of 2 chunks, 40 micro-batches: 160 steps a stage. The first one drains 2 + 2 of them.
        ((2, 2, 40, False, 2), 2, 160 - 4),
        # In pairs it runs a pass more ahead.
        ((2, 2, 40, True, 2), 2, 160 - 5),
        # In groups of 5 it is 2 + 5 ahead, and a last group of 3 micro-batches is not like the others.
        ((2, 2, 43, False, 5), 5, 172 - 12 - 7),
        ((3, 1, 30, False, 3), 1, 60 - 2),
    ],
)
def test_what_is_compared_by_hand(shape: tuple[int, int, int, bool, int], period: int, last: int) -> None:
    """The last steps of every stage before that, 2 more for each micro-batch that a group has beyond pp."""
    pp, chunks, microbatches, _, group = shape
    later, earlier = _windows(*shape, period)
    rows = [
        2 * microbatches * chunks * stage + step
        for stage in range(pp)
        for step in range(last - WINDOW - 2 * (group - pp), last)
    ]
    assert later.tolist() == rows
    assert (later - earlier == 2 * period * chunks).all()


@given(
    pp=st.integers(2, 8), chunks=st.integers(1, 4), in_pairs=st.booleans(), more=st.sampled_from([0, 0, 1, 5])
)
def test_no_warm_up_is_compared(pp: int, chunks: int, in_pairs: bool, more: int) -> None:
    """As few micro-batches as possible: of one less, the first steps would be of the longest warm-up."""
    group = pp + (more if chunks > 1 else 0)
    period = group if chunks > 1 else 1
    least = _least(pp, chunks, in_pairs, group, period)
    row = dict(zip(SHAPE, (pp, chunks, 10**6, in_pairs, group), strict=True))
    ahead = pl.DataFrame([row]).select(most_warmup_steps()).item()
    begins = 2 * chunks * least - ahead - WINDOW - 2 * (group - pp) - 2 * period * chunks
    assert ahead <= begins < ahead + 2 * chunks


def test_steps_with_lengths_of_their_own_end_one_after_the_other() -> None:
    values = zip(SHAPE, (2, 1, 2, False, 2), strict=True)
    workload = pl.DataFrame({"workload": ["x"], **{name: [value] for name, value in values}})
    schedule = schedules(workload).with_columns(length=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
    # stage 0: F0 F1 B0 B1 of 1 2 3 4; stage 1: F0 B0 F1 B1 of 5 6 7 8
    assert step_ends(schedule) == [1, 3, 15, 31, 6, 12, 19, 27]


def test_a_schedule_that_waits_for_itself_is_refused() -> None:
    rows = {
        "stage": [0, 0, 1, 1],
        "phase": ["backward", "forward", "forward", "backward"],
        "microbatch": [0, 0, 0, 0],
        "chunk": [0, 0, 0, 0],
    }
    with pytest.raises(ValueError, match="wait for one another"):
        order_of(pl.DataFrame(rows))
