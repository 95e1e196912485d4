"""A workload whose trace has no place to go to: one is made, or with --keep-going the others are done."""

from pathlib import Path

import polars as pl
import pytest

from project import Project, make_project
from unchangeable import unchangeable

pytestmark = [pytest.mark.slow, pytest.mark.long]

FAILING = "tiny-ws16-tp2-pp2-ep4-gbs32-mbs1-seq128-moe"
FOLDER = f"results/traces/ops/workload={FAILING}"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A small sweep that was never run."""
    made = make_project(tmp_path)
    (made.root / FOLDER).parent.mkdir(parents=True)
    return made


def test_a_folder_that_can_be_neither_written_nor_removed(project: Project) -> None:
    (project.root / FOLDER).mkdir()
    with unchangeable(project.root / FOLDER):
        done = project.make("--keep-going")
    assert done.returncode != 0
    assert f"1 workloads failed; costs and tables are without:\n{FAILING}\n" in done.stderr
    assert f"{FOLDER}: cannot be removed, and is left: Operation not permitted\n" in done.stderr
    assert len(pl.read_parquet(project.root / "results/costs.parquet")) == 4
    assert f"- {FAILING}\n" in (project.root / "results/summary.txt").read_text()
    again = project.make()
    assert again.returncode == 0, again.stderr
    assert len(pl.read_parquet(project.root / "results/costs.parquet")) == 5


def test_a_file_in_the_place_of_a_folder(project: Project) -> None:
    (project.root / FOLDER).touch()
    done = project.make()
    assert done.returncode == 0, done.stderr
    assert f"{FOLDER}: is a file where a folder belongs; removed, to be made again\n" in done.stderr
    assert len(pl.read_parquet(project.root / "results/costs.parquet")) == 5
