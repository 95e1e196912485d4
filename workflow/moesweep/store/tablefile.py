"""Parquet tables with a declared dictionary, written whole or not at all.

`schemas/tables/<table>.json` declares each table's columns: type, unit, meaning, allowed words; words that
several tables share stand in `schemas/words.json`, once and in one order.
Every file carries that dictionary, its schema version and the version of the code in its metadata.
"""

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from moesweep import __version__
from moesweep.edge.natives import kept_back
from moesweep.edge.paths import SHIPPED, inside
from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.store.checksums import is_damaged, record
from moesweep.store.layout import maker
from moesweep.store.values import check_rows, check_values

TABLES = SHIPPED / "schemas" / "tables"
WORDS = SHIPPED / "schemas" / "words.json"
ROW_GROUP_ROWS = 1 << 19
COMPRESSION: dict[str, Any] = {"compression": "zstd", "compression_level": 3}
MAX_CELLS = 1 << 28
"""Most values of a table that is read as a whole: 2 GiB of numbers."""

MAX_COLUMNS = 1000

READ_AS_TEXT = ("op",)
"""Words that readers take apart: recompute_fc1 repeats fc1."""

FOLDER = "workload="
"""How the folder of a workload's file starts; its id follows."""

SAFE_ID = r"^[A-Za-z0-9][A-Za-z0-9_.+~-]*$"
"""The form of workload ids; no path made from one can leave its folder."""

_TYPES: dict[str, Any] = {
    "Int64": pl.Int64,
    "Float64": pl.Float64,
    "String": pl.String,
    "Boolean": pl.Boolean,
}


@cache
def dictionary(table: str) -> dict[str, Any]:
    """Return the declaration of a table: `table version description sorted_by columns`."""
    declared: dict[str, Any] = json.loads((TABLES / f"{table}.json").read_text(encoding="utf-8"))
    for column in declared["columns"]:
        if "words" in column:
            column["values"] = words()[column.pop("words")]
    return declared


@cache
def words() -> dict[str, list[str]]:
    """Return the words that several tables have in common, by what they are words for."""
    shared: dict[str, list[str]] = json.loads(WORDS.read_text(encoding="utf-8"))
    return shared


@cache
def dtypes(table: str) -> dict[str, pl.DataType]:
    """Return the polars type of each column of a table, in order."""
    return {
        column["name"]: pl.Enum(column["values"]) if column["type"] == "Enum" else _TYPES[column["type"]]()
        for column in dictionary(table)["columns"]
    }


