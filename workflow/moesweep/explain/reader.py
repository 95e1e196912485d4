"""Read a polars expression of the cost model as a formula on one row.

The expression's own tree says what is computed, and polars computes every named term and every
condition, so a formula cannot say anything else than the cost does. Of alternatives only the one
taken is kept. Aliases inside an expression name its terms and become nodes of their own.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import polars as pl

from moesweep.explain.conditions import arguments, because, inputs
from moesweep.explain.formula import Call, Constant, Formula, Reference, Value, added, divided, multiplied
from moesweep.explain.node import Node, Reading

_INFIX = {"Eq": "=", "NotEq": "≠", "Gt": ">", "GtEq": "≥", "Lt": "<", "LtEq": "≤", "Modulus": "mod"}
_HORIZONTAL = {"MaxHorizontal": "max", "MinHorizontal": "min"}
_FUNCTIONS = {
    "Log": "log",
    "Ceil": "ceil",
    "Floor": "floor",
    "Negate": "negative",
    "Exp": "exp",
}


class Place(Protocol):
    """The table whose rows an expression is read on."""

    @property
    def name(self) -> str:
        """What tells the table's numbers from those of others with the same rows."""

    @property
    def label(self) -> Callable[[pl.DataFrame], str]:
        """How a row is called."""

    def column(self, row: pl.DataFrame, name: str) -> Node:
        """Return the node of a column on a row."""


class UnreadableExpression(Exception):
    """An expression uses an operation that no formula has yet."""


@dataclass(frozen=True)
class Parsed:
    """An expression with its tree: to parse the larger ones takes as long as to read them."""

    expression: pl.Expr

    @cached_property
    def tree(self) -> Any:
        """Polars' own tree of the expression."""
        return json.loads(self.expression.meta.serialize(format="json"))


def read(parsed: Parsed, rows: pl.DataFrame, place: Place) -> Reading:
    """Return an expression's formula on one row, or on the rows that it aggregates."""
    return _Reader(place).read(parsed.tree, parsed.expression, rows)


