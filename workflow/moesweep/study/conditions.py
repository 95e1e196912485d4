"""Which points of a grid stay: those that fulfil its conditions and, where others are left out, its rules."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
from moesweep.study.keys import SCHEMA
from moesweep.study.rules import RULES

AGAIN = "again"
"""Column: whether a point that comes before in its grid is the same, which a rule may make it."""

SAID_AGAIN = "said again"
"""What removes such a point."""

NO_LARGEST_EP = "ep_rule"
"""What removes a point that has no largest ep."""

COLUMNS: dict[str, pl.DataType] = {
    **{name: dtype for name, dtype in SCHEMA.items() if name not in ("workload", "twin")},
    "cluster": pl.String(),
}
"""Columns that a condition may name."""

FUNCTIONS = (
    *("abs", "cast", "ceil", "coalesce", "exp", "floor", "greatest", "least", "length", "ln", "log", "log10"),
    *("log2", "lower", "mod", "nullif", "pow", "power", "round", "sign", "sqrt", "starts_with", "upper"),
)
"""Functions that a condition may use: each looks at one point alone."""

ERRORS = tuple(rule for rule in RULES if rule.severity == "error")

_WORDS = ("and", "between", "case", "else", "in", "is", "like", "not", "or", "then", "when")
_STRING = re.compile(r"'[^']*'")
_CALL = re.compile(r"\b(\w+)\s*\(")
_EXAMPLE = "a SQL condition over columns of a workload, such as tp * ep <= 64 AND pp > 1"


@dataclass(frozen=True)
class Condition:
    """A condition as it is written, where it stands, and as an expression over the columns of a point."""

    text: str
    file: str
    path: str
    holds: pl.Expr


def condition(text: str, file: str, path: str) -> Condition:
    """Return the condition that a SQL text says; raise BadInput where it says none."""
    bare = _STRING.sub("''", text).lower()
    calls = [name for name in _CALL.findall(bare) if name not in (*FUNCTIONS, *_WORDS)]
    if calls or re.search(r"\b(select|over)\b", bare):
        name = calls[0] if calls else "a query"
        raise _no_condition(text, file, path, f"{name} is not asked here", f"known: {', '.join(FUNCTIONS)}")
    try:
        holds = pl.sql_expr(text)
        unknown = sorted({*holds.meta.root_names()} - COLUMNS.keys())
        if unknown:
            advice = did_you_mean(unknown[0], COLUMNS)
            raise _no_condition(text, file, path, f"there is no column {unknown[0]}", advice)
        kind = pl.DataFrame(schema=COLUMNS).select(holds=holds).schema["holds"]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _unreadable(text, file, path, error) from error
    if kind != pl.Boolean:
        raise _no_condition(text, file, path, f"gives {kind}, where true or false is needed", _EXAMPLE)
    return Condition(text, file, path, holds.fill_null(False))


def checks(conditions: Sequence[Condition], legal: bool) -> dict[str, pl.Expr]:
    """Return what removes a point, in the order in which it counts: a name, and where it does.

    SAID_AGAIN, NO_LARGEST_EP, `where ...`, and the rules where `legal` points alone stay.
    """
    found = {SAID_AGAIN: pl.col(AGAIN), NO_LARGEST_EP: pl.col("ep").is_null()}
    found |= {f"where {each.text}": ~each.holds for each in conditions}
    return found | ({rule.name: rule.violated for rule in ERRORS} if legal else {})


def removed(frame: pl.DataFrame, conditions: Sequence[Condition], legal: bool) -> pl.Series:
    """Return the number of the first of `checks` that removes each point; null if it stays."""
    asked = enumerate(checks(conditions, legal).values())
    try:
        return frame.select(
            pl.min_horizontal(pl.when(check).then(pl.lit(number, pl.Int16)) for number, check in asked)
        ).to_series()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        for each in conditions:
            try:
                frame.select(each.holds)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
                raise _unreadable(each.text, each.file, each.path, error) from error
        raise


def _unreadable(text: str, file: str, path: str, error: BaseException) -> BadInput:
    reason = str(error).strip().partition("\n")[0]
    return _no_condition(text, file, path, f"cannot be asked: {reason}", _EXAMPLE)


def _no_condition(text: str, file: str, path: str, reason: str, advice: str) -> BadInput:
    return BadInput([Problem(file, path, "where", shown(text), f"{shown(text)} {reason}", advice)])
