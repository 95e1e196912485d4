"""What a sweep may say of routing, what is said of it when it is wrong, all stages on a sweep that skews."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moesweep.cli import main
from moesweep.edge.problems import BadInput, Problem
from moesweep.store.layout import Results
from moesweep.store.tablefile import read_table
from moesweep.study.routing import read_counts
from moesweep.study.sweep import enumerate_sweep, load_sweep
from moesweep.trace.files import write_traces
from project import MODEL, SWEEP
from skewed import table_file

MINE = "config/sweeps/mine.yaml"
OPTIONS = {"num_experts": 4, "moe_router_topk": 2, "seq_length": 128, "global_batch_size": 32}
ROW = {"model": "tiny", "world_size": 16, "tp": 2, "pp": 2, "ep": 2}
EVEN = [[10, 20, 30, 40]] * 4


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A project of one's own with a tiny model and no sweep yet."""
    shutil.copytree(root / "config", tmp_path / "config")
    (tmp_path / "config/models/tiny.yaml").write_text(MODEL, encoding="utf-8")
    return tmp_path


def write(project: Path, routing: Any) -> None:
    text = json.dumps({"twins": True, "options": OPTIONS, "rows": [ROW | {"routing": routing}]})
    (project / MINE).write_text(text.replace("NaN", ".nan").replace("Infinity", ".inf"), encoding="utf-8")


def problems(project: Path, routing: Any) -> list[Problem]:
    write(project, routing)
    with pytest.raises(BadInput) as caught:
        load_sweep(project, MINE)
    assert {problem.file for problem in caught.value.problems} == {MINE}
    return caught.value.problems


@pytest.mark.parametrize(
    ("routing", "text"),
    [
        ("balanced", "balanced"),
        ({"zipf": 1.2}, "zipf(alpha=1.2,seed=0)"),
        ({"zipf": 1, "seed": 7, "capacity_factor": 1.25}, "zipf(alpha=1,seed=7,capacity=1.25)"),
        ({"lognormal": 0.5, "seed": 3}, "lognormal(sigma=0.5,seed=3)"),
    ],
)
def test_a_routing_becomes_a_text(project: Path, routing: Any, text: str) -> None:
    write(project, routing)
    frame = enumerate_sweep(project, MINE)
    assert frame.select("kind", "routing").rows() == [("moe", text), ("dense", "balanced")]


def test_a_measured_table_is_known_by_its_content(project: Path) -> None:
    name = table_file(project, EVEN)
    write(project, {"table": name})
    before = enumerate_sweep(project, MINE)["routing"][0]
    assert before.startswith("table(file=mine.parquet,sha256=")
    table_file(project, [[40, 30, 20, 10]] * 4)
    assert enumerate_sweep(project, MINE)["routing"][0] != before


@pytest.mark.parametrize(
    ("routing", "path", "said"),
    [
        ("zipff", "", "did you mean zipf?"),
        ("zipf", "", "write {zipf: 1.2}"),
        ("table", "", "needs a file"),
        ({"zipff": 1.2}, ".zipff", "did you mean zipf?"),
        ({"seed": 1}, "", "write {zipf: 1.2}"),
        ({"zipf": 1, "lognormal": 1}, "", "here are 2 of them"),
        ({"zipf": -1}, ".zipf", "nearest: 0"),
        ({"zipf": float("nan")}, ".zipf", "nan where a number"),
        ({"lognormal": float("inf")}, ".lognormal", "nearest: 8"),
        ({"zipf": "much"}, ".zipf", "a number"),
        ({"zipf": True}, ".zipf", "a number"),
        ({"zipf": 1, "seed": 1.5}, ".seed", "a whole number"),
        ({"zipf": 1, "capacity_factor": 0}, ".capacity_factor", "not above 0"),
        ({"zipf": 1, "capacity_factor": -1}, ".capacity_factor", "not above 0"),
        ({"zipf": 1, "capacity_factor": float("nan")}, ".capacity_factor", "nan where a number"),
        ({"table": "../elsewhere.parquet"}, ".table", "without .."),
        ({"table": "/elsewhere.parquet"}, ".table", "a path from the project's folder"),
        ({"table": "nowhere.parquet"}, ".table", "cannot be read"),
        ({"table": "config/models/tiny.yaml"}, ".table", "cannot be read"),
        ({"table": "mine.parquet", "seed": 1}, ".seed", "nothing random"),
        (3, "", "text or a mapping"),
    ],
)
def test_a_routing_that_makes_no_sense(project: Path, routing: Any, path: str, said: str) -> None:
    (found,) = problems(project, routing)
    assert found.path == f"rows[0].routing{path}"
    assert said in found.line()


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ({"layer": [0], "expert": [0]}, "no column tokens"),
        ({"layer": [0], "expert": [0], "tokens": [0.5]}, "something else than counts"),
        ({"layer": [0], "expert": [0], "tokens": [-1]}, "something else than counts"),
        ({"layer": [0], "expert": [0], "tokens": [None]}, "something else than counts"),
        ({"layer": [0, 0], "expert": [0, 0], "tokens": [1, 1]}, "each of 1 experts once"),
        ({"layer": [0, 0, 1], "expert": [0, 1, 0], "tokens": [1, 1, 2]}, "layer 1 does not count"),
        ({"layer": [0, 1], "expert": [0, 0], "tokens": [1, 2]}, "the layers' tokens sum to [1, 2]"),
        ({"layer": [0], "expert": [0], "tokens": [0]}, "sum to [0]"),
        ({"layer": [], "expert": [], "tokens": []}, "counts"),
        ({"layer": [0, 1, 2, 3] * 2, "expert": [0] * 4 + [1] * 4, "tokens": [1] * 8}, "the workload has 4"),
        (
            {
                "layer": [0, 1, 2, 3] * 4,
                "expert": [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4,
                "tokens": [51] * 4 + [49] * 4 + [0] * 8,
            },
            "gives expert 0 of layer 0 51 of 100 copies; a token's 2 experts differ, so one gets 50 at most",
        ),
    ],
)
def test_a_table_of_the_wrong_shape(project: Path, frame: dict[str, list[Any]], said: str) -> None:
    pl.DataFrame(frame).write_parquet(project / "mine.parquet")
    (found,) = problems(project, {"table": "mine.parquet"})
    assert found.path == "rows[0].routing.table"
    assert said in found.line()


