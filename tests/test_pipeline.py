"""The closed form of the pipeline against the schedule run step by step."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive_pipeline import makespan


def closed_form(stages: list[float], microbatches: int, chunks: int) -> float:
    """m slowest + (sum - slowest)/v, as moesweep.cost.iteration has it."""
    return microbatches * max(stages) + (sum(stages) - max(stages)) / chunks


@pytest.mark.parametrize(
    ("pp", "m", "v"), [(1, 4, 1), (4, 4, 1), (8, 32, 1), (4, 8, 2), (2, 6, 4), (8, 16, 3)]
)
def test_equal_stages_are_exact(pp: int, m: int, v: int) -> None:
    stepwise = makespan([1.0 / v] * pp, [2.0 / v] * pp, m, v)
    assert stepwise == pytest.approx(closed_form([3.0] * pp, m, v))


@settings(max_examples=100)
@given(
    stages=st.lists(st.floats(1, 1.3), min_size=2, max_size=8),
    rounds=st.integers(1, 6),
    chunks=st.sampled_from([1, 2, 3]),
)
def test_unequal_stages_are_bounded_closely(stages: list[float], rounds: int, chunks: int) -> None:
    m = rounds * len(stages)
    forward, backward = [x / 3 / chunks for x in stages], [2 * x / 3 / chunks for x in stages]
    stepwise, formula = makespan(forward, backward, m, chunks), closed_form(stages, m, chunks)
    assert stepwise <= formula * (1 + 1e-9)
    assert formula <= 1.1 * stepwise
