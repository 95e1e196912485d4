"""Parquet tables in which members have the same rows but for a few columns: the others are encoded once.

Polars encodes what repeats again and again, which is most of the work of a trace. Here the rows of some
members, as many as a row group takes, are encoded once, and the bytes of their columns are copied into the
row group of every other such block of members; only the members' own columns are encoded for each. A column's
bytes do not say where in a file they lie; the footer does, and it is made here.
Source of the footer's fields: src/main/thrift/parquet.thrift of github.com/apache/parquet-format.
"""

import io
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from moesweep.store.tablefile import COMPRESSION, dtypes, metadata, whole
from moesweep.store.thrift import I16, I64, LIST, STRUCT, Struct, decoded, encoded

MAGIC = b"PAR1"

BLOCK_ROWS = 1 << 18
"""About how many rows a row group has."""

COLUMNS, BYTES, ROWS, OFFSET, COMPRESSED, ORDINAL = 1, 2, 3, 5, 6, 7
"""Fields of RowGroup."""

FILE_ROWS, ROW_GROUPS = 3, 4
"""Fields of FileMetaData."""

CHUNK_OFFSET, CHUNK = 2, 3
"""Fields of ColumnChunk: file_offset, meta_data. The others tell of page indexes, which are not copied."""

NAME, CHUNK_BYTES, CHUNK_COMPRESSED, DATA_PAGE, DICTIONARY_PAGE = 3, 6, 7, 9, 11
"""Fields of ColumnMetaData: path_in_schema, total_uncompressed_size, total_compressed_size, *_page_offset."""


@dataclass(frozen=True)
class Repeated:
    """Members that follow one another, all with the same rows but for their own columns.

    members  how many
    rows     the rows of one member: the columns that all have in common, in the types of the table
    own      from a member and the one after the last to the own columns of the rows of those between
    """

    members: int
    rows: pl.DataFrame
    own: Callable[[int, int], pl.DataFrame]

    def frame(self, first: int, last: int) -> pl.DataFrame:
        """Return all columns of the rows of a member and those that follow it before the last."""
        return pl.concat([self.rows] * (last - first)).hstack(self.own(first, last))


@dataclass(frozen=True)
class _Column:
    """An encoded column of a row group: its bytes, where they began, and its ColumnMetaData."""

    raw: bytes
    began: int
    told: Struct

    def at(self, offset: int) -> Struct:
        """Return the ColumnChunk of the same bytes at another place of a file."""
        moved = {
            field: (I64, self.told[field][1] - self.began + offset)
            for field in (DATA_PAGE, DICTIONARY_PAGE)
            if field in self.told
        }
        return {CHUNK_OFFSET: (I64, offset), CHUNK: (STRUCT, self.told | moved)}


def write_repeated(
    parts: Iterable[Repeated], path: Path, table: str, facts: Mapping[str, str], made_from: str = ""
) -> None:
    """Write the declared table that the parts make one after the other, equal to what `write_table` writes.

    A row group holds whole members of one part: as many as have about BLOCK_ROWS rows together, or one.
    """
    encoder = _Encoder()
    with whole(path, made_from) as partial, partial.open("wb") as file:
        file.write(MAGIC)
        blocks = (block for part in parts for block in encoder.blocks(part))
        groups = [_written(file, block, list(dtypes(table))) for block in blocks]
        footer, _ = _encoded(pl.DataFrame(schema=dtypes(table)), metadata=metadata(table, facts))
        footer[FILE_ROWS] = (I64, sum(group[ROWS][1] for group in groups))
        numbered = [group | {ORDINAL: (I16, number)} for number, group in enumerate(groups)]
        footer[ROW_GROUPS] = (LIST, (STRUCT, numbered))
        raw = encoded(footer)
        file.write(raw + struct.pack("<I", len(raw)) + MAGIC)


class _Encoder:
    """Encodes the row groups of one file; a column that it has met already is not encoded again."""

    def __init__(self) -> None:
        self._met: dict[tuple[str, int, bytes], _Column] = {}

    def blocks(self, part: Repeated) -> Iterator[dict[str, _Column]]:
        """Yield the columns of each row group of a part."""
        many = _members_of_a_block(part)
        for first in range(0, part.members, many):
            last = min(first + many, part.members)
            yield self._common(part.rows, last - first) | _columns(part.own(first, last))

    def _common(self, rows: pl.DataFrame, members: int) -> dict[str, _Column]:
        """Return the columns of the rows, repeated for so many members."""
        numbers = rows.select(pl.all().to_physical().cast(pl.Int64).fill_null(-1))
        keys = {each.name: (each.name, members, each.to_numpy().tobytes()) for each in numbers}
        new = [name for name, key in keys.items() if key not in self._met]
        if new:
            found = _columns(pl.concat([rows.select(new)] * members))
            self._met |= {keys[name]: found[name] for name in new}
        return {name: self._met[key] for name, key in keys.items()}


def _members_of_a_block(part: Repeated) -> int:
    """Return how many members a row group takes; all the same number, where they can be divided so."""
    blocks = max(1, round(part.members * part.rows.height / BLOCK_ROWS))
    even = next((n for n in range(blocks, 2 * blocks) if part.members % n == 0), blocks)
    return max(1, -(-part.members // even))


def _columns(frame: pl.DataFrame) -> dict[str, _Column]:
    """Encode a frame as one row group; return its columns by name."""
    footer, raw = _encoded(frame)
    (group,) = footer[ROW_GROUPS][1][1]
    columns = {}
    for chunk in group[COLUMNS][1][1]:
        told = chunk[CHUNK][1]
        began = told.get(DICTIONARY_PAGE, told[DATA_PAGE])[1]
        name = told[NAME][1][1][0].decode()
        columns[name] = _Column(raw[began : began + told[CHUNK_COMPRESSED][1]], began, told)
    return columns


def _encoded(frame: pl.DataFrame, **options: Any) -> tuple[Struct, bytes]:
    """Return the footer and the bytes of a frame as polars writes them, in one row group."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, **COMPRESSION, row_group_size=max(1, frame.height), **options)
    raw = buffer.getvalue()
    (length,) = struct.unpack("<I", raw[-8:-4])
    return decoded(raw[-8 - length : -8]), raw


def _written(file: BinaryIO, columns: Mapping[str, _Column], names: Iterable[str]) -> Struct:
    """Write the columns of a row group in the order of names; return its RowGroup."""
    began = file.tell()
    chunks = []
    for name in names:
        chunks.append(columns[name].at(file.tell()))
        file.write(columns[name].raw)
    told = [columns[name].told for name in columns]
    return {
        COLUMNS: (LIST, (STRUCT, chunks)),
        BYTES: (I64, sum(each[CHUNK_BYTES][1] for each in told)),
        ROWS: (I64, told[0][5][1]),
        OFFSET: (I64, began),
        COMPRESSED: (I64, file.tell() - began),
    }
