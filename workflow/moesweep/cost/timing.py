"""What every timed op has: its seconds and what limits it."""

from dataclasses import dataclass

import polars as pl


def constant(name: str) -> pl.Expr:
    """Return a cluster's constant: costed frames carry one column per constant, in base units."""
    return pl.col(name)


Ways = dict[str, tuple[pl.Expr, pl.Expr]]
"""Latency and transfer seconds of ways to do the same, by name, the usual one first."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one execution, and the largest part of them."""

    seconds: pl.Expr
    bound: pl.Expr

    @staticmethod
    def roofline(arithmetic: pl.Expr, memory: pl.Expr, launch: pl.Expr, extra: pl.Expr) -> "Timing":
        """Return max(arithmetic, memory) + extra memory time + launch, bound by the largest of the three."""
        busy = pl.max_horizontal(arithmetic, memory) + extra
        bound = (
            pl.when(busy < launch)
            .then(pl.lit("latency"))
            .when(arithmetic >= memory + extra)
            .then(pl.lit("compute"))
            .otherwise(pl.lit("memory"))
        )
        return Timing(busy + launch, bound)

    @staticmethod
    def link(latency: pl.Expr, transfer: pl.Expr) -> "Timing":
        """Return latency + transfer, bound by the larger of the two."""
        bound = pl.when(transfer > latency).then(pl.lit("bandwidth")).otherwise(pl.lit("latency"))
        return Timing(latency + transfer, bound)

    @staticmethod
    def fastest(ways: Ways) -> "Timing":
        """Return the way that takes least time, the first of equals, bound by the larger of its parts."""
        timings = [Timing.link(latency, transfer) for latency, transfer in ways.values()]
        least = pl.min_horizontal(*(each.seconds for each in timings))
        bounds = [pl.when(each.seconds <= least).then(each.bound) for each in timings]
        return Timing(least, pl.coalesce(*bounds))
