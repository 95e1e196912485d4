"""Parameters of which CI tries some, and the marker `endurance` all."""

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet

OUTSIDE = [pytest.mark.slow, pytest.mark.endurance]


def sampled(values: Iterable[Any], every: int) -> list[Any]:
    """Return the values as parameters, all but one of `every` marked `endurance`."""
    return [value if not place % every else outside(value) for place, value in enumerate(values)]


def outside(value: Any) -> ParameterSet:
    """Return a parameter that is tried outside of CI."""
    return pytest.param(value, marks=OUTSIDE)
