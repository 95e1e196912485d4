"""Files of one workload in the place of another's: no command takes them for that one's own."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from answers import make_answers
from moesweep.cli import main
from moesweep.store.layout import Results
from moesweep.store.tablefile import read_table, write_table
from moesweep.study.validation import findings
from moesweep.trace.files import write_traces
from sampled import outside
from skewed import SKEWED
from small import small

PARTS = {
    "traces/programs": ("cost", "traffic"),
    "traces/groups": ("traffic",),
    "traces/ranks": ("traffic",),
    "traces/schedules": ("figures",),
    "costs/ops": ("export",),
    "traffic/node": ("figures",),
}
GIVEN_PARTS = {"traces/routing": ("cost", "traffic"), "traces/ops": ("traffic", "tables")}
CASES, GIVEN_CASES = (
    [(part, command) for part, commands in parts.items() for command in commands]
    for parts in (PARTS, GIVEN_PARTS)
)


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make_answers(tmp_path_factory.mktemp("balanced"))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two workloads with a given routing."""
    results = Results(tmp_path_factory.mktemp("given"))
    workloads = pl.concat([small(routing=SKEWED), small(routing=SKEWED, global_batch_size=64)])
    write_table(workloads, results.workloads, "workloads")
    write_table(findings(workloads), results.validation, "validation")
    write_traces(workloads, results)
    for stage in ("cost", "traffic"):
        assert main([stage, "--results", str(results.root)]) == 0
    return results


def swapped(results: Results, folder: Path, part: str) -> tuple[Results, Path]:
    """Return a copy of results where one workload's file of a part is another's, and that file."""
    copy = Results(folder / "results")
    shutil.copytree(results.root, copy.root)
    ids = featured_first(copy)
    own, other = (next((copy.root / part / f"workload={id_}").iterdir()) for id_ in ids)
    shutil.copy(other, own)
    return copy, own


def featured_first(results: Results) -> tuple[str, str]:
    """Return the workload that all figures read, and the catalogue's last one."""
    ids = read_table(results.workloads, "workloads")["workload"]
    return str(ids[1] if ids.len() > 2 else ids[0]), str(ids[-1])


def run(command: str, results: Results, folder: Path) -> int:
    options = ["--format", "perfetto", "--out", str(folder / "out")] if command == "export" else []
    return main([command, "--results", str(results.root), *options])


@pytest.mark.parametrize(("part", "command"), CASES)
def test_another_workloads_file_is_refused(
    balanced: Results, tmp_path: Path, part: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results, own = swapped(balanced, tmp_path, part)
    assert run(command, results, tmp_path) == 2
    assert f"{own}: workload: is of another workload: " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["tables", "figures"])
def test_ops_of_another_sweep_are_refused(
    balanced: Results, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results(tmp_path / "results")
    shutil.copytree(balanced.root, results.root)
    ops = read_table(results.distinct_ops, "distinct_ops")
    _, last = featured_first(results)
    write_table(ops.filter(pl.col("workload") != last), results.distinct_ops, "distinct_ops")
    assert run(command, results, tmp_path) == 2
    said = f"{results.distinct_ops}: workload: has no costs of a workload of workloads.parquet: {last}"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("part", "command"), GIVEN_CASES)
def test_another_workloads_given_routing_is_refused(
    given: Results, tmp_path: Path, part: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results, own = swapped(given, tmp_path, part)
    assert run(command, results, tmp_path) == 2
    assert own.name in (said := capsys.readouterr().err)
    assert "workload: is of another workload: " in said


@pytest.mark.parametrize("command", ["cost", "report", *map(outside, ("traffic", "tables", "figures"))])
def test_files_that_do_not_say_whose_they_are_stay_readable(
    balanced: Results, tmp_path: Path, command: str
) -> None:
    old = Results(tmp_path / "results")
    shutil.copytree(balanced.root, old.root)
    assert main(["figures", "--results", str(old.root)]) == 0
    for path in old.root.glob("*/*/workload=*/*.parquet"):
        known = pl.read_parquet_metadata(path)
        kept = {key: text for key, text in known.items() if key not in ("moesweep.workload", "ARROW:schema")}
        pl.read_parquet(path, hive_partitioning=False).write_parquet(path, metadata=kept)
    assert run(command, old, tmp_path) == 0
