"""Words, numbers and boxes of the summary."""

import textwrap
from collections.abc import Mapping, Sequence

import polars as pl

from moesweep.tables.numbers import quantity, rounded, text

WIDTH = 80
RULER = "=" * WIDTH

Tables = Mapping[str, pl.DataFrame]
"""The tables by name."""

NO_MOE = "This sweep has no MoE workload: there is nothing to say here."

moe_rows = pl.col("kind") == "moe"


def bullet(text: str, mark: str = "-", indent: int = 2) -> list[str]:
    """Return a wrapped bullet point."""
    first = " " * indent + mark + " "
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    )


def paragraph(text: str) -> list[str]:
    """Return wrapped lines."""
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def refused(workload: str, tables: Tables) -> list[str]:
    """Return a line that says so if Megatron would refuse the workload of an example."""
    if workload not in tables["megatron_refusals"]["workload"]:
        return []
    return ["Megatron would refuse this layout: see WHAT MEGATRON WOULD REFUSE."]


def count(number: int, thing: str) -> str:
    """Return `1 workload`, `2 workloads`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def spread(values: pl.Series, unit: str = "", to: str = " to ") -> str:
    """Return `low to high`, or the one value there is, each with a fitting prefix."""
    low, high = (_shown(value, unit) for value in (values.min(), values.max()))
    return low if low == high else f"{low}{to}{high}"


def _shown(value: object, unit: str) -> str:
    if not isinstance(value, int | float):
        return "none"
    return quantity(value, unit) if unit in ("byte", "s", "flop") else rounded(value)


def times(values: pl.Series) -> str:
    """Return ratios as `×1.07 to ×1.25`."""
    low, high = (f"×{value:.3g}" for value in (values.min(), values.max()) if isinstance(value, float))
    return low if low == high else f"{low} to {high}"


def distinct(frame: pl.DataFrame, column: str) -> str:
    """Return the values of a column, few of them."""
    return ", ".join(text(value) for value in frame[column].unique().sort())


def box(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table drawn with lines, its cells centred."""
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(len(cell) for cell in column) + 2 for column in columns]

    def line(cells: Sequence[str]) -> str:
        return "│" + "│".join(cell.center(width) for cell, width in zip(cells, widths, strict=True)) + "│"

    def rule(left: str, middle: str, right: str) -> str:
        return left + middle.join("─" * width for width in widths) + right

    body = [line(row) for row in rows]
    return [rule("┌", "┬", "┐"), line(headers), rule("├", "┼", "┤"), *body, rule("└", "┴", "┘")]


def columns(headers: Sequence[str], rows: Sequence[Sequence[str]], indent: int = 2) -> list[str]:
    """Return a plain table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    return [
        " " * indent
        + "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in (headers, *rows)
    ]
