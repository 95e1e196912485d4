"""Workloads that a sweep does not have, costed, and how their experts are loaded."""

from pathlib import Path

import polars as pl

from moesweep.evaluate.costs import costed_on
from moesweep.study.catalog import Cluster
from moesweep.study.routing import given
from moesweep.trace.balanced import routing
from moesweep.trace.skewed_copies import by_tables_in, given_routing


def recosted(workloads: pl.DataFrame, cluster: Cluster, root: Path = Path()) -> pl.DataFrame:
    """Return the cost columns of workloads and how their experts are loaded, in the same order.

    expert_load_ratio  tokens that the router sends to a layer's fullest expert, over the mean expert's
    rank_load_ratio    rows of a layer's fullest ep rank, over those of balanced routing
    dropped_share      dropped token copies of all
    All three are sums over the layers, null without experts; measured routing tables are read from `root`.
    """
    even = routing(workloads.filter(~given)).with_columns(dropped=pl.lit(0, dtype=pl.Int64))
    counts = [even, *(_given_counts(row, root) for row in workloads.filter(given).iter_slices(1))]
    loads = _loads(pl.concat(each.select(_COUNTS) for each in counts))
    found = costed_on(workloads, [cluster], by_tables_in(root))
    return found.join(loads, on="workload", how="left", maintain_order="left")


_COUNTS = ("workload", "layer", "ep_rank", "rows", "dropped")


def _given_counts(workload: pl.DataFrame, root: Path) -> pl.DataFrame:
    row = workload.row(0, named=True)
    return given_routing(row, root).with_columns(workload=pl.lit(row["workload"]))


def _loads(counts: pl.DataFrame) -> pl.DataFrame:
    """Return the loads of `recosted`, as quotients of whole numbers: every layer routes as many copies."""
    routed = pl.col("rows") + pl.col("dropped")
    return (
        counts.group_by("workload", "layer", "ep_rank")
        .agg(pl.col("rows", "dropped").sum(), most=routed.max(), experts=pl.len(), routed=routed.sum())
        .group_by("workload", "layer")
        .agg(
            pl.col("rows", "most").max(),
            pl.col("experts", "routed", "dropped").sum(),
            ranks=pl.len(),
        )
        .group_by("workload")
        .agg(
            expert_load_ratio=pl.col("most").sum() * pl.col("experts").first() / pl.col("routed").sum(),
            rank_load_ratio=pl.col("rows").sum() * pl.col("ranks").first() / pl.col("routed").sum(),
            dropped_share=pl.col("dropped").sum() / pl.col("routed").sum(),
        )
    )
