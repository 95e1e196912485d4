"""The wheel alone is enough: catalogue, schemas, profiles and rules come with it."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import polars as pl
import pytest

from project import CHECKOUT, MODEL, SWEEP, Project
from snippets import pasted

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel of this checkout holds."""
    out = tmp_path_factory.mktemp("wheel")
    build = ["uv", "build", "--wheel", "--no-build-isolation", "--offline", "--out-dir", str(out)]
    subprocess.run([str(Path(sys.executable).parent / build[0]), *build[1:]], cwd=CHECKOUT, check=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(out / "site")
    return out / "site"


def test_it_holds_what_a_study_needs(installed: Path) -> None:
    shipped = installed / "moesweep/shipped"
    for part in ("config", "schemas", "profiles", "workflow/rules", "workflow/report"):
        listing = subprocess.run(
            ["git", "ls-files", part], cwd=CHECKOUT, capture_output=True, text=True, check=True
        )
        assert all((shipped / name).is_file() for name in listing.stdout.split())


def test_a_study_of_its_own(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "config/models").mkdir(parents=True)
    (tmp_path / "config/models/tiny.yaml").write_text(MODEL)
    (tmp_path / "mine.yaml").write_text(SWEEP)
    study = Project(tmp_path, library=installed)
    line = 'moesweep run --set sweep=mine.yaml cluster=a100-80gb-pcie "outputs=[]" --results out -- --cores 4'
    done = pasted(study, "docs/workflow.md", line)
    assert set(re.findall(r"^(\w+) +█", done.stderr, re.MULTILINE)) >= {"trace", "cost", "tables"}
    costs = pl.read_parquet_metadata(tmp_path / "out/costs.parquet")
    assert costs["moesweep.cluster"] == "a100-80gb-pcie"
    again = study.call("bash", "-c", f"{line} --dry-run")
    assert "Nothing to be done" in again.stdout


def test_a_stranger_s_first_study(installed: Path, tmp_path: Path) -> None:
    """Nothing is typed but what the study's own README says."""
    outside = Project(tmp_path, library=installed)
    # As README and the page of the workflow say it.
    pasted(outside, "README.md", "moesweep init study && cd study")
    again = outside.call("moesweep", "init", "study")
    assert (again.returncode, again.stdout) == (2, "")
    study = Project(tmp_path / "study", library=installed)
    readme = (study.root / "README.md").read_text()
    typed = re.findall(r"^    (moesweep [^#\n]+?) *(?:#.*)?$", readme, re.MULTILINE)
    assert [line.split()[1] for line in typed] == ["run", "best", "whatif", "explain"]
    assert typed[0] == "moesweep run"
    said = [study.call("bash", "-c", line) for line in typed]
    assert [done.returncode for done in said] == [0, 0, 0, 0], [done.stderr for done in said]
    assert "All else equal, the highest ep takes" in said[0].stdout
    assert (study.root / "results/report.html").exists()
    assert "tokens/s/GPU" in said[1].stdout
    assert "pipeline_seconds" in said[3].stdout
