"""The figures of docs/reliability.md in full, for an hour, outside CI: that tries a seeded tenth of each."""

from pathlib import Path

import pytest

import reliability


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.parametrize("name", reliability.FIGURES)
def test_the_figure_is_reached(name: str, tmp_path: Path) -> None:
    assert reliability.FIGURES[name](tmp_path)
