"""A formula over nodes of an explanation: what it comes to, and how it reads.

Terms that come out as 0 and factors that come out as 1 are left out, unless they are inputs: an
interleaving of 1 or a twin without experts should not fill a formula with what has no effect.
"""

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesweep.explain.node import Node

Value = float | int | bool | str | None


@dataclass(frozen=True)
class Constant:
    """A number or word that stands in the formula itself."""

    value: Value


@dataclass(frozen=True)
class Reference:
    """A number that another node explains."""

    node: "Node"


@dataclass(frozen=True)
class Call:
    """An operation on formulas: an infix operator, or a function by its name."""

    operation: str
    arguments: tuple["Formula", ...]


Formula = Constant | Reference | Call

_BINARY: dict[str, Callable[[float, float], float]] = {
    "×": operator.mul,
    "-": operator.sub,
    "/": operator.truediv,
    "//": operator.floordiv,
    "mod": operator.mod,
    "=": operator.eq,
    "≠": operator.ne,
    ">": operator.gt,
    "≥": operator.ge,
    "<": operator.lt,
    "≤": operator.le,
    "^": operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "+": lambda *parts: sum(parts),
    "sum": lambda *parts: sum(parts),
    "max": max,
    "min": min,
    "log": math.log,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "ceil": math.ceil,
    "floor": math.floor,
    "negative": operator.neg,
}
_BINDING = {"^": 5, "×": 4, "/": 4, "mod": 4, "+": 3, "sum": 3, "-": 3}
_ASSOCIATIVE = ("+", "sum", "×")
_COMPARED = 2


def evaluate(formula: Formula) -> float:
    """Return what a formula comes to with its nodes' values put in."""
    if isinstance(formula, Constant):
        return _number(formula.value)
    if isinstance(formula, Reference):
        return _number(formula.node.value)
    values = [evaluate(argument) for argument in formula.arguments]
    if formula.operation in _BINARY:
        return reduce(_BINARY[formula.operation], values)
    return _FUNCTIONS[formula.operation](*values)


def _number(value: Value) -> float:
    if isinstance(value, str) or value is None:
        return math.nan
    return value


def references(formula: Formula) -> Iterator["Node"]:
    """Yield the nodes of a formula in reading order, each once."""
    seen = set()
    pending = [formula]
    while pending:
        part = pending.pop(0)
        if isinstance(part, Reference) and part.node.key not in seen:
            seen.add(part.node.key)
            yield part.node
        elif isinstance(part, Call):
            pending = [*part.arguments, *pending]


def added(arguments: list[Formula]) -> Formula:
    """Return a sum without the terms that come out as 0."""
    kept = [argument for argument in arguments if not _is_idle(argument, 0)]
    flat = [
        inner
        for argument in kept
        for inner in (
            argument.arguments if isinstance(argument, Call) and argument.operation == "+" else (argument,)
        )
    ]
    return Call("+", tuple(flat)) if len(flat) > 1 else flat[0] if flat else Constant(0)


def multiplied(left: Formula, right: Formula) -> Formula:
    """Return a product without a factor that comes out as 1."""
    if _is_idle(left, 1):
        return right
    return left if _is_idle(right, 1) else Call("×", (left, right))


def divided(left: Formula, right: Formula, operation: str = "/") -> Formula:
    """Return a quotient, or the dividend alone if the divisor comes out as 1."""
    return left if _is_idle(right, 1) else Call(operation, (left, right))


def _is_idle(formula: Formula, neutral: int) -> bool:
    is_input = isinstance(formula, Reference) and formula.node.origin is not None
    return not is_input and evaluate(formula) == neutral


def text(formula: Formula, show: Callable[["Node"], str], binding: int = 0) -> str:
    """Return a formula in infix notation; `show` says how a node reads: by its name or by its value."""
    if isinstance(formula, Constant):
        return shown(formula.value)
    if isinstance(formula, Reference):
        return show(formula.node)
    operation, arguments = formula.operation, formula.arguments
    if operation == "//":
        return f"⌊{text(arguments[0], show, 4)} / {text(arguments[1], show, 5)}⌋"
    if operation == "negative":
        return f"-{text(arguments[0], show, 5)}"
    if operation not in _BINARY and operation not in _ASSOCIATIVE:
        return f"{operation}({', '.join(text(argument, show) for argument in arguments)})"
    own = _BINDING.get(operation, _COMPARED)
    tighter = own if operation in _ASSOCIATIVE else own + 1
    parts = [text(arguments[0], show, own), *(text(right, show, tighter) for right in arguments[1:])]
    whole = f" {'+' if operation == 'sum' else operation} ".join(parts)
    return f"({whole})" if own < binding else whole


def shown(value: Value) -> str:
    """Return a number with six significant digits (whole ones in full), a word as it is."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, str):
        return value
    short = f"{value:.6g}"
    whole = float(value).is_integer() and abs(value) < 1e15
    return str(int(value)) if whole and (abs(value) < 1e7 or float(short) != value) else short
