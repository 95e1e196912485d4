"""The tables' files and the summary: complete, readable, the same to the byte."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from answers import make_answers
from moesweep.cli import main
from moesweep.edge.problems import BadInput
from moesweep.store.layout import Results
from moesweep.store.tablefile import TABLES as DECLARED
from moesweep.store.tablefile import dictionary, dtypes, read_table, write_table
from moesweep.tables.files import _harmless, write_tables
from moesweep.tables.markdown import MOST_ROWS, markdown
from moesweep.tables.numbers import quantity
from moesweep.tables.registry import TABLES
from tabled import DENSE, ODD, SMALL, make, table


@pytest.fixture(scope="module")
def small(root: Path, in_root: None, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(root, tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="module")
def dense_only(root: Path, in_root: None, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make(root, tmp_path_factory.mktemp("dense"), DENSE)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_comes_as_parquet_csv_and_markdown(small: Results, name: str) -> None:
    frame = table(small, name)
    read = pl.read_csv(small.table(name, "csv"), schema=dtypes(name))
    assert read.equals(frame)
    text = small.table(name, "md").read_text(encoding="utf-8")
    assert f"{frame.height} rows." in text
    assert all(column["description"] for column in dictionary(name)["columns"])


@pytest.mark.parametrize("name", TABLES)
def test_a_dense_sweep_has_every_table(dense_only: Results, name: str) -> None:
    frame = table(dense_only, name)
    of_moe = ("moe_against_dense", "ep_scaling", "skew_sensitivity", "feasible_ep", "ep_claims")
    # Its two workloads differ in two options.
    empty = {"ep_breakdown", "distribution_examples", "options_compared", *of_moe}
    assert frame.is_empty() if name in empty else frame.height or name in ("warnings", "megatron_refusals")


def test_the_summary_of_a_dense_sweep_says_what_it_cannot_say(dense_only: Results) -> None:
    summary = dense_only.summary.read_text(encoding="utf-8")
    assert "2 dense workloads, no MOE workload" in summary
    assert summary.count("This sweep has no MoE workload") == 4
    assert "nan" not in summary


def test_a_sweep_without_twins_or_comparisons_says_so(root: Path, in_root: None, tmp_path: Path) -> None:
    results = make(root, tmp_path, ODD)
    lines = results.summary.read_text(encoding="utf-8").splitlines()
    assert table(results, "ep_claims")["verdict"].unique().to_list() == ["untested"]
    assert "    world_size = ETP × PP × EP × DP" in lines
    assert "  → DP = 16 / (1 × 1 × 4) = 4" in lines
    assert "• The sweep has no dense equivalents." in lines
    assert "in 0 of the" in " ".join(lines)
    assert [line for line in lines if len(line) > 80] == []


def test_tables_are_made_for_the_memory_that_is_asked_for(
    root: Path, in_root: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = make(root, tmp_path, DENSE)
    command = ["tables", "--results", str(results.root)]
    before = results.summary.read_bytes(), results.table("feasible_ep", "csv").read_bytes()
    for size in ("1GiB", "40", "much", "40GiB"):
        assert main([*command, "--memory", size]) == (0 if size == "40GiB" else 2)
        assert size == "40GiB" or "--memory" in capsys.readouterr().err
        gib = set(table(results, "recompute_options")["gpu_memory_bytes"] / 2**30)
        assert gib == {40 if size == "40GiB" else 80}
    found = table(results, "recompute_options")
    assert found["fastest_on_gpu"].to_list() == found["fastest_at_40_gib"].to_list()
    assert (results.summary.read_bytes(), results.table("feasible_ep", "csv").read_bytes()) == before


def test_no_word_of_a_csv_file_is_a_formula() -> None:
    words = ["=1+1", "+1", "-1", "@x", "\tx", "plain", None, "a=b"]
    frame = pl.DataFrame({"message": words, "count": [-1] * len(words)})
    assert _harmless(frame).rows() == [
        (word if word in ("plain", None, "a=b") else f"'{word}", -1) for word in words
    ]


def test_the_summary_has_the_seeds_sections_within_its_width(small: Results) -> None:
    lines = small.summary.read_text(encoding="utf-8").splitlines()
    sections = [lines[at + 1] for at, line in enumerate(lines[:-1]) if line == "=" * 80]
    for title in (
        "MOE WORKLOAD EXPERT CONFIGURATION SUMMARY",
        "EXPERT PARALLELISM (EP) BREAKDOWN",
        "HOW EXPERTS ARE DISTRIBUTED ACROSS GPUs",
        "COMMUNICATION PATTERNS FOR MOE",
        "KEY INSIGHTS",
    ):
        assert title in sections
    assert [line for line in lines if len(line) > 80] == []
    assert "  → DP = 32 / (2 × 2 × 4) = 2" in lines
    assert "  → Megatron's dp = 32 / (2 × 2) = 8: 8 shares of every batch" in lines


def test_the_dictionary_describes_every_declared_table(small: Results) -> None:
    declared = json.loads(small.dictionary.read_text(encoding="utf-8"))["tables"]
    assert set(declared) == {path.stem for path in DECLARED.glob("*.json")}
    assert all(declared[name]["columns"] == dictionary(name)["columns"] for name in TABLES)


# Of the whole workflow tests/test_reruns.py says the same.
@pytest.mark.slow
@pytest.mark.endurance
def test_two_runs_write_the_same_bytes(small: Results, root: Path) -> None:
    written = [small.summary, small.dictionary, *sorted((small.root / "tables").iterdir())]
    before = {path: path.read_bytes() for path in written}
    code = f"from pathlib import Path\nfrom moesweep.store.layout import Results\n\
from moesweep.tables.files import write_tables\nwrite_tables(Results(Path({str(small.root)!r})))"
    other = os.environ | {"POLARS_MAX_THREADS": "1", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code], cwd=root, env=other, check=True)
    assert [path.name for path in written if path.read_bytes() != before[path]] == []


def test_a_missing_input_is_named(in_root: None, small: Results, tmp_path: Path) -> None:
    bare = Results(tmp_path)
    write_table(table(small, "workloads"), bare.workloads, "workloads")
    with pytest.raises(BadInput, match=r"costs\.parquet"):
        write_tables(bare)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["workloads.parquet"]


def test_a_huge_table_shows_its_ends_and_says_so(small: Results) -> None:
    frame = pl.concat([table(small, "communication")] * 10)
    text = markdown(frame, "communication")
    assert frame.height > MOST_ROWS
    assert f"{frame.height} rows, {frame.height - 100} of them left out here" in text
    assert text.count("\n| gpt_") == 100


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (5_242_880, "byte", "5 MiB"),
        (0, "byte", "0"),
        (7, "byte", "7 B"),
        (0.000437, "s", "437 µs"),
        (1.234e15, "flop", "1.234 Pflop"),
        (16, "", "16"),
        (12_345.6, "USD", "12,346 USD"),
    ],
)
def test_quantities_read_well(value: float, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown


def test_traffic_for_other_nodes_is_refused(
    small: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a folder of results that was copied before its costs were made for another cluster."""
    other = Results(Path(shutil.copytree(small.root, tmp_path / "copy")))
    write_table(read_table(other.links, "links"), other.links, "links", {"gpus_per_node": "72"})
    assert main(["tables", "--results", str(other.root)]) == 2
    said = capsys.readouterr().err
    assert "nodes: counts nodes of 72 GPUs, and the costs' cluster has 8 a node; run moesweep traffic" in said


@pytest.mark.parametrize(
    ("file", "stage"), [("network/topologies.parquet", "network"), ("tables/ep_scaling.parquet", "tables")]
)
def test_who_makes_a_missing_file_is_said(
    file: str, stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = make_answers(tmp_path)
    (results.root / file).unlink()
    assert main(["figures", "--results", str(tmp_path)]) == 2
    assert f"; moesweep {stage} makes it, and make sweep all that lack" in capsys.readouterr().err
