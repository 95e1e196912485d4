"""How far an iteration's seconds may be off: from the ranges of the constants that are known least.

Each uncertain constant moves alone to the end of its range that is farther away; the shares by which
the iteration then changes are independent and add in quadrature. `band_scale` times that is the band
which holds about 80% of the measured runs (make calibrate).
"""

from collections.abc import Mapping

import polars as pl

from moesweep.cost.iteration import iterations, stage_seconds
from moesweep.cost.ops import timed
from moesweep.cost.stages import passes
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


def seconds_alone(folded: pl.DataFrame, workloads: pl.DataFrame) -> pl.DataFrame:
    """Return workload and iteration_seconds, without the other columns of a full costing."""
    described = workloads.rename({"num_microbatches": "microbatches", "kind": "workload_kind"})
    rows = folded.lazy().join(described.lazy(), on="workload", maintain_order="left")
    # What bounds an op takes as long to tell as its seconds.
    ops = timed(rows).drop("bound").collect()
    stages = stage_seconds(passes(ops, described)).join(
        workloads.select("workload", "num_microbatches", "virtual_pipeline"),
        on="workload",
        maintain_order="left",
    )
    return iterations(stages).select("workload", "iteration_seconds")


def farther_ends(constants: Mapping[str, Constant]) -> dict[str, float]:
    """Return the end of each uncertain constant's range that is farther from its value."""
    known = {name: constants[name] for name in UNCERTAIN}
    return {name: c.low if c.value - c.low > c.high - c.value else c.high for name, c in known.items()}


def sensitivity(folded: pl.DataFrame, workloads: pl.DataFrame, ends: pl.DataFrame) -> pl.DataFrame:
    """Return workload, constant, `iteration_seconds`: with that constant alone at the end of its range.

    `workloads` carry their cluster's constants; `ends` has a row for each with its `farther_ends`.
    """
    moved = (
        seconds_alone(folded, workloads.with_columns(ends[name])).with_columns(constant=pl.lit(name))
        for name in UNCERTAIN
    )
    return pl.concat(moved)


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
    """Add to the moved iterations `share`, their change over the costs' own; the largest first."""
    own = costs.select("workload", own="iteration_seconds")
    order = costs.select("workload").with_row_index("place")
    return (
        moved.join(own, on="workload", maintain_order="left")
        .with_columns(**change())
        .join(order, on="workload", maintain_order="left")
        .sort("place", -pl.col("share").abs(), "constant")
    )


def banded(costs: pl.DataFrame, moved: pl.DataFrame) -> pl.DataFrame:
    """Add to the costs their `spread`, and `iteration_seconds_low` and `_high`."""
    spreads = changes(costs, moved).group_by("workload", maintain_order=True).agg(**spread())
    return costs.join(spreads, on="workload", maintain_order="left").with_columns(**band())
