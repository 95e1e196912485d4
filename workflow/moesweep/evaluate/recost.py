"""Workloads that a sweep does not have, costed in memory on the sweep's own code path: programs, costs."""

from pathlib import Path

import polars as pl

from moesweep.cost.fold import fold
from moesweep.cost.model import cost, with_constants
from moesweep.cost.skewed_ranks import fullest_ranks
from moesweep.study.catalog import Cluster
from moesweep.study.routing import given
from moesweep.trace.balanced import routing
from moesweep.trace.programs import folded
from moesweep.trace.skewed_copies import given_routing
from moesweep.trace.skewed_programs import busiest, rank_programs

EVEN_AT_ONCE, AT_ONCE = 512, 16
"""Workloads in memory together, without and with given routing: that has a program a stage and ep rank."""


def recosted(workloads: pl.DataFrame, cluster: Cluster, root: Path = Path()) -> pl.DataFrame:
    """Return the cost columns of workloads and how their experts are loaded, in the same order.

    expert_load_ratio  tokens that the router sends to a layer's fullest expert, over the mean expert's
    rank_load_ratio    rows of a layer's fullest ep rank, over those of balanced routing
    dropped_share      dropped token copies of all
    All three are sums over the layers, null without experts; measured routing tables are read from `root`.
    """
    even, uneven = (
        with_constants(part, cluster.values) for part in (workloads.filter(~given), workloads.filter(given))
    )
    # Of nothing there is still an empty table.
    batches = [*even.iter_slices(EVEN_AT_ONCE)] or [even]
    costs = [cost(folded(part), part).workloads for part in batches]
    counts = [routing(even).with_columns(dropped=pl.lit(0, dtype=pl.Int64))]
    for part in uneven.iter_slices(AT_ONCE):
        programs, routed = busiest(rank_programs(part, root)), _given_counts(part, root)
        costs.append(cost(fold(programs), part, fullest_ranks(programs, routed)).workloads)
        counts.append(routed)
    loads = _loads(pl.concat(each.select(_COUNTS) for each in counts))
    return (
        workloads.select("workload")
        .join(pl.concat(costs), on="workload", maintain_order="left")
        .join(loads, on="workload", how="left", maintain_order="left")
    )


_COUNTS = ("workload", "layer", "ep_rank", "rows", "dropped")


def _given_counts(workloads: pl.DataFrame, root: Path) -> pl.DataFrame:
    return pl.concat(
        given_routing(row, root).with_columns(workload=pl.lit(row["workload"]))
        for row in workloads.iter_rows(named=True)
    )


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
