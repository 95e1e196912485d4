"""The words of an op, by which its timing and its part of a pass are chosen: once, and in two forms.

Of one op the words are text, and a choice is made here and now. Of a frame of ops they are its columns, and
the same choice becomes an expression. So what the wide form (one expression an op) and the row form (one row
an op) compute is written down once.
"""

from dataclasses import dataclass
from typing import TypeVar

import polars as pl

Word = str | pl.Expr | None
Truth = bool | pl.Expr
T = TypeVar("T", str, pl.Expr)


@dataclass(frozen=True)
class Words:
    """What is said of an op: of one op as text or None, of a frame of ops as columns."""

    op: Word
    kind: Word
    phase: Word
    collective: Word
    group_kind: Word

    @property
    def base(self) -> Word:
        """The op without the mark of recomputation."""
        if isinstance(self.op, pl.Expr):
            return self.op.str.strip_prefix("recompute_")
        return self.op and self.op.removeprefix("recompute_")


ROWS = Words(*(pl.col(name) for name in ("op", "kind", "phase", "collective", "group_kind")))
"""The words of a frame of ops."""


def starts(word: Word, prefix: str) -> Truth:
    """Return whether a word starts with a prefix."""
    if isinstance(word, pl.Expr):
        return word.str.starts_with(prefix)
    return word is not None and word.startswith(prefix)


def ends(word: Word, suffix: str) -> Truth:
    """Return whether a word ends with a suffix."""
    if isinstance(word, pl.Expr):
        return word.str.ends_with(suffix)
    return word is not None and word.endswith(suffix)


def among(word: Word, *words: str) -> Truth:
    """Return whether a word is one of some; a word that is missing is none of them."""
    if isinstance(word, pl.Expr):
        one = word == words[0] if len(words) == 1 else word.is_in(words)
        return one.fill_null(False)
    return word in words


def missing(word: Word) -> Truth:
    """Return whether there is no word."""
    return word.is_null() if isinstance(word, pl.Expr) else word is None


def negated(truth: Truth) -> Truth:
    """Return the opposite of a truth."""
    return ~truth if isinstance(truth, pl.Expr) else not truth


def expression(truth: Truth) -> pl.Expr:
    """Return a truth as an expression."""
    return truth if isinstance(truth, pl.Expr) else pl.lit(truth)


def choose(truth: Truth, then: pl.Expr, otherwise: pl.Expr) -> pl.Expr:
    """Return one of two expressions: now where the truth is known, else row by row."""
    if isinstance(truth, pl.Expr):
        return pl.when(truth).then(then).otherwise(otherwise)
    return then if truth else otherwise
