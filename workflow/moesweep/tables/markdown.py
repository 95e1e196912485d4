"""Tables as Markdown for people: units in the headers, rounded numbers, what never varies said once."""

from typing import Any

import polars as pl

from moesweep.tablefile import dictionary

MOST_ROWS = 1000
SHOWN_ROWS = 100
"""A table of more than MOST_ROWS rows shows its first and last SHOWN_ROWS / 2."""

_BINARY = (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("B", 1.0))
_SECONDS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
_DECIMAL = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
_PREFIXED = ("byte", "s", "flop", "flop/s")
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
    headers, cells = zip(*(_cells(shown, column) for column in columns), strict=True)
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


def _cells(frame: pl.DataFrame, column: dict[str, Any]) -> tuple[str, list[str]]:
    """Return a column's header and its cells as text."""
    name, unit = column["name"], column.get("unit", "")
    values = frame[name].to_list()
    if not _is_number(column):
        return name, [text(value) for value in values]
    if column["type"] == "Int64" and not unit:
        return name, ["" if value is None else str(value) for value in values]
    scale = _common_scale(values, unit)
    if scale is None:
        return name, ["" if value is None else quantity(value, unit) for value in values]
    label, factor = scale
    header = f"{name} [{label}]" if label else name
    return header, ["" if value is None else rounded(value / factor) for value in values]


def text(value: object) -> str:
    """Return a word or truth value as a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("|", "\\|")


def _common_scale(values: list[Any], unit: str) -> tuple[str, float] | None:
    """Return the prefixed unit that suits all of a column's values, or None if they differ too widely."""
    sizes = [abs(value) for value in values if value]
    if not sizes or unit not in _PREFIXED:
        return unit, 1.0
    if max(sizes) > _SPREAD * min(sizes):
        return None
    return _scale(sorted(sizes)[len(sizes) // 2], unit)


def _scale(size: float, unit: str) -> tuple[str, float]:
    scales = _BINARY if unit == "byte" else _SECONDS if unit == "s" else _DECIMAL
    label, factor = next(((label, factor) for label, factor in scales if size >= factor), scales[-1])
    return (label if unit in ("byte", "s") else f"{label}{unit}"), factor


def quantity(value: float, unit: str, digits: int = 4) -> str:
    """Return a value with a fitting prefix: `5 MiB`, `437 µs`, `1.23 Tflop`."""
    if not value:
        return "0"
    if unit not in _PREFIXED:
        return f"{value if isinstance(value, int) else rounded(value)} {unit}".rstrip()
    label, factor = _scale(abs(value), unit)
    return f"{rounded(value / factor, digits)} {label}".rstrip()


def rounded(value: float, digits: int = 4) -> str:
    """Return a value to some significant digits, but whole above 1000, with thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{float(f'{value:.{digits}g}'):.12g}"
