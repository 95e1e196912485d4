"""Polars expressions that several stages need."""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import add

import polars as pl

Part = Callable[[str, pl.Expr], pl.Expr]
"""What a part of an expression becomes, with a name of its own: itself, or a column that holds it."""


def in_place(name: str, part: pl.Expr) -> pl.Expr:
    """Return a part of an expression as it is."""
    return part


def by_word(column: pl.Expr, choices: Mapping[str, pl.Expr], default: pl.Expr) -> pl.Expr:
    """Return the choice named by a column of words, `default` where it names none."""
    chosen = default
    for word, choice in reversed(list(choices.items())):
        chosen = pl.when(column == word).then(choice).otherwise(chosen)
    return chosen


def exact(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with its whole numbers in 128 bits, which hold every product of a workload's columns.

    In 64 bits such products wrap in silence: the scores of a micro-batch take up to 2^80, their flops 2^98.
    """
    return frame.with_columns(pl.col(pl.Int64).cast(pl.Int128))


def total(columns: Iterable[str | pl.Expr]) -> pl.Expr:
    """Return the sum of columns or expressions, added one after the other.

    The order in which `sum_horizontal` adds, and so the last digit, depends on the number of threads.
    """
    return reduce(add, (pl.col(each) if isinstance(each, str) else each for each in columns))
