"""Tables as Markdown for people: units in the headers, rounded numbers, what never varies said once."""

from typing import Any

import polars as pl

from moesweep.store.tablefile import dictionary
from moesweep.tables.numbers import PREFIXED, prefix, quantity, rounded, text

Scales = dict[str, tuple[str, float]]
"""Unit to the prefixed unit that a table shows it in, and how much of the unit that is."""

MOST_ROWS = 1000
SHOWN_ROWS = 100
"""A table of more than MOST_ROWS rows shows its first and last SHOWN_ROWS / 2."""

_SPREAD = 1e4
"""Where values of a column differ by more than this factor, each carries its own prefix."""


def markdown(frame: pl.DataFrame, table: str) -> str:
    """Return the table with its title, what its rows have in common, its rows, and how many it leaves out."""
    declared = dictionary(table)
    columns = [column for column in declared["columns"] if column.get("markdown", True)]
    common = [column for column in columns if _never_varies(frame, column["name"])]
    varying = [column for column in columns if column not in common]
    lines = [f"# {table}", "", declared["description"], ""]
    if frame.is_empty():
        return "\n".join([*lines, "No rows: this sweep has nothing to show here.", ""])
    if common:
        lines += [f"The same in every row: {', '.join(_said_once(frame, each) for each in common)}.", ""]
    lines += _rows(frame, varying)
    lines += [f"{frame.height} rows.", ""] if frame.height <= MOST_ROWS else _omission(frame, table)
    return "\n".join([*lines, *_legend(columns), *_left_out(declared, table), ""])


def _never_varies(frame: pl.DataFrame, name: str) -> bool:
    return frame.height > 1 and frame[name].n_unique() == 1


def _said_once(frame: pl.DataFrame, column: dict[str, Any]) -> str:
    value, unit = frame[column["name"]][0], column.get("unit", "")
    said = text(value) if not _is_number(column) or value is None else quantity(value, unit)
    return f"{column['name']} {said or 'none'}"


def _rows(frame: pl.DataFrame, columns: list[dict[str, Any]]) -> list[str]:
    half = SHOWN_ROWS // 2
    shown = frame if frame.height <= MOST_ROWS else pl.concat([frame.head(half), frame.tail(half)])
    scales = _scales(shown, columns)
    headers, cells = zip(*(_cells(shown[column["name"]], column, scales) for column in columns), strict=True)
    rules = ["---:" if _is_number(column) else "---" for column in columns]
    body = [_row(row) for row in zip(*cells, strict=True)]
    if shown.height < frame.height:
        body.insert(half, _row(["…"] * len(columns)))
    return [_row(headers), _row(rules), *body, ""]


def _omission(frame: pl.DataFrame, table: str) -> list[str]:
    omitted = frame.height - SHOWN_ROWS
    return [f"{frame.height} rows, {omitted} of them left out here: see {table}.csv or {table}.parquet.", ""]


def _legend(columns: list[dict[str, Any]]) -> list[str]:
    return [f"- `{column['name']}`: {column['description']}" for column in columns]


def _left_out(declared: dict[str, Any], table: str) -> list[str]:
    names = [column["name"] for column in declared["columns"] if not column.get("markdown", True)]
    listed = ", ".join(f"`{name}`" for name in names)
    return ["", f"Further columns in {table}.csv and {table}.parquet: {listed}."] if names else []


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _is_number(column: dict[str, Any]) -> bool:
    return column["type"] in ("Int64", "Float64")


def _scales(frame: pl.DataFrame, columns: list[dict[str, Any]]) -> Scales:
    """Return one scale a unit, so that columns compare: that of the middle column's middle value."""
    middles: dict[str, list[float]] = {}
    for column in columns:
        sizes = _sizes(frame[column["name"]]) if column.get("unit") in PREFIXED else []
        if sizes and not _spread_out(sizes):
            middles.setdefault(column["unit"], []).append(sizes[len(sizes) // 2])
    return {unit: prefix(sorted(sizes)[(len(sizes) - 1) // 2], unit) for unit, sizes in middles.items()}


def _sizes(values: pl.Series) -> list[float]:
    return sorted(abs(value) for value in values if value)


def _spread_out(sizes: list[float]) -> bool:
    return sizes[-1] > _SPREAD * sizes[0]


def _cells(values: pl.Series, column: dict[str, Any], scales: Scales) -> tuple[str, list[str]]:
    """Return a column's header and its cells as text."""
    name, unit = column["name"], column.get("unit", "")
    if not _is_number(column) or (column["type"] == "Int64" and not unit):
        return name, [text(value) for value in values]
    sizes = _sizes(values)
    if unit in PREFIXED and (not sizes or _spread_out(sizes)):
        return name, ["" if value is None else quantity(value, unit) for value in values]
    label, factor = scales.get(unit, (unit, 1.0))
    header = f"{name} [{label}]" if label else name
    return header, ["" if value is None else rounded(value / factor) for value in values]
