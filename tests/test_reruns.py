"""What reruns after an edit, with real Snakemake on a small sweep; docs/reruns.md says the same."""

from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from project import CHECKOUT, Project
from rerun_table import (
    ALL_OUTPUTS,
    CLUSTER,
    EDITS,
    HEADER,
    MODEL,
    SWEEP,
    Edit,
    copied,
    finished_project,
    measure,
)

pytestmark = pytest.mark.slow

ALIKE = {
    *("every file written again with the same content", "documentation", "the description of the model"),
    *("the NIC bandwidth", "another cluster", "a workload listed twice", "the counts of a measured routing"),
    *("code of the sweep", "code of the validation", "code of the trace", "code of the tables"),
    *("columns of a trace table", "columns of the costs", "columns of an answer"),
    *("every file touched", "a comment in the cluster file", "a workload removed (and its twin)"),
    *("an efficiency", "a comment in the sweep file", "the sweep file renamed", "code of the command line"),
    *("a workload added (and its twin)", "another version of polars installed", "code of parallelism"),
    *("one workload changed (and so its twin)", "the hidden size of the model"),
    *("a schema of the configuration", "the lock file", "another sweep (one of three workloads in common)"),
}
"""Edits that rerun what another one does, each for half a minute."""

SECOND = "{model: tiny, world_size: 16, tp: 2, pp: 2, ep: 4, global_batch_size: 32}"
"""The second workload of the small sweep; the first has the same twin."""

LINES = (CHECKOUT / "docs/reruns.md").read_text(encoding="utf-8").removeprefix(HEADER).splitlines()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose sweep has run."""
    return finished_project(tmp_path_factory.mktemp("finished"), ALL_OUTPUTS)


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, with its times."""
    return copied(finished, tmp_path)


def traces(project: Project) -> dict[str, tuple[bytes, int]]:
    """Content and time of every trace file."""
    files = sorted((project.root / "results/traces").rglob("*.parquet"))
    return {
        str(file.relative_to(project.root)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files
    }


def test_the_table_has_a_line_for_every_edit() -> None:
    names = [edit.name for edit in EDITS]
    assert [line.split("|")[1].strip() for line in LINES] == ["edit", "---", *names]
    assert set(names) > ALIKE


def marked(edit: Edit) -> ParameterSet:
    """Return the edit as a parameter, outside of CI if it is like another."""
    return pytest.param(edit, id=edit.name, marks=[pytest.mark.endurance] if edit.name in ALIKE else [])


@pytest.mark.parametrize("edit", [marked(edit) for edit in EDITS])
def test_an_edit_reruns_what_the_table_says(edit: Edit, project: Project) -> None:
    before = traces(project)
    line = measure(edit, project)
    assert line in LINES, "docs/reruns.md is out of date: python tests/rerun_table.py > docs/reruns.md"
    if " of " not in line:
        assert traces(project).items() <= before.items()


def test_edited_results_are_those_of_a_new_project(finished: Project, tmp_path: Path) -> None:
    edited, new = copied(finished, tmp_path / "edited"), copied(finished, tmp_path / "new")
    for project in (edited, new):
        project.edit(MODEL, "hidden_size: {value: 256", "hidden_size: {value: 512")
        project.edit(SWEEP, "ep: 4, global_batch_size: 64", "ep: 2, global_batch_size: 64")
        project.edit(SWEEP, f"  - {SECOND}\n", "")
        project.edit(CLUSTER, "value: 2.0\n", "value: 3.0\n")
    new.forget()
    edited.sweep()
    new.sweep()
    assert edited.files() == new.files()
    assert not [file for file in edited.files() if "ws16" in file and "ep4" in file]


def test_one_and_two_cores_give_the_same_bytes(finished: Project, tmp_path: Path) -> None:
    other = copied(finished, tmp_path)
    other.forget()
    done = other.run("--cores", "1", PYTHONHASHSEED="7", POLARS_MAX_THREADS="1", TZ="Asia/Tokyo", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert other.files() == finished.files()
