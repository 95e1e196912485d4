"""`moesweep measure`: the script for a GPU, and a GPU's file from what it prints."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moesweep.calibration.on_gpu import GEMMS, seconds_of
from moesweep.cli import main
from moesweep.cost.compute import matmul_seconds
from moesweep.study.catalog import load_cluster

LIKE = "h100-sxm-80gb"
CLUSTER = "dgx-h100-80gb-8xndr400"
TRUE = {
    "gemm_gain": 0.9,
    "gemm_half_inner_dimension": 300.0,
    "flash_forward_efficiency": 0.5,
    "flash_backward_efficiency": 0.4,
    "elementwise_hbm_fraction": 0.85,
    "permute_hbm_fraction": 0.4,
    "adam_hbm_fraction": 0.7,
}


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(root / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def times(project: Path) -> dict[str, Any]:
    """What the script would print on a GPU of TRUE constants, by the model's own formulas and by hand."""
    known = load_cluster(project, CLUSTER).values | TRUE
    gemm = pl.DataFrame(GEMMS, schema=["m", "n", "k"], orient="row").cast(pl.Float64)
    frame = gemm.with_columns(pl.lit(value).alias(name) for name, value in known.items())
    rate = matmul_seconds(
        pl.col("m"), pl.col("n"), pl.col("k"), pl.lit(1.0), pl.col("gemm_forward_efficiency")
    )
    products = frame.select("m", "n", "k", seconds=rate + pl.col("kernel_seconds")).to_dicts()
    peak, memory = known["matrix_flops_per_second"] * 0.9, known["hbm_bytes_per_second"]
    shares = [32 / (32 + known[f"flash_{phase}_half_heads"]) for phase in ("forward", "backward")]
    flops = 4096**2 * 32 * 128
    attention = {"seq_length": 4096, "heads": 32, "head_dim": 128}
    attention["forward_seconds"] = 2 * flops / (peak * 0.5 * shares[0])
    attention["backward_seconds"] = 5 * flops / (peak * 0.4 * shares[1])
    passes = {
        name: {"bytes": 1e9, "seconds": 1e9 / (share * memory)}
        for name, share in (("elementwise", 0.85), ("permute", 0.4), ("adam", 0.7))
    }
    return {"device": "a GPU", "torch": "2", "gemm": products, "attention": attention} | passes


def test_times_become_a_gpu_that_has_them(project: Path) -> None:
    (project / "times.json").write_text(json.dumps(times(project)), encoding="utf-8")
    out = "config/gpus/mine.yaml"
    assert main(["measure", "times.json", "--like", LIKE, "--out", out]) == 0
    cluster = project / f"config/clusters/{CLUSTER}.yaml"
    cluster.write_text(
        cluster.read_text(encoding="utf-8").replace(f"gpu: {LIKE}", "gpu: mine"), encoding="utf-8"
    )
    found = load_cluster(project, CLUSTER)
    for name, value in TRUE.items():
        assert found.value(name) == pytest.approx(value, rel=0.01), name
        assert (found.constants[name].tag, found.constants[name].file) == ("measured", out)
    assert found.value("hbm_bytes_per_second") == 3.35e12
    said = {name for name, each in found.constants.items() if "moesweep measure" in each.source}
    assert said == TRUE.keys()


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"adam": None}, ["number", "number"]),
        ({"permute": {"bytes": "many", "seconds": -1.0}}, ["number", "number"]),
        ({"gemm": []}, ["missing"]),
        ({"gemm": [{"m": 8, "n": 8, "k": 8, "seconds": 1e-6}]}, ["few"]),
        ({"elementwise": {"bytes": 1e9, "seconds": 1e-6}}, ["bounds"]),
    ],
)
def test_times_that_no_gpu_has(
    project: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], rules: list[str]
) -> None:
    (project / "times.json").write_text(json.dumps(times(project) | change), encoding="utf-8")
    assert main(["measure", "times.json", "--like", LIKE, "--out", "config/gpus/mine.yaml"]) == 2
    assert [line.split(": ")[2] for line in capsys.readouterr().err.splitlines()] == rules
    assert not (project / "config/gpus/mine.yaml").exists()


def test_what_else_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "times.json").write_text("cut {", encoding="utf-8")
    assert main(["measure", "times.json", "--like", "h101", "--out", "mine.yaml"]) == 2
    assert main(["measure", "times.json", "--out", "mine.yaml"]) == 2
    assert main(["measure", "--like", LIKE, "--out", "mine.py"]) == 2
    said = capsys.readouterr().err
    for words in ("times.json: json: no JSON", "--like: unknown_gpu", "--like: missing", "--like: no_effect"):
        assert words in said
    assert not list(project.glob("mine*"))


def test_the_script_needs_torch_alone(project: Path) -> None:
    assert main(["measure", "--out", "measure_gpu.py"]) == 0
    shown = subprocess.run(
        [sys.executable, "-S", "-E", "measure_gpu.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "--small" in shown.stdout


def test_a_kernel_is_timed_for_as_long_as_asked() -> None:
    calls: list[int] = []
    mean = seconds_of(lambda: calls.append(1), lambda: None, 0.01)
    # Three to warm up, then five at a time.
    assert (len(calls) - 3) % 5 == 0
    assert mean * (len(calls) - 3) >= 0.01
