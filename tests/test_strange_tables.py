"""Results from strangers: found sound, or refused in words; nothing without sense is made of them."""

from pathlib import Path

import pytest

from archives import finished
from malformed import attempt
from strange_tables import strange

QUICK = ("cost", "traffic", "tables", "explain", "diff")
"""Commands that take no second or two; `python tests/reliability.py strange` tries the others too."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("strange"))


@pytest.mark.slow
def test_no_strange_table_does_harm(project: Path) -> None:
    outcomes = [attempt(project, case) for case in strange(project, 20, seed=1, commands=QUICK)]
    assert [(outcome.name, outcome.faults) for outcome in outcomes if outcome.faults] == []
    assert sum(outcome.code == 2 for outcome in outcomes) >= 10
