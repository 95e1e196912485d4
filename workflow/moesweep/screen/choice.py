"""Which points of a screen are kept: all, those that fit, the best by a column, those that none betters."""

from bisect import bisect_right
from dataclasses import dataclass

import polars as pl

from moesweep.screen.points import COLUMNS, POSITION, TOKEN_SECONDS
from moesweep.store.tablefile import dtypes

MOST_IS_BEST = ("tokens_per_second_per_gpu", "model_flops_per_second_per_gpu", "mfu", "causal_mfu", "fits")
"""Columns of which more is better; of all others less."""

PARETO = (TOKEN_SECONDS, "peak_memory_bytes", "usd_per_billion_tokens")
"""Time, memory and price: what a point must not be bettered in at once."""

RANKED = tuple(name for name in COLUMNS if dtypes("costs").get(name, pl.String()).is_numeric())
"""Columns that points can be ranked by."""


@dataclass(frozen=True)
class Choice:
    """What is kept of a screen's points.

    top      so many of them, the best by `by` first; None for all, in the order of the space
    fits     only what fits its GPU's memory
    pareto   only what no other point betters in PARETO at once
    """

    top: int | None = None
    by: str = "iteration_seconds"
    fits: bool = False
    pareto: bool = False

    def of(self, points: pl.DataFrame) -> pl.DataFrame:
        """Return the points that are kept; kept of kept parts together are those kept of all."""
        if self.fits:
            points = points.filter("fits")
        if self.pareto:
            points = _unbettered(points)
        if self.top is None:
            return points.sort(POSITION)
        # Of equals the first in the space is the better one, so that no part decides.
        best = points.sort(self.by, POSITION, descending=[self.by in MOST_IS_BEST, False])
        return best.head(self.top)


def _unbettered(points: pl.DataFrame) -> pl.DataFrame:
    """Return the points that no other one equals in all of PARETO and betters in one, of equals the first.

    In the order of time, a point is bettered by an earlier one that needs no more memory and no more money.
    Of those so far, only least prices by memory matter: a staircase, falling as memory rises.
    """
    ordered = points.sort(*PARETO, POSITION)
    memories: list[float] = []
    prices: list[float] = []
    kept = []
    for row, (memory, price) in enumerate(ordered.select(PARETO[1:]).iter_rows()):
        at = bisect_right(memories, memory)
        if at and prices[at - 1] <= price:
            continue
        kept.append(row)
        end = at
        while end < len(prices) and prices[end] >= price:
            end += 1
        memories[at:end], prices[at:end] = [memory], [price]
    return ordered[kept].sort(POSITION)
