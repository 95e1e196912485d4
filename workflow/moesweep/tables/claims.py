"""The sweep's claims about expert parallelism, each with the evidence of the matched comparisons."""

from typing import Any

import polars as pl

from moesweep.study.claims import QUANTITIES
from moesweep.tables.comparison import ep_scaling
from moesweep.tables.results import Inputs

SAME = 0.001
"""Ratios closer to 1 than this count as unchanged."""


def ep_claims(inputs: Inputs) -> pl.DataFrame:
    """Return each claim of the sweep with the ratios of its quantities, as `evidence` has them.

    supported: every comparison moves as claimed; contradicted: every one moves the other way; no effect:
    none moves; mixed: the rest; untested: the sweep has no comparison.
    """
    found = evidence(ep_scaling(inputs))
    rows = [
        {"claim": each.claim, "by_source": each.by_source, "expected": expected}
        | found.row(by_predicate=pl.col("quantity") == quantity, named=True)
        for each in inputs.claims
        for quantity, expected in each.moves
    ]
    as_claimed, opposite = (
        pl.when(pl.col("expected") == word).then("rises").otherwise("falls") for word in ("rises", "falls")
    )
    schema: dict[str, Any] = {"claim": pl.String, "by_source": pl.Boolean, "expected": pl.String}
    return pl.DataFrame(rows, schema | dict(found.schema)).with_columns(
        verdict=pl.when(comparisons=0)
        .then(pl.lit("untested"))
        .when((as_claimed == 0) & (opposite == 0))
        .then(pl.lit("no effect"))
        .when(as_claimed == pl.col("comparisons"))
        .then(pl.lit("supported"))
        .when(opposite == pl.col("comparisons"))
        .then(pl.lit("contradicted"))
        .otherwise(pl.lit("mixed"))
    )


def evidence(scaling: pl.DataFrame) -> pl.DataFrame:
    """Return what rising ep does to each of QUANTITIES: ratios, highest ep of a comparison over its lowest.

    The lowest that has any: without expert parallelism nothing is exchanged, so of ep 1, 2 and 4 the exchange
    of 4 is compared with that of 2.
    """
    ratios = scaling.group_by("comparison", maintain_order=True).agg(map(_ends_ratio, QUANTITIES))
    ratio = pl.col("ratio")
    return pl.concat(
        ratios.select(ratio=name)
        .drop_nulls()
        .select(
            quantity=pl.lit(name),
            comparisons=pl.len().cast(pl.Int64),
            lowest_ratio=ratio.min(),
            median_ratio=ratio.median(),
            highest_ratio=ratio.max(),
            rises=(ratio > 1 + SAME).sum().cast(pl.Int64),
            falls=(ratio < 1 - SAME).sum().cast(pl.Int64),
        )
        for name in QUANTITIES
    )


def _ends_ratio(quantity: str) -> pl.Expr:
    there = pl.col(quantity).filter(pl.col(quantity) > 0)
    return pl.when(there.len() > 1).then(there.last() / there.first()).alias(quantity)
