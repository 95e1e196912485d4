"""What tests of faults share: a finished project of one workload and its twin, and what must hold after."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kills import ROW
from project import SWEEP, Project, make_project, shared
from rerun_table import copied

ROWS = SWEEP[SWEEP.index("rows:") :]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose sweep has run: two trace jobs, as each fault costs a sweep or two."""

    def make(folder: Path) -> None:
        project = make_project(folder)
        project.edit("config/sweeps/small.yaml", ROWS, f"rows:\n{ROW}")
        project.sweep()

    return Project(shared("project-of-one", tmp_path_factory.mktemp("finished"), make))


@pytest.fixture
def new(finished: Project, tmp_path: Path) -> Project:
    """The same project without results."""
    project = copied(finished, tmp_path)
    project.forget()
    return project


def completes(project: Project, reference: Project) -> str:
    """Run `make sweep`, which must end with the very results of the reference; return what it said."""
    project.shim("")
    done = project.make()
    assert done.returncode == 0, done.stderr
    assert project.files() == reference.files()
    return done.stderr


def assert_whole(project: Project, reference: Project) -> None:
    """Every result that is there must be the reference's."""
    expected = reference.files()
    assert all(content == expected[name] for name, content in project.files().items())


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
