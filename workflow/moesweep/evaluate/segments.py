"""Rows that belong to others: every owner has some rows of a table, one after the other."""

from dataclasses import dataclass

import numpy as np

from moesweep.shapes.distinct import Array


@dataclass(frozen=True)
class Segments:
    """Rows of a table handed to owners: row number `rows[i]` belongs to owner `owner[i]`.

    starts   where the rows of each owner begin; no owner is without
    """

    rows: Array
    owner: Array
    starts: Array

    def sums(self, values: Array) -> Array:
        """Return the sum of each owner's values."""
        found: Array = np.add.reduceat(values, self.starts)
        return found

    def greatest(self, values: Array) -> tuple[Array, Array]:
        """Return the greatest of each owner's values, and where the first of them stands."""
        most: Array = np.maximum.reduceat(values, self.starts)
        place = np.where(values == most[self.owner], np.arange(len(values)), len(values))
        return most, np.minimum.reduceat(place, self.starts)


def segments(first: Array, size: Array) -> Segments:
    """Return the segments of owners that have the rows from `first` on, `size` of them."""
    starts = np.cumsum(size) - size
    owner = np.repeat(np.arange(len(size)), size)
    return Segments(np.arange(int(size.sum())) - starts[owner] + first[owner], owner, starts)
