"""What is removed because the configured sweep does not make it, and what is left where it may not be."""

from pathlib import Path

import pytest

from moesweep.cli import main
from moesweep.run.clean import forget_others
from moesweep.run.plan import load_plan
from moesweep.study.configured import Configuration
from project import Project, make_project
from unchangeable import unchangeable

OUTPUTS = ["results/figures/ep_scaling.svg", "results/manifest.json", "results/report.html"]
OWN = ["results/figures/mine.txt", "results/notes.txt", "results/summary.txt"]
GONE = "results/traces/ops/workload=gone"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A small sweep with files in its results that nothing but their names tells apart."""
    made = make_project(tmp_path)
    for name in (*OUTPUTS, *OWN, f"{GONE}/ops.parquet"):
        file = made.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("of another sweep")
    monkeypatch.chdir(made.root)
    return made


def files(project: Project) -> list[str]:
    """Return what is in the results but the catalogue."""
    return sorted(f"results/{name}" for name in project.files() if name != "workloads.parquet")


def test_outputs_that_are_not_made_are_stale(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(project)
    assert main(["clean", "--stale", "--dry-run"]) == 0
    listed = capsys.readouterr().out.split()
    assert listed == sorted([*OUTPUTS, f"{GONE}/ops.parquet"])
    assert files(project) == before
    assert main(["clean", "--stale"]) == 0
    assert capsys.readouterr().out.split() == listed
    assert files(project) == sorted(OWN)


@pytest.mark.parametrize(
    ("outputs", "kept"),
    [
        ("[figures, report, manifest]", OUTPUTS),
        ("[manifest]", OUTPUTS[1:2]),
        ("[report]", [OUTPUTS[0], OUTPUTS[2]]),
        ("[]", []),
    ],
)
def test_a_new_catalogue_takes_with_it_what_is_not_made_again(
    project: Project, outputs: str, kept: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    project.edit("config/config.yaml", "outputs: []", f"outputs: {outputs}")
    assert main(["enumerate"]) == 0
    assert files(project) == sorted([*OWN, *kept])
    assert ("of outputs that are not made any more" in capsys.readouterr().err) == (len(kept) < 3)


def test_a_folder_that_empties_goes_too(project: Project) -> None:
    (project.root / OWN[0]).unlink()
    assert main(["clean", "--stale"]) == 0
    assert not (project.root / "results/figures").exists()
    assert not (project.root / GONE).exists()


def test_what_cannot_be_removed_is_said_and_left(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    other = project.root / "results/costs/ops/workload=other/ops.parquet"
    other.parent.mkdir(parents=True)
    other.touch()
    with unchangeable(project.root / GONE):
        assert main(["enumerate"]) == 0
    said = capsys.readouterr().err
    assert f"{GONE}: cannot be removed, and is left: Operation not permitted\n" in said
    assert "removed the files of 1 workloads" in said
    assert (project.root / GONE).exists()
    assert not other.parent.exists()


@pytest.fixture
def misplaced(project: Project) -> Path:
    """A file in the place of a workload's folder."""
    file = project.root / "results/traces/programs/workload=gone"
    file.parent.mkdir()
    file.touch()
    return file


def test_a_file_in_the_place_of_a_folder_is_forgotten_as_one(misplaced: Path) -> None:
    forget_others(load_plan(Configuration()))
    assert not misplaced.exists()


def test_a_file_in_the_place_of_a_folder_is_damage(
    misplaced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["clean", "--damaged"]) == 0
    assert capsys.readouterr().out == "results/traces/programs/workload=gone\n"
    assert not misplaced.exists()


def test_outputs_are_those_of_the_configuration_that_is_named(project: Project) -> None:
    (project.root / "config/config.yaml").rename(project.root / "config/other.yaml")
    assert main(["enumerate", "--config", "config/other.yaml"]) == 0
    assert files(project) == sorted(OWN)


@pytest.mark.parametrize("outputs", ["[]", "[manifest]"])
def test_an_archive_says_how_there_is_a_manifest(
    project: Project, outputs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project.edit("config/config.yaml", "outputs: []", f"outputs: {outputs}")
    (project.root / OUTPUTS[1]).unlink()
    assert main(["archive", "--out", "out"]) == 2
    advice = "name manifest under outputs in config/config.yaml and run make sweep"
    said = capsys.readouterr().err
    assert "results/manifest.json: missing: there is no manifest; " in said
    assert said.rstrip().endswith(advice if outputs == "[]" else "manifest; run make sweep")