class _Reader:
    def __init__(self, place: Place) -> None:
        self.place = place
        self.conditions: dict[str, None] = {}

    def read(self, tree: Any, expression: pl.Expr, rows: pl.DataFrame) -> Reading:
        """Return the formula of an expression, and the conditions that held on the way."""
        formula = self.walk(tree, expression, rows, outermost=True)
        return Reading(formula, tuple(self.conditions))

    def walk(self, tree: Any, expression: pl.Expr, rows: pl.DataFrame, outermost: bool = False) -> Formula:
        """Return the formula of a node; raise UnreadableExpression for a kind that is not known."""
        (kind, body), *_ = tree.items() if isinstance(tree, dict) else [(tree, None)]
        step: Callable[..., Formula] | None = getattr(self, f"_{kind.lower()}", None)
        if step is None:
            raise UnreadableExpression(f"{kind} in {expression}")
        if kind in ("Alias", "Agg", "Gather"):
            return step(tree, expression, rows, outermost)
        return step(body, expression, rows)

    def _column(self, name: str, _: pl.Expr, rows: pl.DataFrame) -> Formula:
        node = self.place.column(rows[:1], name)
        return Constant(node.value) if isinstance(node.value, str) else Reference(node)

    def _literal(self, _: Any, expression: pl.Expr, rows: pl.DataFrame) -> Formula:
        return Constant(pl.select(expression).item())

    def _cast(self, body: Any, expression: pl.Expr, rows: pl.DataFrame) -> Formula:
        return self.walk(body["expr"], expression.meta.pop()[0], rows)

    def _alias(self, tree: Any, expression: pl.Expr, rows: pl.DataFrame, outermost: bool) -> Formula:
        inner_tree, name = tree["Alias"]
        inner = expression.meta.pop()[0]
        if outermost:
            return self.walk(inner_tree, inner, rows, outermost=True)
        return Reference(self._term(name, inner_tree, inner, rows))

    def _term(self, name: str, tree: Any, expression: pl.Expr, rows: pl.DataFrame) -> Node:
        where = self.place.label(rows) if rows.height == 1 else ""
        return Node(
            key=f"{self.place.name} {where} {name}: {json.dumps(tree)}",
            name=name,
            value=evaluated(expression, rows),
            where=where,
            read=lambda: _Reader(self.place).read(tree, expression, rows),
        )

    def _binaryexpr(self, body: Any, expression: pl.Expr, rows: pl.DataFrame) -> Formula:
        operation = body["op"]
        parts = arguments({"BinaryExpr": body}, expression)
        if operation in ("And", "Or", "LogicalAnd", "LogicalOr"):
            return self._condition({"BinaryExpr": body}, expression, rows)
        if operation == "Multiply":
            left, right = (self._factor(*part, rows) for part in parts)
            return multiplied(left, right)
        left, right = (self.walk(*part, rows) for part in parts)
        if operation == "Plus":
            return added([left, right])
        if operation == "Minus":
            return Call("-", (left, right))
        if operation in ("TrueDivide", "Divide", "FloorDivide"):
            return divided(left, right, "//" if operation == "FloorDivide" else "/")
        return Call(_INFIX[operation], (left, right))

    def _factor(self, tree: Any, expression: pl.Expr, rows: pl.DataFrame) -> Formula:
        if is_condition(tree, rows):
            return self._condition(tree, expression, rows)
        return self.walk(tree, expression, rows)

    def _condition(self, tree: Any, expression: pl.Expr, rows: pl.DataFrame) -> Formula:
        holds = bool(evaluated(expression, rows))
        self._note(because(tree, expression, rows, holds))
        return Constant(int(holds))

    def _note(self, reasons: list[str]) -> None:
        self.conditions.update(dict.fromkeys(reasons))

    def _ternary(self, body: Any, expression: pl.Expr, rows: pl.DataFrame) -> Formula:
        truthy, falsy, predicate = reversed(expression.meta.pop())
        holds = bool(evaluated(predicate, rows))
        self._note(because(body["predicate"], predicate, rows, holds))
        return self.walk(body["truthy"], truthy, rows) if holds else self.walk(body["falsy"], falsy, rows)

    def _function(self, body: Any, expression: pl.Expr, rows: pl.DataFrame) -> Formula:
        function = body["function"]
        name = function if isinstance(function, str) else next(iter(function))
        detail: Any = None if isinstance(function, str) else function[name]
        if name == "FillNull" or name in ("Boolean", "StringExpr"):
            return self._condition({"Function": body}, expression, rows)
        parts = [self.walk(*part, rows) for part in arguments({"Function": body}, expression)]
        if name == "SumHorizontal":
            return added(parts)
        if name == "Pow":
            return Call("sqrt" if detail == "Sqrt" else "^", tuple(parts))
        if name in _HORIZONTAL:
            return Call(_HORIZONTAL[name], tuple(parts)) if len(parts) > 1 else parts[0]
        if name == "Clip":
            return _clipped(parts, **detail)
        if name not in _FUNCTIONS:
            raise UnreadableExpression(f"{name} in {expression}")
        return Call(_FUNCTIONS[name], tuple(parts))

    def _agg(self, tree: Any, expression: pl.Expr, rows: pl.DataFrame, outermost: bool) -> Formula:
        ((name, body),) = tree["Agg"].items()
        inner = expression.meta.pop()[0]
        inner_tree = body["input"] if name == "Max" else body
        if name == "First":
            return self.walk(inner_tree, inner, rows[:1])
        if name not in ("Sum", "Max"):
            raise UnreadableExpression(f"{name} in {expression}")
        if name == "Sum":
            inner_tree, inner, rows = filtered(inner_tree, inner, rows)
        over = self._over_rows(name.lower(), inner_tree, inner, rows)
        if outermost or not isinstance(over, Call):
            return over
        plain = not is_compound(inner_tree)
        title = f"{'sum' if name == 'Sum' else 'greatest'} of {_title(inner_tree) if plain else 'parts'}"
        value = evaluated(expression, rows)
        key = f"{self.place.name} {title} over {rows.height}: {json.dumps(tree)}"
        return Reference(Node(key, title, value, read=lambda: Reading(over), quantity=_title(inner_tree)))

    def _over_rows(self, operation: str, tree: Any, expression: pl.Expr, rows: pl.DataFrame) -> Formula:
        """Return the sum or maximum over rows, the largest first; rows that add nothing are left out."""
        values = rows.select(expression.cast(pl.Float64).alias("value"))["value"].fill_null(0.0)
        order = (-values.abs()).arg_sort()
        counted = [row for row in order if operation == "max" or values[row]]
        parts: list[Formula] = [
            Reference(self._row(tree, expression, rows[row : row + 1])) for row in counted
        ]
        if len(parts) == 1:
            return parts[0]
        return Call(operation, tuple(parts)) if parts else Constant(0)

    def _row(self, tree: Any, expression: pl.Expr, row: pl.DataFrame) -> Node:
        """Return one row's part in a sum: the number itself if that is all, or its formula."""
        if isinstance(tree, dict) and "Alias" in tree:
            return self._term(tree["Alias"][1], tree["Alias"][0], expression.meta.pop()[0], row)
        reading = _Reader(self.place).read(tree, expression, row)
        if isinstance(reading.formula, Reference):
            return reading.formula.node
        label = self.place.label(row)
        key = f"{self.place.name} part of {label}: {json.dumps(tree)}"
        value = evaluated(expression, row)
        return Node(key, label, value, label, read=lambda: reading, quantity=_title(tree))

    def _gather(self, tree: Any, expression: pl.Expr, rows: pl.DataFrame, outermost: bool) -> Formula:
        body = tree["Gather"]
        chosen, index = reversed(expression.meta.pop())
        place = int(rows.select(index).item())
        by = _title(body["idx"])
        row = rows[place : place + 1]
        if rows.height > 1:
            self._note([f"{self.place.label(row)} has the greatest {by} of {rows.height}"])
        return self.walk(body["expr"], chosen, row, outermost=outermost)


