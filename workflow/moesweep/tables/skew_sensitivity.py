"""What routing skew does to the workloads of one comparison."""

from fractions import Fraction

import polars as pl

from moesweep.study.routing import Routing
from moesweep.tables.comparison import ep_scaling
from moesweep.tables.results import Inputs

ALPHAS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
"""Popularities fall as rank^-alpha; 0 is balanced."""

CAPACITY = Fraction(5, 4)
SEED = 0

_MEASURES = ("iteration_seconds", "compute_seconds", "ep_comm_seconds", "peak_memory_bytes", "fits")
_LOADS = ("expert_load_ratio", "rank_load_ratio", "dropped_share")


def skew_sensitivity(inputs: Inputs) -> pl.DataFrame:
    """Return the chosen workloads routed evenly, by zipf, and by zipf with a capacity factor.

    `iteration_seconds_ratio` is over the balanced row of the same workload, whatever the sweep's own
    routing is. Below 1 it shows dropped work, not speed.
    """
    variants = _variants(inputs)
    costs = inputs.recosted(routed_otherwise(inputs), "skew_sensitivity")
    seconds = pl.col("iteration_seconds")
    return (
        variants.join(costs.select("workload", *_LOADS, *_MEASURES), on="workload", maintain_order="left")
        .with_columns(iteration_seconds_ratio=seconds / seconds.first().over("of"))
        .with_columns(workload="of")
    )


def routed_otherwise(inputs: Inputs) -> pl.DataFrame:
    """Return the chosen workloads with each routing."""
    return _variants(inputs).select(inputs.workloads.columns)


def _variants(inputs: Inputs) -> pl.DataFrame:
    """Return the same with `alpha`, `capacity_factor` and `of`, the workload that one is of."""
    routed = _chosen(inputs).drop("routing").join(_routings(), how="cross", maintain_order="left_right")
    return routed.with_columns(of="workload", workload=pl.format("{} {}", "workload", "routing"))


def _chosen(inputs: Inputs) -> pl.DataFrame:
    """Return the workloads with ep > 1 of the first comparison with most values of ep.

    Without a comparison they are the first workload with ep > 1, if there is one.
    """
    spread = inputs.workloads.filter((pl.col("kind") == "moe") & (pl.col("ep") > 1))
    scaling = ep_scaling(inputs)
    if scaling.is_empty():
        return spread.head(1)
    size = pl.len().over("comparison")
    longest = scaling.filter(size == size.max()).filter(pl.col("comparison") == pl.col("comparison").first())
    return longest.select("workload").join(spread, on="workload", maintain_order="left")


def _routings() -> pl.DataFrame:
    given = [(alpha, capacity) for capacity in (None, CAPACITY) for alpha in ALPHAS]
    rows = [("balanced", 0.0, None)] + [
        (Routing("zipf", alpha, SEED, capacity=capacity).text, alpha, capacity and float(capacity))
        for alpha, capacity in given
    ]
    schema = {"routing": pl.String, "alpha": pl.Float64, "capacity_factor": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")
