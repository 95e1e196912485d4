"""How far an iteration's seconds may be off: from the ranges of the constants that are known least.

Each uncertain constant moves alone to the end of its range that is farther away; the shares by which
the iteration then changes are independent and add in quadrature. `band_scale` times that is the band
which holds about 80% of the measured runs (make calibrate).
"""

from collections.abc import Mapping

import polars as pl

from moesweep.shapes.expressions import total
from moesweep.study.catalog import Constant

UNCERTAIN = (
    "gemm_gain",
    "grouped_gemm_efficiency",
    "attention_gemm_efficiency",
    "elementwise_hbm_fraction",
    "adam_hbm_fraction",
    "permute_hbm_fraction",
    "host_seconds",
    "host_2021_seconds",
    "tp_skew_seconds",
    "tp_overlap",
    "dp_efficiency",
    "fabric_efficiency",
    "all_to_all_efficiency",
    "p2p_latency_seconds",
    "expert_load_variation",
    "dispatch_wait_seconds",
)
"""The constants fitted or assumed; all others are data sheets' or direct measurements."""


def farther_ends(constants: Mapping[str, Constant]) -> dict[str, float]:
    """Return the end of each uncertain constant's range that is farther from its value."""
    known = {name: constants[name] for name in UNCERTAIN}
    return {name: c.low if c.value - c.low > c.high - c.value else c.high for name, c in known.items()}


def change() -> dict[str, pl.Expr]:
    """Return the share by which an iteration changes with one constant moved, over its `own` seconds."""
    return {"share": pl.col("iteration_seconds") / pl.col("own") - 1}


def spread() -> dict[str, pl.Expr]:
    """Return the square root of the sum of squared log changes, over the constants moved."""
    return {"spread": (1 + pl.col("share")).log().pow(2).sum().sqrt()}


def band() -> dict[str, pl.Expr]:
    """Return the ends of the band: seconds · exp(± band_scale · spread).

    The lower one is no less than seconds · mfu, what the model's flops take at the GPU's peak.
    """
    seconds = pl.col("iteration_seconds")
    factor = (pl.col("band_scale") * pl.col("spread")).exp()
    return {
        "iteration_seconds_low": pl.max_horizontal(seconds / factor, seconds * pl.col("mfu")),
        "iteration_seconds_high": pl.col("iteration_seconds") * factor,
    }


def changes(costs: pl.DataFrame, moved: pl.DataFrame) -> pl.DataFrame:
    """Return workload, constant, `iteration_seconds` with it moved, own and `share`; the largest first.

    `moved` has the iteration's seconds of each workload with each constant moved, one column a constant.
    """
    order = costs.select("workload", own="iteration_seconds").with_row_index("place")
    return (
        moved.unpivot(UNCERTAIN, index="workload", variable_name="constant", value_name="iteration_seconds")
        .join(order, on="workload", maintain_order="left")
        .with_columns(**change())
        .sort("place", -pl.col("share").abs(), "constant")
    )


def banded(costs: pl.DataFrame, moved: pl.DataFrame) -> pl.DataFrame:
    """Add to the costs their `spread`, and `iteration_seconds_low` and `_high`.

    `moved` as for `changes`, row for row.
    """
    share = {name: pl.col(f"{name} moved") / pl.col("iteration_seconds") for name in UNCERTAIN}
    squares = total(each.log().pow(2) for each in share.values())
    beside = moved.select(pl.col(name).alias(f"{name} moved") for name in UNCERTAIN)
    found = costs.hstack(beside).with_columns(spread=squares.sqrt()).drop(beside.columns)
    return found.with_columns(**band())
