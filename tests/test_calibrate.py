"""`moesweep calibrate`: what it refuses, what it leaves alone, what it prints of any list of runs."""

import shutil
from pathlib import Path

import pytest

from moesweep.calibration.fit import Fitted, save
from moesweep.cli import main

GPUS = "tests/data/measured_runs_gpus.csv"


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(root / "config", tmp_path / "config")
    shutil.copy(root / GPUS, tmp_path / "runs.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_list_without_a_known_source_changes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(project)
    assert main(["calibrate", "runs.csv"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in said] == ["missing_source"] * 6
    assert "no run of BLOOM" in "".join(said)
    assert everything(project) == before


def test_a_list_of_an_unknown_source_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (project / "runs.csv").read_text(encoding="utf-8").replace("ParallelFolding", "Somebody")
    (project / "other.csv").write_text(text, encoding="utf-8")
    assert main(["calibrate", "runs.csv", "other.csv"]) == 2
    assert "unknown_source: Somebody is no set of the fit" in capsys.readouterr().err


def test_constants_are_written_whole_or_not_at_all(project: Path) -> None:
    before = everything(project / "config")
    sound = Fitted("host_seconds", "config/calibration.yaml", 7e-4, 0, 1)
    with pytest.raises(ValueError, match="no_such"):
        save([sound, Fitted("no_such", "config/gpus/a100-sxm-80gb.yaml", 1.0, 0, 1)], project)
    assert everything(project / "config") == before
    save([sound], project)
    changed = {path for path, text in everything(project / "config").items() if before[path] != text}
    assert changed == {str(project / "config/calibration.yaml")}
    assert "value: 0.7 ms" in (project / "config/calibration.yaml").read_text(encoding="utf-8")
