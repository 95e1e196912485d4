"""What-ifs on finished results: as a sweep with that constant or option would cost, and nothing written."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from costing import cluster
from moesweep.cli import main
from moesweep.diff.folder import Folder, read_folder
from moesweep.diff.whatif import what_if
from moesweep.edge.problems import BadInput
from moesweep.evaluate.costs import costed
from moesweep.evaluate.files import write_costs
from moesweep.store.layout import Results
from moesweep.store.tablefile import write_table
from moesweep.trace.files import write_traces
from small import DENSE, small

NAMES: dict[str, dict[str, Any]] = {
    "moe": {"world_size": 32, "ep": 4},
    "narrow": {"ep": 2},
    "dense": DENSE,
    "skewed": {"routing": "zipf(alpha=1,seed=1)"},
}


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    results = Results(tmp_path_factory.mktemp("results"))
    workloads = pl.concat(small(**case).with_columns(workload=pl.lit(id_)) for id_, case in NAMES.items())
    write_table(workloads, results.workloads, "workloads")
    write_traces(workloads, results)
    write_costs(results, cluster())
    return read_folder(results.root)


def seconds(folder: Folder) -> dict[str, float]:
    return dict(folder.costs.select("workload", "iteration_seconds").iter_rows())


def test_a_constant(folder: Folder) -> None:
    found = what_if(folder, cluster(), {"nic_bytes_per_second": "400Gbit/s"}, 1e-9)
    constants = cluster().values | {"nic_bytes_per_second": 50e9}
    expected = costed(folder.workloads, pl.DataFrame([constants]))
    assert seconds(found.b) == pytest.approx(
        dict(expected.select("workload", "iteration_seconds").iter_rows()), rel=1e-12
    )
    assert seconds(found.a) == pytest.approx(seconds(folder), rel=1e-12)
    assert [(each.kind, each.name, each.b) for each in found.inputs] == [
        ("constant", "nic_bytes_per_second", 50e9)
    ]
    assert "moe" in found.moved_ids


def test_an_option_leaves_workloads_without_experts_out(folder: Folder) -> None:
    found = what_if(folder, cluster(), {"ep": "1"}, 1e-9)
    assert sorted(seconds(found.b)) == ["moe", "narrow", "skewed"]
    expected = costed(small(world_size=32, ep=1), pl.DataFrame([cluster().values]))
    assert seconds(found.b)["moe"] == pytest.approx(expected["iteration_seconds"][0], rel=1e-12)
    assert found.notes == ("ep: 1 dense workloads are left out, which have no experts",)


def test_routing_and_recomputation(folder: Folder) -> None:
    found = what_if(folder, cluster(), {"routing": "zipf:1.2", "recompute": "full"}, 1e-9)
    expected = costed(
        small(routing="zipf(alpha=1.2,seed=0)", recompute="full"), pl.DataFrame([cluster().values])
    )
    assert seconds(found.b)["narrow"] == pytest.approx(expected["iteration_seconds"][0], rel=1e-12)
    assert found.only_b == []
    # Each of them alone, and what they do together.
    caused = {row["input"]: row for row in found.effects.filter(workload="narrow").to_dicts()}
    assert {"routing", "recompute"} <= caused.keys() <= {"routing", "recompute", "interaction"}
    for name, value in (("routing", "zipf:1.2"), ("recompute", "full")):
        one = what_if(folder, cluster(), {name: value}, 1e-9)
        assert one.effects.is_empty()
        change = seconds(one.b)["narrow"] - seconds(one.a)["narrow"]
        assert caused[name]["iteration_seconds"] == pytest.approx(change, rel=1e-9, abs=1e-15)


def test_what_becomes_illegal_is_named(folder: Folder) -> None:
    # Of 32 GPUs, 8 share the batch; of 16, 4.
    found = what_if(folder, cluster(), {"global_batch_size": "4"}, 1e-9)
    assert set(found.b.workloads["workload"]) == {"narrow", "dense", "skewed"}
    assert any(note.startswith("becomes illegal: moe: ") for note in found.notes)


def test_a_question_that_leaves_no_workload_is_refused(folder: Folder) -> None:
    """It had been answered with no difference in 0 workloads, as if it changed nothing."""
    with pytest.raises(BadInput) as caught:
        what_if(folder, cluster(), {"ep": "16"}, 1e-9)
    said = [problem.message for problem in caught.value.problems]
    assert any(message.startswith("no workload is left: becomes illegal: moe: ") for message in said)
    assert {problem.path for problem in caught.value.problems} == {"ep"}


def test_a_constant_may_leave_its_bounds_and_that_is_said(folder: Folder) -> None:
    found = what_if(folder, cluster(), {"tp_overlap": "1.5"}, 1e-9)
    assert any("tp_overlap: 1.5 lies outside" in note for note in found.notes)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"nic_bytes_per_secnd": "1 GB/s"}, "did you mean nic_bytes_per_second"),
        ({"nic_bytes_per_second": "400"}, "has no unit"),
        ({"tp_overlap": "much"}, "is not a plain number"),
        ({"tp_overlap": "\u0661"}, "is not a plain number"),
        ({"nic_bytes_per_second": "0 GB/s"}, "nic_bytes_per_second: range: 0.0 is not above 0$"),
        ({"gpus_per_node": "0"}, "gpus_per_node: range: 0.0 is not above 0$"),
        ({"gpus_per_node": "1.5"}, "1.5 is not a multiple of 1; nearest: 1, 2"),
        ({"streaming_multiprocessors": "0.1"}, "0.1 is not a multiple of 1; nearest: 1$"),
        ({"attention_dropout": "1"}, "attention_dropout: range: 1 is not below 1$"),
        ({"model": "gpt_7B"}, "model: no_effect: another model is another sweep"),
        ({"recompute": "some"}, "choice"),
        ({"ep": "two"}, "ep"),
        ({"ep": "largest"}, "a number is needed"),
    ],
)
def test_mistakes(folder: Folder, given: dict[str, str], expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        what_if(folder, cluster(), given, 1e-9)


def test_the_command_prints_a_diff_and_writes_nothing(
    root: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    command = ["whatif", "nic_bytes_per_second=400Gbit/s", "--results", str(folder.path), "--workload", "moe"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "constant nic_bytes_per_second: 2.5e+10 → 5e+10" in said
    assert "iteration_seconds: " in said
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before
