"""What reruns after an edit, with real Snakemake on a small sweep."""

import hashlib
import shutil
from pathlib import Path

import pytest

from project import Project, make_project

pytestmark = pytest.mark.slow

STAGES = ["enumerate", "validate", "trace", "traffic", "cost", "tables"]
ALL = set(STAGES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose sweep has run."""
    project = make_project(tmp_path_factory.mktemp("project"))
    assert project.sweep() == ALL
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, with its times."""
    shutil.copytree(finished.root, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path)


def digests(project: Project, folder: str) -> dict[str, tuple[str, int]]:
    """Content and time of every result below a folder."""
    return {
        str(file): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in sorted((project.root / "results" / folder).rglob("*.parquet"))
    }


def test_nothing_to_do(project: Project) -> None:
    assert project.sweep() == set()


def test_docs_and_touched_files_rerun_nothing(project: Project) -> None:
    (project.root / "README.md").write_text("Something else.")
    for file in ("config/sweeps/small.yaml", "config/clusters/dgx-a100-80gb-8xhdr200.yaml"):
        (project.root / file).touch()
    for file in (project.root / "workflow/moesweep").rglob("*.py"):
        file.touch()
    assert project.sweep() == set()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("config/clusters/dgx-a100-80gb-8xhdr200.yaml", "value: 2.0\n", "value: 3.0\n"),
        ("config/calibration.yaml", "value: 0.781", "value: 0.77"),
    ],
    ids=["a price", "an efficiency"],
)
def test_constants_rerun_costs_alone(project: Project, file: str, old: str, new: str) -> None:
    before, costs = digests(project, "traces"), (project.root / "results/costs.parquet").read_bytes()
    project.edit(file, old, new)
    assert project.sweep() == {"cost", "tables"}
    assert digests(project, "traces") == before
    assert (project.root / "results/costs.parquet").read_bytes() != costs


def test_one_workload_edited(project: Project) -> None:
    before = digests(project, "traces")
    project.edit("config/sweeps/small.yaml", "ep: 4, global_batch_size: 64", "ep: 4, global_batch_size: 128")
    assert project.sweep() == ALL
    after = digests(project, "traces")
    assert {file for file in before if after[file] != before[file]} == set()
    new = {Path(file).parent.name for file in after if file not in before}
    assert new == {
        "workload=tiny-ws32-tp4-pp2-ep4-gbs128-mbs1-seq128-moe",
        "workload=tiny-ws32-tp4-pp2-ep1-gbs128-mbs1-seq128-dense",
    }


def test_one_workload_added(project: Project) -> None:
    before = digests(project, "traces")
    row = "  - {model: tiny, world_size: 16, tp: 1, pp: 2, ep: 4, global_batch_size: 32}\n"
    sweep = project.root / "config/sweeps/small.yaml"
    sweep.write_text(sweep.read_text() + row)
    assert project.sweep() == ALL
    after = digests(project, "traces")
    assert before == {file: after[file] for file in before}


def test_listing_a_workload_twice_traces_nothing(project: Project) -> None:
    project.edit("config/sweeps/small.yaml", "global_batch_size: 64}", "global_batch_size: 64, listed: 2}")
    assert "trace" not in project.sweep()


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("trace/layers.py", {"trace", "traffic", "cost", "tables"}),
        ("cost/iteration.py", {"cost", "tables"}),
        ("tables/summary.py", {"tables"}),
        ("parallelism.py", ALL),
        ("commands.py", set()),
    ],
)
def test_code_reruns_its_stage_and_later_ones(project: Project, module: str, stages: set[str]) -> None:
    file = project.root / "workflow/moesweep" / module
    file.write_text(file.read_text() + "\n# a remark\n")
    # The results are the same bytes, so stages that only read results have nothing new to read.
    done = project.sweep()
    assert done <= stages
    assert (done == set()) == (stages == set())
    if stages:
        assert min(stages, key=STAGES.index) in done


def test_a_lost_file_is_made_again(project: Project) -> None:
    before = project.files()
    lost = next((project.root / "results/traces/ops").rglob("*.parquet"))
    lost.unlink()
    assert "trace" in project.sweep()
    assert project.files() == before


def test_one_and_two_cores_give_the_same_bytes(finished: Project, tmp_path: Path) -> None:
    other = make_project(tmp_path)
    done = other.run("--cores", "1", PYTHONHASHSEED="7", POLARS_MAX_THREADS="1", TZ="Asia/Tokyo", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert other.files() == finished.files()
