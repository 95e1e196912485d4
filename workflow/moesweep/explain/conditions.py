"""Why an alternative of the cost model was taken, in words."""

from typing import Any

import polars as pl

from moesweep.explain.formula import shown

_COMPARED = {"Eq": "=", "NotEq": "≠", "Gt": ">", "GtEq": "≥", "Lt": "<", "LtEq": "≤"}
_ARITHMETIC = {"Plus": "+", "Minus": "-", "Multiply": "×", "TrueDivide": "/", "FloorDivide": "/"}
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
    (left, chosen), (_, other) = parts
    word = isinstance(_value(other, rows), str)
    if word and not holds and operation == "=":
        return []
    reasons: list[str] = []
    # A table of alternatives may go on in the last of them.
    while "Ternary" in left:
        left, chosen, found = _taken(left, chosen, rows)
        reasons += found
        if word and "Literal" in left:
            return reasons
        parts = [(left, chosen), parts[1]]
    operation = operation if holds else _OPPOSITE[operation]
    said = f" {operation} ".join(_named(*part, rows) for part in parts)
    if word or operation == "=":
        return [said]
    return [f"{said} ({f' {operation} '.join(shown(_value(expression, rows)) for _, expression in parts)})"]


def _taken(tree: Any, expression: pl.Expr, rows: pl.DataFrame) -> tuple[Any, pl.Expr, list[str]]:
    """Return the alternative that a choice takes on one row, and why."""
    truthy, falsy, (why, predicate) = arguments(tree, expression)
    holds = bool(_value(predicate, rows))
    return (*(truthy if holds else falsy), because(why, predicate, rows, holds))


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
    """Return how a side of a comparison reads: names, where it has them."""
    ((kind, body),) = tree.items()
    if kind == "Column":
        return str(body)
    if kind == "Alias":
        return str(body[1])
    if kind == "Ternary":
        return _named(*_taken(tree, expression, rows)[:2], rows)
    if kind == "BinaryExpr" and body["op"] in _ARITHMETIC:
        return f" {_ARITHMETIC[body['op']]} ".join(
            _named(*part, rows) for part in arguments(tree, expression)
        )
    if kind in ("Cast", "Function"):
        return _named(*arguments(tree, expression)[0], rows)
    return shown(_value(expression, rows))


def _value(expression: pl.Expr, rows: pl.DataFrame) -> Any:
    return rows.select(expression.alias("value"))["value"][0]