@pytest.mark.parametrize("kind", ["Int16", "Int32", "UInt8", "UInt16", "UInt32", "UInt64", "Int128"])
def test_counts_of_any_whole_type_are_read(project: Path, kind: str) -> None:
    name = table_file(project, EVEN)
    whole = pl.read_parquet(project / name)
    whole.cast(getattr(pl, kind)).write_parquet(project / name)
    assert read_counts(project, name).equals(whole)


def test_a_pipe_is_not_waited_for(project: Path) -> None:
    os.mkfifo(project / "mine.parquet")
    (found,) = problems(project, {"table": "mine.parquet"})
    assert "mine.parquet cannot be read as Parquet: not a regular file" in found.line()


def test_a_count_beyond_64_bits_is_none(project: Path) -> None:
    name = table_file(project, EVEN)
    whole = pl.read_parquet(project / name).with_columns(tokens=pl.lit(2**63, pl.UInt64))
    whole.write_parquet(project / name)
    (found,) = problems(project, {"table": name})
    assert "tokens holds something else than counts" in found.line()


@pytest.mark.parametrize(("layers", "said"), [(3, "lacks MoE layers [3]"), (5, "has layers [4] too many")])
def test_a_table_of_other_layers(project: Path, layers: int, said: str) -> None:
    table_file(project, EVEN[:1] * layers)
    (found,) = problems(project, {"table": "mine.parquet"})
    assert said in found.line()


def test_a_link_out_of_the_project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    table_file(outside, EVEN)
    (project / "mine.parquet").symlink_to(outside / "mine.parquet")
    (found,) = problems(project, {"table": "mine.parquet"})
    assert found.rule == "symbolic_link"


def prepared(project: Path, routing: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the project's sweep skew its three MoE workloads; return the id of the first."""
    monkeypatch.chdir(project)
    (project / MINE).write_text(SWEEP.replace("routing: balanced", f"routing: {routing}"), encoding="utf-8")
    config = (project / "config/config.yaml").read_text(encoding="utf-8")
    (project / "config/config.yaml").write_text(
        config.replace("moe-a100-123", "mine").replace("config/sweeps/mine.yaml", MINE), encoding="utf-8"
    )
    assert main(["enumerate"]) == 0
    first: str = read_table(Path("results/workloads.parquet"), "workloads")["workload"][0]
    return first


def test_every_stage_takes_a_sweep_that_skews(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    id_ = prepared(project, "{zipf: 1.2, seed: 7, capacity_factor: 1.5}", monkeypatch)
    for stage in ("validate", "trace", "cost", "traffic", "tables"):
        assert main([stage]) == 0, stage
    costs = read_table(Path("results/costs.parquet"), "costs")
    assert costs.height == 5
    assert costs["iteration_seconds"].is_finite().all()
    capsys.readouterr()
    assert main(["trace", "--unroll", "--workload", id_, "--out", "linear"]) == 0
    assert read_table(Path(f"linear/{id_}.parquet"), "unrolled")["rank"].n_unique() == 16
    assert main(["export", "--format", "chakra", "--out", "out", "--workload", id_]) == 0
    assert main(["export", "--check", "--out", "out"]) == 0
    for format_ in ("perfetto", "simai"):
        assert main(["export", "--format", format_, "--out", format_, "--workload", id_]) == 0
    (text,) = Path("simai").iterdir()
    assert text.name.endswith("-busiest.txt")
    aicb = ["export", "--format", "simai", "--flavor", "aicb", "--out", "aicb", "--workload", id_]
    assert main(aicb) == 2
    assert "zipf(alpha=1.2,seed=7,capacity=1.5)" in capsys.readouterr().err
    assert not Path("aicb").exists()
    seconds = costs.filter(workload=id_)["iteration_seconds"][0]
    assert main(["explain", id_, "iteration_seconds", "--format", "json", "--depth", "0"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["value"] == pytest.approx(seconds, rel=1e-12)
    assert err == ""  # nor does it say that the results hold another number


def test_a_table_that_changed_after_enumeration_is_refused(project: Path) -> None:
    table_file(project, EVEN)
    write(project, {"table": "mine.parquet"})
    workloads = enumerate_sweep(project, MINE)
    table_file(project, [[40, 30, 20, 10]] * 4)
    with pytest.raises(BadInput) as caught:
        write_traces(workloads, Results(project / "results"), project)
    assert "has changed since the sweep was enumerated" in caught.value.problems[0].line()
    assert not list(project.glob("results/**/*.parquet"))
