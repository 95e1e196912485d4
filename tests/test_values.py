"""What tables may hold: numbers with sense, however large a workload is; nothing else is written or read."""

import json
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moesweep.cli import main
from moesweep.edge.problems import BadInput
from moesweep.evaluate.recost import recosted
from moesweep.store.of_each import read_of_each
from moesweep.store.tablefile import dictionary, read_table, write_table
from moesweep.store.values import check_values
from moesweep.study.catalog import load_cluster
from moesweep.study.validation import findings
from moesweep.trace.programs import programs
from moesweep.traffic.links import links
from moesweep.traffic.matrices import aggregated
from project import Project, make_project
from small import small

Change = Callable[[pl.DataFrame], pl.DataFrame]


def put(name: str, value: Any) -> Change:
    """Put a value into the first row of a column."""
    first = pl.int_range(pl.len()) == 0
    return lambda frame: frame.with_columns(pl.when(first).then(pl.lit(value)).otherwise(name).alias(name))


SENSELESS: dict[str, tuple[Change, str]] = {
    "nothing": (put("iteration_seconds", None), "null is not a finite number, above 0"),
    "not a number": (put("compute_seconds", nan), "nan is not a finite number, at least 0"),
    "infinite": (put("peak_memory_bytes", inf), "inf is not a finite number, above 0"),
    "negative": (put("weights_bytes", -6.9e18), "-6.9e+18 is not a finite number, at least 0"),
    "no time at all": (put("iteration_seconds", 0.0), "0.0 is not a finite number, above 0"),
    "more bubble than iteration": (
        put("bubble_fraction", 1.5),
        "1.5 is not a finite number, at least 0, at most 1",
    ),
    "no word": (put("workload", None), "null is not a value of the column"),
    "twice": (lambda frame: pl.concat([frame, frame.head(1)]), "holds more than one row of workload"),
}


@pytest.fixture(scope="module")
def costs(root: Path) -> pl.DataFrame:
    return recosted(small(), load_cluster(root, "dgx-a100-80gb-8xhdr200"))


@pytest.mark.parametrize("name", SENSELESS)
def test_no_table_without_sense_is_written(costs: pl.DataFrame, tmp_path: Path, name: str) -> None:
    change, said = SENSELESS[name]
    with pytest.raises(BadInput) as caught:
        write_table(change(costs), tmp_path / "costs.parquet", "costs")
    assert said in caught.value.problems[0].line()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SENSELESS)
