"""What each option of a sweep does: workloads that differ in it alone, side by side."""

from collections.abc import Sequence

import polars as pl

from moesweep.study.varying import APART, in_order, varying
from moesweep.tables.expense import costed
from moesweep.tables.results import Inputs

_MEASURES = ("iteration_seconds", "exposed_comm_seconds", "peak_memory_bytes", "usd_per_billion_tokens")


def options_compared(inputs: Inputs) -> pl.DataFrame:
    """Return workloads that differ in one option alone, once for each such option, their `axis`.

    Rows of an axis with one `comparison` share every other option, the model and the kind. A `_ratio` is over
    the comparison's row of the lowest value (of words the first of their schema, or of the alphabet); it is
    null where that is 0.
    """
    options, rows = varying(inputs.workloads), costed(inputs)
    return pl.concat(_compared(rows, axis, options) for axis in options or ["ep"])


def _compared(rows: pl.DataFrame, axis: str, options: Sequence[str]) -> pl.DataFrame:
    # Options that do not vary have one value for all workloads of a kind and model.
    fixed = [*APART, *(name for name in options if name != axis)]
    matched = (
        rows.filter(pl.col(axis).n_unique().over(fixed) > 1)
        .with_row_index("first")
        .with_columns(comparison=pl.col("first").min().over(fixed))
        .sort("comparison", in_order(axis), "first")
    )
    lowest = pl.col(_MEASURES).first().over("comparison")
    ratios = pl.when(lowest != 0).then(pl.col(_MEASURES) / lowest).name.suffix("_ratio")
    return matched.with_columns(ratios).select(
        pl.lit(axis).alias("axis"),
        pl.col("comparison").rle_id().cast(pl.Int64) + 1,
        pl.col(axis).cast(pl.String).alias("value"),
        "workload",
        "kind",
        *_MEASURES,
        *(f"{name}_ratio" for name in _MEASURES),
        "fits",
    )
