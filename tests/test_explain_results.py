"""Explanations beside results: what the results hold is compared, and never taken from a broken file."""

import os
from pathlib import Path

import polars as pl
import pytest

from moesweep.cli import main
from moesweep.store.tablefile import dictionary
from project import make_project

ID = "tiny-ws16-tp2-pp2-ep2-gbs32-mbs1-seq128-moe"
COSTS = Path("results/costs.parquet")


@pytest.fixture
def _costed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(tmp_path)
    monkeypatch.chdir(project.root)
    for stage in ("enumerate", "trace", "cost"):
        assert main([stage]) == 0


def explained(capsys: pytest.CaptureFixture[str], metric: str = "mfu") -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["explain", ID, metric])
    return code, *capsys.readouterr()


@pytest.mark.usefixtures("_costed")
def test_costs_that_are_cut_short_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(capsys)[0] == 0
    os.truncate(COSTS, 1000)
    code, out, err = explained(capsys)
    assert (code, out) == (2, "")
    assert f"{COSTS}: checksum: is not what was written" in err
    # Without a record of what was written, the file itself shows it.
    COSTS.rename("cut")
    os.truncate("cut", 900)
    COSTS.write_bytes(Path("cut").read_bytes())
    Path(".snakemake/checksums", COSTS).unlink()
    code, out, err = explained(capsys)
    assert (code, out) == (2, "")
    assert f"{COSTS}: readable: cannot be read as Parquet" in err


@pytest.mark.usefixtures("_costed")
def test_costs_of_another_version_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    kept = pl.read_parquet_metadata(COSTS) | {"moesweep.schema_version": "0"}
    metadata = {key: value for key, value in kept.items() if key.startswith("moesweep.")}
    pl.read_parquet(COSTS).write_parquet(COSTS, metadata=metadata)
    Path(".snakemake/checksums", COSTS).unlink()
    code, out, err = explained(capsys)
    assert (code, out) == (2, "")
    assert f"costs version {dictionary('costs')['version']} is needed; run make sweep to rebuild it" in err
    # What costs.parquet does not hold can be explained without it.
    assert explained(capsys, "dp")[0] == 0


@pytest.mark.usefixtures("_costed")
def test_costs_made_with_other_inputs_are_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("config/clusters/dgx-a100-80gb-8xhdr200.yaml")
    file.write_text(file.read_text().replace("value: 200 Gbit/s", "value: 190 Gbit/s"))
    code, _, err = explained(capsys, "iteration_seconds")
    assert code == 0
    assert "made with other inputs: run make sweep to renew it" in err
