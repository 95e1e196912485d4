"""The traces as files, held row for row against the naive second implementation."""

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moesweep.shapes.schedule import SHAPE, schedules
from moesweep.store.layout import TRACE_TABLES, Results
from moesweep.store.tablefile import dictionary, dtypes, read_table, words
from moesweep.trace.files import write_traces
from moesweep.trace.programs import sections
from naive_layout import naive_groups, naive_schedule
from naive_trace import naive_ops
from small import small
from varied import VARIED


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Traces of every varied workload, each in a folder of its own: their ids are alike."""
    results = Results(tmp_path_factory.mktemp("results"))
    for name, changes in VARIED.items():
        write_traces(small(**changes), Results(results.root / name))
    return results


def tables_of(results: Results, name: str) -> tuple[dict[str, Any], dict[str, pl.DataFrame]]:
    """Return a varied workload's columns and its six tables read back."""
    row = small(**VARIED[name]).row(0, named=True)
    own = Results(results.root / name)
    return row, {table: read_table(own.trace(table, row["workload"]), table) for table in TRACE_TABLES}


@pytest.mark.parametrize("name", VARIED)
def test_every_row_of_every_rank(results: Results, name: str) -> None:
    row, tables = tables_of(results, name)
    ours = tables["ops"].to_dicts()
    theirs = naive_ops(row)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == {key: other[key] for key in mine}


@pytest.mark.parametrize("name", VARIED)
def test_normal_form_rebuilds_the_ops(results: Results, name: str) -> None:
    """Ranks joined with their stage's program give the per-rank trace, group ids aside."""
    _, tables = tables_of(results, name)
    rebuilt = (
        tables["ranks"].select("rank", "stage").join(tables["programs"], on="stage").sort("rank", "op_index")
    )
    assert rebuilt.equals(tables["ops"].select(rebuilt.columns))


@pytest.mark.parametrize("name", VARIED)
def test_schedules(results: Results, name: str) -> None:
    row, tables = tables_of(results, name)
    shape = (row["pp"], row["num_microbatches"], row["virtual_pipeline"])
    theirs = naive_schedule(
        *shape, row["overlap_moe_expert_parallel_comm"], row["microbatch_group_size_per_vp_stage"]
    )
    assert tables["schedules"].select("stage", "step", "phase", "microbatch", "chunk").rows() == theirs


@pytest.mark.parametrize(
    ("pp", "m", "v"), [(1, 3, 1), (4, 2, 1), (4, 1, 1), (4, 8, 2), (2, 2, 4), (8, 16, 3), (3, 9, 2)]
)
def test_long_and_short_schedules(pp: int, m: int, v: int) -> None:
    for in_pairs in (False, True) if v > 1 or pp == 1 else (False,):
        values = zip(SHAPE, (pp, v, m, in_pairs, pp), strict=True)
        frame = pl.DataFrame({"workload": ["w"], **{name: [value] for name, value in values}})
        assert schedules(frame).drop("workload").rows() == naive_schedule(pp, m, v, in_pairs)


@pytest.mark.parametrize("name", VARIED)
def test_groups(results: Results, name: str) -> None:
    row, tables = tables_of(results, name)
    for (kind,), members in tables["groups"].group_by("group_kind", maintain_order=True):
        lists = members.sort("group_id", "position").group_by("group_id", maintain_order=True).agg("rank")
        assert lists["rank"].to_list() == naive_groups(row)[str(kind)]


def test_routing_keeps_every_copy(results: Results) -> None:
    for name in VARIED:
        row, tables = tables_of(results, name)
        if row["kind"] == "dense":
            assert tables["routing"].is_empty()
            continue
        # k copies of each of the b·s/(c·t) tokens of the group's e·etp ranks
        local = row["micro_batch_size"] * row["seq_length"] // row["cp"] // row["tp"]
        copies = row["moe_router_topk"] * local
        if row["moe_pad_expert_input_to_capacity"]:
            each = math.ceil(copies / row["num_experts"] * row["moe_expert_capacity_factor"])
            copies = each * row["num_experts"]
        assert tables["routing"]["rows"].sum() == copies * row["ep"] * row["etp"]
        assert tables["routing"]["expert"].to_list() == list(range(row["num_experts"]))


def test_files_describe_themselves(results: Results) -> None:
    row = small().row(0, named=True)
    own = Results(results.root / "moe")
    for table in TRACE_TABLES:
        path = own.trace(table, row["workload"])
        facts = pl.read_parquet_metadata(path)
        assert facts["moesweep.table"] == table
        assert facts["moesweep.schema_version"] == str(dictionary(table)["version"])
        assert row["workload"] in facts["moesweep.workload"]
        assert list(pl.read_parquet_schema(path)) == list(dtypes(table))


def test_the_same_bytes_again(results: Results, tmp_path: Path) -> None:
    write_traces(small(), Results(tmp_path))
    first = Results(results.root / "moe").root
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.parquet")]
    assert len(files) == len(TRACE_TABLES)
    assert all((tmp_path / file).read_bytes() == (first / file).read_bytes() for file in files)


def test_the_words_for_ops_are_those_that_sections_have_in_their_order() -> None:
    ops = (op.name for run in sections() for section in run for op in section.ops)
    assert words()["op"] == list(dict.fromkeys(ops))
