"""Tables whose repeated columns are encoded once: the same rows as if each had been, for every reader."""

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesweep.shapes.parallelism import ranks
from moesweep.store import repeated
from moesweep.store.repeated import Repeated, write_repeated
from moesweep.store.tablefile import dtypes, read_table, write_table
from moesweep.store.thrift import decoded, encoded
from moesweep.trace import files
from moesweep.trace.ops import OWN, ops, repeats
from moesweep.trace.programs import programs
from moesweep.trace.skewed_programs import rank_programs
from skewed import SKEWED
from small import small
from varied import VARIED

ROOT = Path()


def footer(path: Path) -> bytes:
    raw = path.read_bytes()
    (length,) = struct.unpack("<I", raw[-8:-4])
    return raw[-8 - length : -8]


@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_a_footer_is_written_as_it_was_read(tmp_path: Path, rows: int) -> None:
    frame = pl.DataFrame({name: pl.int_range(rows, eager=True) for name in dtypes("ranks")})
    write_table(frame, tmp_path / "ranks.parquet", "ranks", {"words": "é" * 300})
    raw = footer(tmp_path / "ranks.parquet")
    assert encoded(decoded(raw)) == raw


_NUMBER = st.integers(-(2**63), 2**63 - 1)
_PLAIN = st.one_of(
    st.tuples(st.just(1), st.booleans()).map(lambda value: (1 if value[1] else 2, value[1])),
    st.tuples(st.sampled_from([4, 5, 6]), _NUMBER),
    st.tuples(st.just(8), st.binary(max_size=300)),
)
_FIELD = st.integers(1, 2**14)


@given(
    st.recursive(
        st.dictionaries(_FIELD, _PLAIN, max_size=5),
        lambda inner: st.dictionaries(
            _FIELD,
            st.one_of(
                st.tuples(st.just(12), inner),
                st.tuples(st.just(9), st.tuples(st.just(12), st.lists(inner, max_size=20))),
                st.tuples(st.just(9), st.tuples(st.just(6), st.lists(_NUMBER, max_size=20))),
            ),
            max_size=4,
        ),
        max_leaves=20,
    )
)
def test_any_struct_comes_back(found: dict[int, tuple[int, Any]]) -> None:
    assert decoded(encoded(found)) == found


CASES = {
    "balanced": (small(), None),
    "dense": (small(**VARIED["dense"]), None),
    "uneven stages": (small(num_layers=7, pp=4), None),
    "members that no number of blocks divides": (small(world_size=28, global_batch_size=28, ep=1), None),
    "skewed": (small(routing=SKEWED), "skewed"),
    "skewed, whole experts": (small(routing=SKEWED, etp=1, ep=4), "skewed"),
}


def made(name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The programs of a case, and its ranks."""
    frame, routed = CASES[name]
    program = rank_programs(frame, ROOT) if routed else programs(frame)
    return program, ranks(frame.row(0, named=True))


@pytest.mark.parametrize("block_rows", [1, 500, 1 << 18])
@pytest.mark.parametrize("name", CASES)
def test_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, block_rows: int) -> None:
    monkeypatch.setattr(repeated, "BLOCK_ROWS", block_rows)
    program, everyone = made(name)
    write_repeated(repeats(program, everyone), tmp_path / "one", "ops", {"a": "b"}, "")
    write_table(ops(program, everyone), tmp_path / "two", "ops", {"a": "b"})
    one, two = (read_table(tmp_path / file, "ops") for file in ("one", "two"))
    assert one.equals(two)
    assert pl.read_parquet_metadata(tmp_path / "one") == pl.read_parquet_metadata(tmp_path / "two")
    assert pl.read_parquet_schema(tmp_path / "one") == pl.read_parquet_schema(tmp_path / "two")


def test_every_reader_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "BLOCK_ROWS", 500)
    program, everyone = made("balanced")
    path = tmp_path / "ops.parquet"
    write_repeated(repeats(program, everyone), path, "ops", {})
    wanted = ops(program, everyone).filter(pl.col("rank") == 11)
    assert pl.scan_parquet(path).filter(pl.col("rank") == 11).collect().equals(wanted)
    assert pl.from_arrow(pq.read_table(path, filters=[("rank", "=", 11)])).rows() == wanted.rows()
    assert duckdb.sql(f"select * from '{path}' where rank = 11 order by op_index").fetchall() == wanted.rows()


def test_a_row_group_tells_its_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So whoever looks for one rank reads no other row group."""
    monkeypatch.setattr(repeated, "BLOCK_ROWS", 500)
    program, everyone = made("balanced")
    write_repeated(repeats(program, everyone), tmp_path / "ops.parquet", "ops", {})
    told = pq.read_metadata(tmp_path / "ops.parquet")
    groups = [told.row_group(number) for number in range(told.num_row_groups)]
    assert len(groups) == 4
    spans = [(each.column(0).statistics.min, each.column(0).statistics.max) for each in groups]
    assert spans[0][0] == 0
    assert spans[-1][1] == 15
    assert all(before[1] < after[0] for before, after in pairwise(spans))
    assert sum(each.num_rows for each in groups) == told.num_rows
    assert all(each.num_rows <= 1000 for each in groups)


def test_what_repeats_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stage of 2 blocks only the own columns are encoded again."""
    encodings: list[tuple[list[str], int]] = []
    encode = repeated._encoded

    def counted(frame: pl.DataFrame, **options: Any) -> Any:
        encodings.append((frame.columns, frame.height))
        return encode(frame, **options)

    monkeypatch.setattr(repeated, "_encoded", counted)
    rows = ops(*made("dense")).drop(OWN).head(10)
    part = Repeated(8, rows, lambda a, b: pl.DataFrame(dict.fromkeys(OWN, range(10 * a, 10 * b))))
    monkeypatch.setattr(repeated, "BLOCK_ROWS", 40)
    write_repeated([part], tmp_path / "ops.parquet", "ops", {})
    assert [height for columns, height in encodings if "flops" in columns] == [40, 0]
    assert [height for columns, height in encodings if columns == list(OWN)] == [40, 40]


@pytest.mark.parametrize("rows", [0, 1 << 40])
def test_traces_are_the_same_either_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    from moesweep.store.layout import Results

    monkeypatch.setattr(files, "REPEATED_ROWS", rows)
    frame = small()
    files.write_traces(frame, results := Results(tmp_path))
    id_ = frame["workload"][0]
    found = read_table(results.trace("ops", id_), "ops")
    assert found.equals(ops(programs(frame), ranks(frame.row(0, named=True))).cast({"op": pl.String}))


def test_a_footer_of_values_that_polars_does_not_write_is_refused() -> None:
    # field 1 of type 7, a floating-point number
    with pytest.raises(ValueError, match="thrift type 7 does not occur"):
        decoded(b"\x17")