def as_read(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """Return the frame with exactly the table's columns, as `read_table` returns them."""
    return frame.select(pl.col(name).cast(dtype) for name, dtype in read_types(table).items())


def read_types(table: str) -> dict[str, pl.DataType]:
    """Return the polars type that each column of a table has when it is read back, in order."""
    return {name: pl.String() if name in READ_AS_TEXT else dtype for name, dtype in dtypes(table).items()}


def conform(frame: pl.LazyFrame, table: str) -> pl.LazyFrame:
    """Return the frame with exactly the table's columns, in order and cast to their declared types."""
    return frame.select(pl.col(name).cast(dtype) for name, dtype in dtypes(table).items())


def metadata(table: str, facts: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a file's key-value metadata: its table's dictionary, versions, and `facts` about this file."""
    return _of_table(table) | {f"moesweep.{key}": value for key, value in (facts or {}).items()}


@cache
def _of_table(table: str) -> dict[str, str]:
    declared = dictionary(table)
    return {
        "moesweep.table": table,
        "moesweep.schema_version": str(declared["version"]),
        "moesweep.version": __version__,
        "moesweep.columns": json.dumps(declared["columns"], ensure_ascii=False),
    }


@contextmanager
def whole(path: Path, made_from: str = "") -> Iterator[Path]:
    """Yield a temporary name beside `path`, renamed to it if the block succeeds and removed if it fails.

    `made_from` is the digest that a part's record tells (moesweep.store.parts).
    Raises BadInput if a symbolic link would put a file of the project outside of it.
    """
    inside(Path(), path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        record(path, partial, made_from)
        partial.replace(path)
    except pl.exceptions.ComputeError as error:
        number = _system_error(error, partial)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def _system_error(error: pl.exceptions.ComputeError, partial: Path) -> int | None:
    """Return the number of the system's error that polars met as it wrote, None if it met none.

    Where a page's header could not be written, polars says "transport error" and loses the number, so one
    more write to the same place asks for it; if room was made meanwhile, all that is known is that it failed.
    """
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is not None:
        return int(number[1])
    if "transport error" not in str(error):
        return None
    try:
        with partial.open("ab") as file:
            file.write(bytes(1 << 20))
    except OSError as refused:
        return refused.errno
    return errno.EIO


def write_table(
    frame: pl.DataFrame | pl.LazyFrame,
    path: Path,
    table: str,
    facts: Mapping[str, str] | None = None,
    made_from: str = "",
) -> None:
    """Write a frame as the declared table: streamed, zstd 3, row groups of 2^19 rows, with statistics.

    `made_from` is the digest that a part's record tells. Raises BadInput if the frame holds what the table
    may not; a lazy frame is made from what has been judged.
    """
    if isinstance(frame, pl.DataFrame):
        check_rows(frame, dictionary(table), str(path))
    with whole(path, made_from) as partial:
        conform(frame.lazy(), table).sink_parquet(
            partial,
            **COMPRESSION,
            row_group_size=ROW_GROUP_ROWS,
            metadata=metadata(table, facts),
        )


def read_table(path: Path, table: str) -> pl.DataFrame:
    """Read one table file back; raise BadInput if it is missing, damaged, too large or of another version.

    What the file says of itself, also of which workload it is, is checked before any of its rows is read, and
    after that its values: workload ids too, because paths are made from them.
    """
    frame = unjudged(path, table)
    if "workload" in frame.columns:
        unsafe = frame.filter(~pl.col("workload").str.contains(SAFE_ID))["workload"]
        if unsafe.len():
            message = f"{shown(unsafe[0])} is not a workload id"
            raise BadInput([Problem(str(path), "", "workload_id", shown(unsafe[0]), message)])
    check_rows(frame, dictionary(table), str(path))
    return frame


def unjudged(path: Path, table: str) -> pl.DataFrame:
    """Read one table file back as `read_table` does, but for judging its values."""
    with readable(path):
        _check_whole(path)
        _check_version(path, table)
        check_workload(path)
        _check_size(path, table)
        frame = pl.read_parquet(path, columns=list(read_types(table)), hive_partitioning=False, glob=False)
        return as_read(frame, table)


def scan_table(path: Path, table: str) -> pl.LazyFrame:
    """Return the rows of a table file that is too large to be read as a whole; raise BadInput as for one.

    `collected` judges the values of those that are taken.
    """
    with readable(path):
        _check_whole(path)
        _check_version(path, table)
        check_workload(path)
        return pl.scan_parquet(path, hive_partitioning=False, glob=False)


def collected(rows: pl.LazyFrame, path: Path, table: str) -> pl.DataFrame:
    """Return rows of a scanned table file; raise BadInput if they cannot be read or hold what none may."""
    with readable(path):
        frame = rows.collect()
    check_values(frame, dictionary(table), str(path))
    return frame


def facts_of(path: Path) -> dict[str, str]:
    """Return what a table file says of itself; raise BadInput if it cannot be read."""
    with readable(path):
        return pl.read_parquet_metadata(path)


def read_costed(workloads_file: Path, costs_file: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the catalogue and its costs; raise BadInput unless both are of the same workloads."""
    workloads = read_table(workloads_file, "workloads")
    return workloads, read_of_all(costs_file, "costs", workloads["workload"])


def read_of_all(path: Path, table: str, listed: pl.Series) -> pl.DataFrame:
    """Return a table of all workloads; raise BadInput unless it is of those that the catalogue lists."""
    frame = read_table(path, table)
    own, where = frame["workload"].unique(maintain_order=True), "workloads.parquet"
    strange = own.filter(~own.is_in(listed.implode()))
    absent = listed.filter(~listed.is_in(own.implode()))
    odd = {"costs a workload that is not in": strange, "has no costs of a workload of": absent}
    problems = [
        Problem(str(path), "", "workload", ids[0], f"{words} {where}: {ids[0]}", "run make sweep")
        for words, ids in odd.items()
        if ids.len()
    ]
    if problems:
        raise BadInput(problems)
    return frame


def check_workload(path: Path) -> None:
    """Raise BadInput if a file in the folder of one workload says that it is of another one.

    A file that does not say whose it is passes: older releases did not write it everywhere.
    """
    if not path.parent.name.startswith(FOLDER):
        return
    wanted, named = path.parent.name.removeprefix(FOLDER), _workload(pl.read_parquet_metadata(path))
    if named not in (wanted, None):
        message = f"is of another workload: {shown(named)}"
        advice = "remove it and run make sweep"
        raise BadInput([Problem(str(path), "", "workload", shown(named), message, advice)])


def _workload(found: Mapping[str, str]) -> str | None:
    """Return the id of the workload that a file's metadata name: traces describe it whole, as JSON."""
    text = found.get("moesweep.workload")
    if text is None or not text.startswith("{"):
        return text
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return str(described.get("workload"))


def _check_whole(path: Path) -> None:
    if is_damaged(path):
        message = "is not what was written: its checksum differs"
        advice = "moesweep clean --damaged removes it, and the next run makes it again; make sweep does both"
        raise BadInput([Problem(str(path), "", "checksum", "", message, advice)])


def declaration(path: Path) -> str:
    """Return the name of the declaration that a table file follows; raise BadInput as `read_table` would."""
    with readable(path):
        check_workload(path)
        return pl.read_parquet_metadata(path).get("moesweep.table", "")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise BadInput where the block finds that the file cannot be read; a pipe is not waited for."""
    if path.exists() and not path.is_file():
        raise BadInput([Problem(str(path), "", "readable", "", "cannot be read: not a regular file")])
    try:
        with kept_back():
            yield
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        panicked = isinstance(error, pl.exceptions.PanicException)
        reason = "its content contradicts itself" if panicked else str(error).partition("\n")[0]
        advice = "" if path.exists() else maker(path)
        problem = Problem(str(path), "", "readable", "", f"cannot be read as Parquet: {reason}", advice)
        raise BadInput([problem]) from error


def _check_version(path: Path, table: str) -> None:
    found = pl.read_parquet_metadata(path)
    version, wanted = found.get("moesweep.schema_version", "none"), str(dictionary(table)["version"])
    if found.get("moesweep.table") != table or version != wanted:
        message = (
            f"holds {found.get('moesweep.table')} version {version} where {table} version {wanted} is needed"
        )
        raise BadInput(
            [Problem(str(path), "", "schema_version", version, message, "run make sweep to rebuild it")]
        )


def _check_size(path: Path, table: str) -> None:
    scan = pl.scan_parquet(path, hive_partitioning=False, glob=False)
    rows, columns = scan.select(pl.len()).collect().item(), scan.collect_schema().len()
    if rows * columns > MAX_CELLS or columns > MAX_COLUMNS:
        message = f"{rows} rows of {columns} columns are more than a table may hold"
        raise BadInput([Problem(str(path), "", "table_size", str(rows * columns), message)])
    if table == "workloads" and not rows:
        raise BadInput([Problem(str(path), "", "table_size", "0", "holds no workload", "run make sweep")])
