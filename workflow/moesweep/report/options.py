"""What each option of a sweep does, from the workloads that differ in it alone."""

from statistics import median
from typing import Any

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.words import rounded

RATIOS = ("iteration_seconds", "peak_memory_bytes", "usd_per_billion_tokens")


def by_value(evidence: Evidence) -> pl.DataFrame:
    """Return a row for each option and value: `axis`, `value`, `workloads`, `fits`, and lists of RATIOS.

    A ratio is over the lowest value that the same comparison has. `base`: that is this value in each of them.
    """
    return (
        evidence.table("options_compared")
        .with_columns(base=pl.int_range(pl.len()).over("axis", "comparison") == 0)
        .group_by("axis", "value", maintain_order=True)
        .agg(
            pl.len().alias("workloads"),
            pl.col("fits").sum(),
            pl.col("base").all(),
            *(pl.col(f"{name}_ratio").drop_nulls().sort().alias(name) for name in RATIOS),
        )
        # Numbers in their order, words in that of their first comparison; options as they come.
        .with_columns(place=pl.col("axis").rle_id(), number=pl.col("value").cast(pl.Float64, strict=False))
        .sort("place", "number", maintain_order=True, nulls_last=True)
    )


def options(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the rows of `by_value` with `ratios` in words: the median, the least and the most of each."""
    return [
        {name: row[name] for name in ("axis", "value", "workloads", "fits")}
        | {"ratios": [_spread(row[name]) for name in RATIOS]}
        for row in by_value(evidence).iter_rows(named=True)
    ]


def _spread(ratios: list[float]) -> str:
    """Return the median of sorted ratios, with their ends where they differ."""
    if not ratios:
        return rounded(None)
    least, middle, most = (rounded(ratio, 3) for ratio in (ratios[0], median(ratios), ratios[-1]))
    return middle if least == most else f"{middle} ({least} to {most})"
