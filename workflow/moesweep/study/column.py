"""What a column of a workload is: one that follows from others, or a key that sweeps give."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from moesweep.study.forms import Schema

NEEDED = object()
"""Default of a key that must be given."""

_DTYPES: dict[str, pl.DataType] = {
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "string": pl.String(),
}


@dataclass(frozen=True)
class Derived:
    """A column that follows from others: `form` is its JSON Schema, `about` its meaning."""

    name: str
    form: Schema
    about: str

    @property
    def column(self) -> Schema:
        """JSON Schema of the column's values."""
        return self.form

    @property
    def dtype(self) -> pl.DataType:
        """Type of the column."""
        kinds = self.column["type"]
        return _DTYPES[kinds if isinstance(kinds, str) else kinds[0]]


@dataclass(frozen=True)
class Key(Derived):
    """A key that sweeps give, and models too where `of_model` is true.

    form       JSON Schema of one value as it is written
    default    the value where neither entry, options nor model says it: one, or how it follows from other
               columns
    resolved   JSON Schema of the column, where it is another than `form`
    text       the column's value of a value as it is written, for values that are lists
    of_model   whether it may stand in a model's file
    word       what stands for the key in an id: before a value, or alone for what is on; "" for values that
               speak for themselves; or a function of the column's value. None: the key itself
    without    what a workload without experts has; None: not an option of experts
    divides    the column whose divisors are `all` values of the key; "": it has no `all`
    """

    default: Any = NEEDED
    resolved: Schema | None = None
    text: Callable[[Any], Any] | None = None
    of_model: bool = False
    word: str | Callable[[str], str] | None = None
    without: Any = None
    divides: str = ""

    @property
    def column(self) -> Schema:
        """JSON Schema of the column's values."""
        return self.form if self.resolved is None else self.resolved

    @property
    def takes_lists(self) -> bool:
        """Whether one value may be a list: an axis of it is a list of lists."""
        return "array" in self.form["type"]
