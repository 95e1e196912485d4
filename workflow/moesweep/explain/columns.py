"""A table of an explanation: its rows, and for each column the expression behind it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import polars as pl

from moesweep.explain.node import Node, Reading
from moesweep.explain.reader import Parsed, read


@dataclass(frozen=True)
class Definition:
    """An expression over rows of a table: those that share `key` with the row that it is for."""

    expression: pl.Expr
    table: "Table"
    key: tuple[str, ...] = ()
    among: pl.Expr | None = None

    def rows(self, row: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that the expression is evaluated on."""
        rows = self.table.frame
        for name in self.key:
            rows = rows.filter(pl.col(name).eq_missing(pl.lit(row[name][0], dtype=row.schema[name])))
        return rows if self.among is None else rows.filter(self.among)


@dataclass(frozen=True)
class Table:
    """A frame, how its rows are called, and what defines its columns.

    of_a_row   columns that follow from others of the same row
    of_rows    columns that follow from rows of other tables
    other      what defines any other column, on a row
    """

    name: str
    frame: pl.DataFrame
    label: Callable[[pl.DataFrame], str]
    of_a_row: Mapping[str, pl.Expr]
    of_rows: Mapping[str, Definition]
    other: Callable[[pl.DataFrame, str], Definition | Node]
    _nodes: dict[tuple[str, str], Node] = field(default_factory=dict, repr=False)

    @cached_property
    def _parsed(self) -> dict[str, Parsed]:
        return {name: Parsed(expression) for name, expression in self.of_a_row.items()}

    def column(self, row: pl.DataFrame, name: str) -> Node:
        """Return the node of a column on a row, the same one however often it is asked for."""
        key = self.label(row), name
        if key not in self._nodes:
            self._nodes[key] = self._column(row, name)
        return self._nodes[key]

    def _column(self, row: pl.DataFrame, name: str) -> Node:
        if name in self.of_a_row:
            return self._node(row, name, partial(read, self._parsed[name], row, self))
        definition = self.of_rows[name] if name in self.of_rows else self.other(row, name)
        if isinstance(definition, Node):
            return definition
        return self._node(row, name, lambda: self._read(definition, row))

    @staticmethod
    def _read(definition: Definition, row: pl.DataFrame) -> Reading:
        return read(Parsed(definition.expression), definition.rows(row), definition.table)

    def _node(self, row: pl.DataFrame, name: str, reading: Callable[[], Reading]) -> Node:
        where = self.label(row)
        return Node(f"{self.name} {where} {name}", name, row[name][0], where, None, reading)


def over(
    table: Table, key: tuple[str, ...], expressions: Mapping[str, pl.Expr], among: pl.Expr | None = None
) -> dict[str, Definition]:
    """Return the definitions of several columns over the same rows."""
    return {name: Definition(expression, table, key, among) for name, expression in expressions.items()}
