"""What every test file shares."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run: a change that did not touch the code under test cannot turn it red.
# How long a machine takes fails no test.
settings.register_profile(
    "moesweep",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("moesweep")


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def in_root(root: Path) -> Iterator[None]:
    """Work in the root of the checkout, as the commands do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: what takes minutes must not begin when all else is done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
