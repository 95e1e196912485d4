"""Rows that share what an expression reads: found once, so that it is evaluated once for each of them.

A column becomes whole numbers from 0 (its codes), several columns one number a row (a key), and equal keys
are one distinct row. Codes are found by looking numbers up in a table, which takes a fraction of a sort.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

Array = np.ndarray[Any, np.dtype[Any]]

TABLE = 4
"""Longest table in which numbers are looked up, for each row; longer ones take longer than sorting."""


@dataclass(frozen=True)
class Codes:
    """For each row, a whole number below `size` that tells apart what differs."""

    of: Array
    size: int

    def packed(self) -> "Codes":
        """Return codes without gaps."""
        return packed(self.of, self.size)


@dataclass(frozen=True)
class Distinct:
    """Which distinct row each row is (`index`), and the first row of each (`first`)."""

    index: Array
    first: Array

    @property
    def codes(self) -> Codes:
        """The index as codes."""
        return Codes(self.index, len(self.first))


def packed(numbers: Array, size: int) -> Codes:
    """Return codes without gaps for whole numbers from 0 and below `size`."""
    if size > TABLE * len(numbers):
        found, codes = np.unique(numbers, return_inverse=True)
        return Codes(codes, len(found))
    there = np.zeros(size, dtype=bool)
    there[numbers] = True
    table = np.cumsum(there) - 1
    return Codes(table[numbers], int(table[-1]) + 1 if size else 0)


def coded(column: pl.Series) -> Codes:
    """Return the codes of a column of numbers, truths or words; null is a value like any other."""
    if column.dtype == pl.Boolean and not column.null_count():
        return Codes(column.cast(pl.Int64).to_numpy(), 2)
    if column.dtype.is_integer() and not column.null_count():
        low, high = int(column.min() or 0), int(column.max() or 0)  # type: ignore[arg-type]
        return packed(column.to_numpy() - low, high - low + 1)
    if isinstance(column.dtype, pl.Enum) and not column.null_count():
        return packed(column.to_physical().to_numpy().astype(np.int64), len(column.dtype.categories))
    ranks = column.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()
    return packed(ranks, int(ranks.max(initial=0)) + 1)


def joined(parts: Iterable[Codes], rows: int) -> Codes:
    """Return the codes of several columns together."""
    whole = Codes(np.zeros(rows, dtype=np.int64), 1)
    for part in parts:
        if part.size == 1:
            continue
        if whole.size * part.size > TABLE * rows:
            whole = whole.packed()
        whole = Codes(whole.of * part.size + part.of, whole.size * part.size)
        if whole.size > TABLE * rows:
            whole = whole.packed()
    return whole


def distinct(codes: Codes) -> Distinct:
    """Return the distinct rows of codes, in the order of the codes."""
    dense = codes.packed()
    first = np.empty(dense.size, dtype=np.int64)
    # Of equal indices the last assignment counts.
    first[dense.of[::-1]] = np.arange(len(dense.of))[::-1]
    return Distinct(dense.of, first)


class Coded:
    """A frame with the codes of its columns, each found when first asked for."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self._codes: dict[str, Codes] = {}
        self._axes: dict[str, frozenset[str]] = {}

    def codes(self, name: str) -> Codes:
        """Return a column's codes."""
        if name not in self._codes:
            self._codes[name] = coded(self.frame[name])
        return self._codes[name]

    def distinct(self, names: Iterable[str], *also: Codes) -> Distinct:
        """Return the rows that differ in any of these columns, or in codes of other things.

        Columns that share their codes, as those of one axis do, count once; columns that follow from axes all
        of which are there tell nothing more apart.
        """
        several, alone = set[str](), set[str]()
        for name in names:
            (alone if len(self._axes.get(name, ())) == 1 else several).add(name)
        told = frozenset[str]().union(*(self._axes[name] for name in alone))
        several -= {name for name in several if name in self._axes and self._axes[name] <= told}
        parts = [*also, *(self.codes(name) for name in sorted(alone | several))]
        return distinct(joined({id(part): part for part in parts}.values(), self.frame.height))

    def add(self, name: str, axes: Mapping[str, Codes]) -> None:
        """Say which axes a column follows from, none if it is the same everywhere; one gives its codes."""
        self._axes[name] = frozenset(axes)
        if len(axes) == 1:
            (self._codes[name],) = axes.values()
