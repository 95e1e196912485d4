"""What values a declared table may hold: nothing without sense is written, and nothing without sense is read.

A column's declaration says all: only what is `nullable` may be missing; a number is finite, at least its
`least` (0 unless it says otherwise, null where any number has a meaning), at most its `most` and above its
`above`, if it has them; a text that is read as a list or a number has its `pattern`. Rows with the same
values of a table's `key` are one row twice.
"""

import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import polars as pl

from moesweep.edge.problems import BadInput, Problem, shown

MOST = (1 << 63) - 1
"""The greatest whole number of a table; frames may hold greater ones, in 128 bits."""

SHOWN_FAULTS = 20
"""How many faults of one table are told."""

Declaration = Mapping[str, Any]


def check_values(frame: pl.DataFrame, declared: Declaration, file: str) -> None:
    """Raise BadInput if a frame holds values that its table may not hold.

    declared   the table's declaration (moesweep.store.tablefile.dictionary); the frame may lack columns of
               it, and have others
    file       what the problems name
    """
    columns = [column for column in declared["columns"] if column["name"] in frame.columns]
    faults = {column["name"]: _fault(column) for column in columns}
    found = frame.select(fault.any().alias(name) for name, fault in faults.items())
    problems = [
        _problem(frame.filter(faults[column["name"]]), column, file)
        for column in columns
        if found[column["name"]].item()
    ]
    if problems:
        raise BadInput(problems[:SHOWN_FAULTS])


def check_rows(frame: pl.DataFrame, declared: Declaration, file: str) -> None:
    """Raise BadInput as `check_values` does, and if two rows are one and the same by the table's `key`."""
    check_values(frame, declared, file)
    if problems := _doubled(frame, declared.get("key", []), file):
        raise BadInput(problems)


def _fault(column: Declaration) -> pl.Expr:
    """Return whether a value of a column is a fault, never null."""
    limits = tuple((words, limit) for words, limit in _limits(column))
    pattern = column.get("pattern")
    return _fault_of(column["name"], column["type"], bool(column.get("nullable")), limits, pattern)


@cache
def _fault_of(
    name: str, type_: str, nullable: bool, limits: tuple[tuple[str, float], ...], pattern: str | None
) -> pl.Expr:
    value = pl.col(name)
    faults = [pl.lit(False) if nullable else value.is_null()]
    if type_ == "Float64":
        faults.append(~value.is_finite())
    if type_ == "Int64":
        faults.append(value > MOST)
    if type_ in ("Int64", "Float64"):
        faults += [OUTSIDE[words](value, limit) for words, limit in limits]
    if pattern is not None:
        faults.append(~value.cast(pl.String).str.contains(pattern))
    return pl.any_horizontal(fault.fill_null(False) for fault in faults)


OUTSIDE: dict[str, Callable[[Any, Any], Any]] = {
    "above": operator.le,
    "at least": operator.lt,
    "at most": operator.gt,
}
"""What says of a value whether it is outside a limit."""


def _limits(column: Declaration) -> list[tuple[str, float]]:
    """Return a number's limits: in words, and as a number."""
    limits: tuple[tuple[str, Any], ...] = (
        ("above", column.get("above")),
        ("at least", None if "above" in column else column.get("least", 0)),
        ("at most", column.get("most")),
    )
    return [limit for limit in limits if limit[1] is not None]


def _problem(faulty: pl.DataFrame, column: Declaration, file: str) -> Problem:
    name, value = column["name"], faulty[column["name"]][0]
    id_ = str(faulty["workload"][0]) if "workload" in faulty.columns else ""
    place = f"{name} of {id_}" if id_ and name != "workload" else name
    many = f" (in {faulty.height} rows)" if faulty.height > 1 else ""
    return Problem(file, place, "value", shown(value), f"{shown(value)} is not {_needed(column)}{many}")


def _needed(column: Declaration) -> str:
    if column["type"] not in ("Int64", "Float64"):
        return f"a text such as {column['pattern']}" if "pattern" in column else "a value of the column"
    kind = "a whole number of 64 bits" if column["type"] == "Int64" else "a finite number"
    return ", ".join([kind, *(f"{words} {limit}" for words, limit in _limits(column))])


def _doubled(frame: pl.DataFrame, key: list[str], file: str) -> list[Problem]:
    if not key or not set(key) <= set(frame.columns):
        return []
    twice = frame.filter(frame.select(pl.struct(key).is_duplicated()).to_series())
    if twice.is_empty():
        return []
    named = ", ".join(f"{name} {shown(twice[name][0])}" for name in key)
    return [Problem(file, "", "key", named, f"holds more than one row of {named}")]