def _clipped(parts: list[Formula], has_min: bool, has_max: bool) -> Formula:
    """Return a number held between bounds, of which a clip may have one alone."""
    number, *bounds = parts
    if has_min:
        number = Call("max", (number, bounds[0]))
    return Call("min", (number, bounds[-1])) if has_max else number


def evaluated(expression: pl.Expr, rows: pl.DataFrame) -> Value:
    """Return what polars makes of an expression on rows that it reduces to one value."""
    value: Value = rows.select(expression.alias("value"))["value"][0]
    return value


def is_condition(tree: Any, rows: pl.DataFrame) -> bool:
    """Return whether an expression is true or false, rather than a number."""
    if not isinstance(tree, dict):
        return False
    ((kind, body),) = tree.items()
    if kind == "Column":
        return rows.schema[body] == pl.Boolean
    if kind == "BinaryExpr":
        return body["op"] in _INFIX.keys() - {"Modulus"} or "And" in body["op"] or "Or" in body["op"]
    if kind == "Function":
        function = body["function"]
        boolean = isinstance(function, dict) and "Boolean" in function
        return boolean or (function == "FillNull" and is_condition(body["input"][0], rows))
    return False


def is_compound(tree: Any) -> bool:
    """Return whether an expression is more than a column or a named term."""
    return not (isinstance(tree, dict) and tree.keys() & {"Column", "Alias"})


def filtered(tree: Any, expression: pl.Expr, rows: pl.DataFrame) -> tuple[Any, pl.Expr, pl.DataFrame]:
    """Return what is summed, and the rows that a filter inside the sum leaves."""
    if not (isinstance(tree, dict) and "Filter" in tree):
        return tree, expression, rows
    inner, by = reversed(expression.meta.pop())
    return tree["Filter"]["input"], inner, rows.filter(by)


def _title(tree: Any) -> str:
    """Return the name of the first column or term of an expression."""
    if isinstance(tree, dict):
        ((kind, body),) = tree.items()
        if kind == "Column":
            return str(body)
        if kind == "Alias":
            return str(body[1])
        for part in inputs(tree):
            title = _title(part)
            if title:
                return title
    return ""
