"""Why an alternative of the cost model was taken, in words."""

from typing import Any

import polars as pl

_COMPARED = {"Eq": "=", "NotEq": "≠", "Gt": ">", "GtEq": "≥", "Lt": "<", "LtEq": "≤"}
_OPPOSITE = {"=": "≠", "≠": "=", ">": "≤", "≥": "<", "<": "≥", "≤": ">"}
_WORDS = {"StartsWith": "starts with", "EndsWith": "ends with", "IsIn": "is one of"}


def inputs(tree: Any) -> list[Any]:
    """Return the inputs of a node of polars' expression tree, in the order of its arguments."""
    if not isinstance(tree, dict):
        return []
    ((kind, body),) = tree.items()
    if kind == "Agg":
        ((_, body),) = body.items()
        return [body["input"] if isinstance(body, dict) and "input" in body else body]
    keys = {
        "BinaryExpr": ("left", "right"),
        "Ternary": ("truthy", "falsy", "predicate"),
        "Cast": ("expr",),
        "Gather": ("expr", "idx"),
        "Filter": ("input", "by"),
    }
    if kind in keys:
        return [body[key] for key in keys[kind]]
    found: list[Any] = {"Function": lambda: body["input"], "Alias": lambda: body[:1]}.get(kind, list)()
    return found


def arguments(tree: Any, expression: pl.Expr) -> list[tuple[Any, pl.Expr]]:
    """Return the inputs of an expression, each as polars' tree and as the expression itself."""
    return list(zip(inputs(tree), reversed(expression.meta.pop()), strict=True))


def because(tree: Any, predicate: pl.Expr, rows: pl.DataFrame, holds: bool) -> list[str]:
    """Return what decides a condition on one row, whichever way it goes.

    That a word is not one of those that a table of alternatives goes through says nothing, and is left out.
    """
    ((kind, body),) = tree.items()
    parts = arguments(tree, predicate)
    if kind == "Column":
        return [body if holds else f"not {body}"]
    if kind == "BinaryExpr" and body["op"] in _COMPARED:
        return _comparison(_COMPARED[body["op"]], parts, rows, holds)
    if kind == "BinaryExpr":
        every = ("And" in body["op"]) == holds
        reasons = [
            because(*part, rows, holds)
            for part in parts
            if bool(rows.select(part[1].alias("value"))["value"][0]) == holds
        ]
        return [reason for found in (reasons if every else reasons[:1]) for reason in found]
    if kind == "Function":
        return _function(body["function"], parts, rows, holds)
    return [f"{predicate}" if holds else f"not {predicate}"]


def _comparison(
    operation: str, parts: list[tuple[Any, pl.Expr]], rows: pl.DataFrame, holds: bool
) -> list[str]:
    if not holds and operation == "=" and isinstance(_value(parts[1][1], rows), str):
        return []
    if not holds:
        operation = _OPPOSITE[operation]
    named = [_named(*part, rows) for part in parts]
    if all(isinstance(tree, dict) and "Column" in tree for tree, _ in parts):
        values = [str(_value(expression, rows)) for _, expression in parts]
        return [f"{named[0]} {operation} {named[1]} ({values[0]} {operation} {values[1]})"]
    return [f"{named[0]} {operation} {named[1]}"]


def _function(function: Any, parts: list[tuple[Any, pl.Expr]], rows: pl.DataFrame, holds: bool) -> list[str]:
    tree, expression = parts[0]
    detail = next(iter(function.values())) if isinstance(function, dict) else function
    name = detail if isinstance(detail, str) else next(iter(detail))
    if name == "Not":
        return because(tree, expression, rows, not holds)
    if name == "FillNull":
        return because(tree, expression, rows, holds)
    subject = _named(tree, expression, rows)
    if name in ("IsNull", "IsNotNull"):
        return [f"{'no ' if (name == 'IsNull') == holds else 'has '}{subject}"]
    if name in _WORDS:
        if not holds:
            return []
        value = _value(parts[1][1], rows)
        words = ", ".join(map(str, value)) if isinstance(value, list | pl.Series) else str(value)
        return [f"{subject} {_WORDS[name]} {words}"]
    return [f"{name} of {subject} is {holds}".lower()]


def _named(tree: Any, expression: pl.Expr, rows: pl.DataFrame) -> str:
    ((kind, body),) = tree.items()
    if kind == "Column":
        return str(body)
    if kind == "Alias":
        return str(body[1])
    if kind == "Cast":
        return _named(body["expr"], expression.meta.pop()[0], rows)
    if kind == "Function" and "StringExpr" in str(body["function"]):
        return _named(body["input"][0], expression.meta.pop()[-1], rows)
    if kind == "Ternary":
        truthy, falsy, predicate = reversed(expression.meta.pop())
        taken = (body["truthy"], truthy) if _value(predicate, rows) else (body["falsy"], falsy)
        return _named(*taken, rows)
    value = _value(expression, rows)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(expression: pl.Expr, rows: pl.DataFrame) -> Any:
    return rows.select(expression.alias("value"))["value"][0]
