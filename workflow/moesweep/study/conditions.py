"""Which points of a grid stay: those that fulfil its conditions and, where others are left out, its rules."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import polars as pl

from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
from moesweep.shapes.distinct import Array, Codes, Distinct, distinct, joined
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

FEW = 16
"""Points a kind, at the least, where checks of different axes are asked together."""

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


@dataclass(frozen=True)
class Asked:
    """Checks by number, rows to ask, and of each point which of these it is; None where each is its own."""

    checks: Mapping[int, pl.Expr]
    rows: pl.DataFrame
    index: Array | None = None


@dataclass(frozen=True)
class Alike:
    """What points of a space share: checks look at each distinct one, and no other need be made.

    codes    of each point its value's number on every axis
    sizes    number of values by axis
    behind   the axes that each column follows from; a column that is not there is looked at point by point
    rows     the columns of some of the points, given their places among all
    """

    codes: pl.DataFrame
    sizes: Mapping[str, int]
    behind: Mapping[str, Collection[str]]
    rows: Callable[[Array], pl.DataFrame]

    def every(self) -> pl.DataFrame:
        """Return the columns of all points."""
        return self.rows(np.arange(self.codes.height))

    def axes_of(self, *expressions: pl.Expr) -> frozenset[str]:
        """Return the axes that expressions depend on; all of them where that is not known."""
        roots = [name for each in expressions for name in each.meta.root_names()]
        if not all(name in self.behind for name in roots):
            return frozenset(self.sizes)
        return frozenset(axis for name in roots for axis in self.behind[name] if axis in self.sizes)

    def combined(self, axes: Collection[str]) -> int:
        """Return how many values axes have together."""
        return prod(self.sizes[name] for name in axes)

    def shared_out(self, asked: Mapping[int, pl.Expr]) -> Iterator[Asked]:
        """Yield some of the checks, the distinct points that they are asked of, and which of them each is.

        As many as leave points of FEW kinds go together, others with those of the same axes.
        """
        points, together, union = self.codes.height, dict[int, pl.Expr](), frozenset[str]()
        apart: dict[frozenset[str], dict[int, pl.Expr]] = {}
        for number, check in asked.items():
            axes = self.axes_of(check)
            if FEW * self.combined(union | axes) <= points:
                together[number], union = check, union | axes
            else:
                own = axes if 2 * self.combined(axes) <= points else frozenset(self.sizes)
                apart.setdefault(own, {})[number] = check
        apart.setdefault(union, {}).update(together)
        if some := apart.pop(frozenset(self.sizes), None):
            yield Asked(some, self.every())
        kinds = {axes: self.distinct(axes) for axes in apart}
        # What makes a few rows takes as long as what makes them all.
        rows = self.rows(np.concatenate([np.empty(0, np.int64), *(each.first for each in kinds.values())]))
        start = 0
        for axes, some in apart.items():
            of_some = kinds[axes]
            yield Asked(some, rows[start : start + len(of_some.first)], of_some.index)
            start += len(of_some.first)

    def distinct(self, axes: Collection[str]) -> Distinct:
        """Return the points that differ on these axes."""
        own = [Codes(self.codes[name].to_numpy(), self.sizes[name]) for name in sorted(axes)]
        return distinct(joined(own, self.codes.height))


def removed(points: pl.DataFrame | Alike, conditions: Sequence[Condition], legal: bool) -> pl.Series:
    """Return the number of the first of `checks` that removes each point; null if it stays.

    Of points of which it is known what they share, each check is asked once for all that look alike to it.
    """
    asked = dict(enumerate(checks(conditions, legal).values()))
    if isinstance(points, Alike):
        whole, height, shared = points.every, points.codes.height, points.shared_out(asked)
    else:
        whole, height, shared = points.clone, points.height, iter([Asked(asked, points)])
    first = np.full(height, len(asked), dtype=np.int16)
    try:
        for some in shared:
            found = _first(some.rows, some.checks, len(asked))
            np.minimum(first, found if some.index is None else found[some.index], out=first)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        for each in conditions:
            try:
                whole().select(each.holds)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
                raise _unreadable(each.text, each.file, each.path, error) from error
        raise
    number = pl.Series(first)
    return pl.select(pl.when(number < len(asked)).then(number)).to_series()


def _first(rows: pl.DataFrame, asked: Mapping[int, pl.Expr], none: int) -> Array:
    """Return the number of the first check that removes each row, `none` where it stays."""
    named = {str(number): check for number, check in asked.items()}
    told = rows.with_columns(**named).select(list(named))
    some = [name for name, any_ in told.select(pl.all().any()).to_dicts()[0].items() if any_] if named else []
    found = np.full(rows.height, none, dtype=np.int16)
    for name in reversed(some):
        found[told[name].fill_null(False).to_numpy()] = int(name)
    return found


def _unreadable(text: str, file: str, path: str, error: BaseException) -> BadInput:
    reason = str(error).strip().partition("\n")[0]
    return _no_condition(text, file, path, f"cannot be asked: {reason}", _EXAMPLE)


def _no_condition(text: str, file: str, path: str, reason: str, advice: str) -> BadInput:
    return BadInput([Problem(file, path, "where", shown(text), f"{shown(text)} {reason}", advice)])
