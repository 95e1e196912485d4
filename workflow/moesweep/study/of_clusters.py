"""What rules read of a workload's cluster, as columns beside those of the workload."""

import math
from collections.abc import Mapping

import polars as pl

from moesweep.study.fp8_rules import FP8_RATES

OF_CLUSTERS = (*FP8_RATES, "host_bytes")
"""Constants that rules read: rates of fp8, and what a node has of host memory for each of its GPUs."""


def with_constants_of_rules(
    workloads: pl.DataFrame, clusters: Mapping[str, Mapping[str, float]]
) -> pl.DataFrame:
    """Return workloads with OF_CLUSTERS of their `cluster`, or the only one; unlimited where none is known.

    `clusters` are their constants by name.
    """

    def constant(name: str) -> pl.Expr:
        """Return a constant of each workload's own cluster; of none that is known, any."""
        values = {cluster: constants[name] for cluster, constants in clusters.items()}
        if "cluster" not in workloads.columns:
            return pl.lit(next(iter(values.values()), math.inf))
        named = pl.col("cluster").cast(pl.String)
        return named.replace_strict(values, default=math.inf, return_dtype=pl.Float64)

    return workloads.with_columns(constant(name).alias(name) for name in OF_CLUSTERS)