def test_no_table_without_sense_is_read(
    costs: pl.DataFrame, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's file: sound Parquet of the right table and version."""
    change, said = SENSELESS[name]
    path = tmp_path / "costs.parquet"
    with monkeypatch.context() as patch:
        patch.setattr("moesweep.store.tablefile.check_rows", lambda *_: None)
        write_table(change(costs), path, "costs")
    with pytest.raises(BadInput) as caught:
        read_table(path, "costs")
    assert said in caught.value.problems[0].line()
    assert str(path) in caught.value.problems[0].line()


def test_all_columns_without_sense_are_told_at_once(costs: pl.DataFrame, tmp_path: Path) -> None:
    names = ("iteration_seconds", "compute_seconds", "bubble_seconds")
    with pytest.raises(BadInput) as caught:
        write_table(costs.with_columns(pl.lit(-1.0).alias(name) for name in names), tmp_path / "x", "costs")
    assert [problem.path.split()[0] for problem in caught.value.problems] == list(names)


def test_a_sum_beyond_64_bits_is_refused(tmp_path: Path) -> None:
    """Two ranks of a node each send 2^62 and 2^62 bytes to the next node: 2^64, which would wrap to 0."""
    matrix = pl.DataFrame(
        [(src, dst, "dp", "backward", 2**62) for src in (0, 1) for dst in (8, 9)],
        schema=("src", "dst", "group_kind", "phase", "bytes"),
        orient="row",
    )
    node = aggregated(matrix, "node", 8)
    assert node["bytes"].to_list() == [2**64]
    found = links(matrix, 16, 8).with_columns(workload=pl.lit("x"))
    assert found.row(0, named=True)["total_bytes"] == 2**64
    for table, frame in (("traffic", node), ("links", found)):
        with pytest.raises(BadInput, match="18446744073709551616 is not a whole number of 64 bits"):
            write_table(frame, tmp_path / "x.parquet", table)


def test_limits_are_those_of_numbers() -> None:
    """A limit of a column that is no number would say nothing."""
    for path in sorted((Path(__file__).parents[1] / "schemas/tables").glob("*.json")):
        declared = dictionary(path.stem)
        names = [column["name"] for column in declared["columns"]]
        assert set(declared.get("key", [])) <= set(names)
        for column in declared["columns"]:
            if {"least", "most", "above"} & column.keys():
                assert column["type"] in ("Int64", "Float64"), (path.stem, column["name"])
            assert "pattern" not in column or column["type"] == "String"


def test_texts_have_one_pattern(root: Path) -> None:
    """A table of workloads takes what its schema takes."""
    schema = json.loads((root / "schemas/workload.schema.json").read_text(encoding="utf-8"))
    patterns = {
        column["name"]: column["pattern"]
        for column in dictionary("workloads")["columns"]
        if "pattern" in column
    }
    assert len(patterns) == 3
    assert patterns == {name: schema["properties"][name]["pattern"] for name in patterns}


@pytest.mark.parametrize(
    ("column", "sound", "strange"),
    [
        ("moe_layer_freq", ("1", "12", "[0,1]"), ("\n", "0", "none", "[0,2]", "1\n")),
        ("window_attn_skip_freq", ("none", "4", "[1]"), ("", "-1", "[]")),
        ("pipeline_model_parallel_layout", ("none", "Et*3|(tt|)*2L"), ("E t", "x" * 9)),
    ],
)
def test_a_text_that_is_read_as_more_has_its_pattern(
    column: str, sound: tuple[str, ...], strange: tuple[str, ...]
) -> None:
    """A strange text had ended in a fault of the program's own; patterns are the schema's."""
    declared = dictionary("workloads")
    for text in sound:
        check_values(pl.DataFrame({column: [text]}), declared, "x.parquet")
    for text in strange:
        with pytest.raises(BadInput, match="is not a text such as"):
            check_values(pl.DataFrame({column: [text]}), declared, "x.parquet")


WIDE = {"hidden_size": 2**20, "num_attention_heads": 2**13, "num_query_groups": 2**13, "gated_mlp": True}


def huge(**changes: Any) -> pl.DataFrame:
    return small(tp=4, etp=4, pp=2, ep=2, world_size=64, global_batch_size=64, **WIDE, **changes)


def test_a_model_beyond_64_bits_is_counted(root: Path) -> None:
    """10 layers with 65,536 shared experts of width 2^22: their weights alone are 2.16e18 bytes a GPU.

    5 layers of a stage, 3 gated matrices, 2 bytes, over tp 4: 5 * 3 * 2^20 * 2^22 * 2^16 / 4 * 2 bytes.
    """
    workloads = huge(
        num_layers=10, ffn_hidden_size=2**22, moe_ffn_hidden_size=2**22, num_shared_experts=2**16
    )
    assert findings(workloads).filter(severity="error").is_empty()
    row = recosted(workloads, load_cluster(root, "dgx-a100-80gb-8xhdr200")).row(0, named=True)
    shared = 5 * 3 * 2.0**20 * 2.0**22 * 2.0**16 / 4 * 2
    assert shared < row["weights_bytes"] < 1.001 * shared
    assert row["peak_memory_bytes"] > row["weights_bytes"] + row["optimizer_bytes"]
    assert not row["fits"]


def test_a_model_of_many_wide_layers_is_counted(root: Path) -> None:
    """65,536 dense layers: 2^15 a stage, (4h^2 + 3hf)/4 parameters each, 12/16 optimizer bytes of each."""
    dense = small(
        **WIDE, tp=4, etp=4, pp=2, ep=1, world_size=64, global_batch_size=64, num_layers=2**16,
        ffn_hidden_size=2**22, num_experts=0, moe_router_topk=0,
    )  # fmt: skip
    row = recosted(dense, load_cluster(root, "dgx-a100-80gb-8xhdr200")).row(0, named=True)
    parameters = 2.0**15 * (4 * 2.0**40 + 3 * 2.0**42) / 4
    assert row["weights_bytes"] == pytest.approx(2 * parameters, rel=1e-4)
    assert row["optimizer_bytes"] == pytest.approx(12 * parameters / 8, rel=1e-4)


def test_a_trace_beyond_64_bits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project: Project = make_project(tmp_path)
    monkeypatch.chdir(project.root)
    project.edit("config/models/tiny.yaml", "hidden_size: {value: 256", "hidden_size: {value: 1048576")
    project.edit("config/models/tiny.yaml", "{value: 1024", "{value: 4194304")
    project.edit("config/sweeps/small.yaml", "num_experts: 4", "num_experts: 4\n  num_shared_experts: 65536")
    assert main(["trace"]) == 2
    assert "is not a whole number of 64 bits" in capsys.readouterr().err
    assert not list(project.root.glob("results/traces/**/*.parquet"))


def test_files_judged_together_name_the_one_at_fault(root: Path, tmp_path: Path) -> None:
    program = programs(small()).drop("workload")
    files = {id_: tmp_path / f"{id_}.parquet" for id_ in ("a", "b")}
    for file in files.values():
        write_table(program, file, "programs")
    both = read_of_each(files, "programs")
    assert both["workload"].to_list() == ["a"] * program.height + ["b"] * program.height
    assert both.drop("workload").equals(pl.concat([read_table(file, "programs") for file in files.values()]))
    for broken, said in (
        (program.with_columns(m=pl.lit(-1, pl.Int64)), "-1 is not a whole number"),
        (pl.concat([program, program.head(1)]), "holds more than one row of stage 0, op_index 0"),
    ):
        write_table(broken.lazy(), files["b"], "programs")
        with pytest.raises(BadInput) as caught:
            read_of_each(files, "programs")
        assert {problem.file for problem in caught.value.problems} == {str(files["b"])}
        assert said in caught.value.problems[0].line()
