"""Stages make those parts again whose inputs moved, and no others; in the end all is as if made anew."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moesweep.cli import main
from moesweep.report.figures import files as figure_files
from moesweep.store import checksums
from project import Project, make_project
from rerun_table import CLUSTER, MODEL, SWEEP

STAGES = ["enumerate", "validate", "trace", "traffic", "cost", "tables", "network", "figures", "report"]
OTHER_EP = ("ep: 4, global_batch_size: 64", "ep: 2, global_batch_size: 64")
CHANGED = "tiny-ws32-tp4-pp2"
"""How the ids of the two workloads begin that OTHER_EP changes: one is new, its twin stays."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which every stage has run."""
    project = make_project(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        run(*STAGES)
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it, with its times, to work in."""
    shutil.copytree(finished.root, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def run(*stages: str) -> None:
    for stage in stages:
        assert main([stage]) == 0


def parts(project: Project, folder: str) -> dict[str, int]:
    """The files of a folder of the results, a file a workload, with their times."""
    files = sorted((project.root / "results" / folder).rglob("*.parquet"))
    return {file.parent.name.removeprefix("workload="): file.stat().st_mtime_ns for file in files}


def moved(project: Project, folder: str, *stages: str) -> set[str]:
    """Run stages; return the workloads whose part was written."""
    before = parts(project, folder)
    run(*stages)
    return {id_ for id_, time in parts(project, folder).items() if before.get(id_) != time}


def as_new(project: Project) -> None:
    """Run all stages from nothing on, and compare with what is there."""
    made = project.files()
    project.forget()
    checksums._kept.clear()
    run(*STAGES)
    assert project.files() == made


PARTS = {"trace": "traces/ops", "cost": "costs/ops", "traffic": "traffic/node"}


@pytest.mark.parametrize("stage", PARTS)
def test_nothing_moved(project: Project, stage: str) -> None:
    assert moved(project, PARTS[stage], stage) == set()


def test_a_price_moves_money_alone_and_an_efficiency_all_costs(project: Project) -> None:
    before = pl.read_parquet("results/costs.parquet")
    project.edit(CLUSTER, "value: 2.0\n", "value: 3.0\n")
    assert moved(project, "costs/ops", "cost") == set()
    after = pl.read_parquet("results/costs.parquet")
    assert after["usd_per_billion_tokens"].to_list() == pytest.approx(
        (before["usd_per_billion_tokens"] * 1.5).to_list(), rel=1e-15
    )
    assert after.drop("usd_per_billion_tokens").equals(before.drop("usd_per_billion_tokens"))
    # What follows is as if made anew, with other edits on top.
    run("tables", "network", "figures", "report")
    project.edit("config/calibration.yaml", "value: 0.781", "value: 0.77")
    assert moved(project, "costs/ops", "cost") == set(parts(project, "costs/ops"))
    project.edit(SWEEP, *OTHER_EP)
    run(*STAGES)
    as_new(project)


def test_an_end_of_a_range_moves_sensitivities_alone(project: Project) -> None:
    costs, moved = Path("results/costs.parquet").read_bytes(), Path("results/costs/sensitivity.parquet")
    before = moved.read_bytes()
    project.edit("config/gpus/a100-sxm-80gb.yaml", "bounds: [1.0, 1.2]", "bounds: [1.0, 1.3]")
    run("cost")
    assert pl.read_parquet("results/costs.parquet").equals(pl.read_parquet(costs))
    assert moved.read_bytes() != before


def test_one_workload_moves_its_own_parts(project: Project) -> None:
    project.edit(SWEEP, *OTHER_EP)
    for stage in ("enumerate", "validate"):
        run(stage)
    for stage, folder in PARTS.items():
        (new,) = moved(project, folder, stage)
        assert new.startswith(CHANGED)
        assert new.endswith("-moe")


def test_a_hidden_size_moves_everything(project: Project) -> None:
    project.edit(MODEL, "hidden_size: {value: 256", "hidden_size: {value: 512")
    run("enumerate", "validate")
    for stage, folder in PARTS.items():
        assert moved(project, folder, stage) == set(parts(project, folder))


@pytest.mark.parametrize("stage", PARTS)
def test_parts_that_are_not_as_written_are_made_again(project: Project, stage: str) -> None:
    made = project.files()
    lost, changed, unknown, *_ = sorted(Path("results", PARTS[stage]).rglob("*.parquet"))
    lost.unlink()
    changed.write_bytes(changed.read_bytes()[:-1])
    checksums.note(unknown).unlink()
    spoilt = {file.parent.name.removeprefix("workload=") for file in (lost, changed, unknown)}
    assert moved(project, PARTS[stage], stage) == spoilt
    assert project.files() == made


@pytest.mark.endurance
def test_memos_that_are_damaged_are_not_believed(project: Project) -> None:
    made = project.files()
    memos = sorted(Path(".snakemake/memo/results").rglob("*.parquet"))
    remembering = ("traffic", "cost", "tables", "network", "figures", "report")
    assert {file.parent.name for file in memos} == set(remembering)
    for file in memos:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    run(*remembering)
    assert project.files() == made


@pytest.mark.parametrize("stage", PARTS)
def test_a_stage_that_is_cleaned_is_made_anew(project: Project, stage: str) -> None:
    made = project.files()
    assert main(["clean", "--stage", stage, "--dry-run"]) == 0
    assert moved(project, PARTS[stage], stage) == set()
    assert main(["clean", "--stage", stage]) == 0
    assert not parts(project, PARTS[stage])
    assert not Path(".snakemake/memo/results", stage).exists()
    run(stage)
    assert project.files() == made


def test_without_memory_all_is_made(project: Project) -> None:
    made = project.files()
    shutil.rmtree(".snakemake")
    checksums._kept.clear()
    for stage, folder in PARTS.items():
        assert moved(project, folder, stage) == set(parts(project, folder))
    run("tables", "network", "figures", "report")
    assert project.files() == made


def drawn_by(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Run the figures' stage; return the names of those that were drawn."""
    drawn: set[str] = set()
    as_svg = figure_files.as_svg

    def noted(name: str, *showing: Any) -> str:
        drawn.add(name)
        return as_svg(name, *showing)

    with monkeypatch.context() as patch:
        patch.setattr(figure_files, "as_svg", noted)
        run("figures")
    return drawn


def test_a_figure_is_drawn_again_if_its_own_columns_moved(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drawn_by(monkeypatch) == set()
    project.edit(CLUSTER, "value: 2.0\n", "value: 3.0\n")
    run("cost", "tables")
    assert drawn_by(monkeypatch) == set()
    project.edit("config/gpus/a100-sxm-80gb.yaml", "value: 80 GiB", "value: 79 GiB")
    run("validate", "cost", "tables")
    assert "memory" in drawn_by(monkeypatch)
    assert drawn_by(monkeypatch) == set()
    shutil.rmtree("results/figures")
    assert drawn_by(monkeypatch) == set()
    assert len(list(Path("results/figures").glob("*.svg"))) == len(figure_files.FIGURES)


@pytest.mark.endurance
def test_a_png_is_drawn_on_demand_and_goes_with_what_it_showed(project: Project) -> None:
    assert not list(Path("results/figures").glob("*.png"))
    assert main(["figures", "--png", "memory", "skew"]) == 0
    pngs = {file.name: file.read_bytes() for file in Path("results/figures").glob("*.png")}
    assert set(pngs) == {"memory.png", "skew.png"}
    assert all(content.startswith(b"\x89PNG") for content in pngs.values())
    project.edit("config/gpus/a100-sxm-80gb.yaml", "value: 80 GiB", "value: 79 GiB")
    run("validate", "cost", "tables", "figures")
    assert not Path("results/figures/memory.png").exists()


def test_an_unknown_figure_is_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures", "--png", "memroy"]) == 2
    assert capsys.readouterr().err == "--png: known: there is no figure memroy; did you mean memory?\n"
