"""Costed programs where routing is given: what each expert-parallel rank runs, and how long by itself.

The costs let everybody wait for the fullest rank, op by op. A rank's own kernels and etp collectives take
what its own rows take, never longer than the fullest rank's; the members of an exchange end together.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import polars as pl

from moesweep.cost.model import OF_THE_WORKLOAD
from moesweep.cost.ops import timed
from moesweep.evaluate.costs import on_cluster
from moesweep.store.tablefile import as_read
from moesweep.study.catalog import Cluster

if TYPE_CHECKING:
    from moesweep.export.source import Traced

_TIMES = ("seconds", "bound")


def own_costs(
    each: pl.DataFrame, program: pl.DataFrame, workload: pl.DataFrame, cluster: Cluster
) -> pl.DataFrame:
    """Return the programs of a workload's ep ranks, costed: `ep_rank` and the columns of cost_ops.

    `each` are its `rank_programs`, `program` is the costed one that everybody waits for.
    """
    described = on_cluster(workload, cluster).rename(OF_THE_WORKLOAD)
    own = timed(each, described).select(_TIMES)
    theirs = each.join(
        program.select("stage", "op_index", pl.col(_TIMES).name.prefix("common_")),
        on=["stage", "op_index"],
        maintain_order="left",
    )
    exchanged = pl.col("collective").eq_missing(pl.lit("all_to_all")) & (pl.col("group_kind") == "ep")
    # A product without rows still passes over its weights.
    idle = (pl.col("kind") == "grouped_gemm") & (pl.col("flops") == 0) & (pl.col("bound") == "compute")
    costed = (
        theirs.hstack(own)
        .with_columns(
            # Fewer rows can take longer by the last digit of a float.
            seconds=pl.min_horizontal("seconds", "common_seconds"),
            bound=pl.when(idle).then(pl.lit("memory")).otherwise("bound"),
        )
        .with_columns(
            pl.when(exchanged).then(f"common_{name}").otherwise(name).alias(name) for name in _TIMES
        )
    )
    return costed.select("ep_rank").hstack(as_read(costed, "cost_ops"))


def alike(traced: "Traced", members: pl.DataFrame) -> Iterable[tuple["Traced", pl.DataFrame]]:
    """Yield ranks that run the same programs, with what they run: by ep rank where routing is given."""
    if traced.each is None:
        yield traced, members
        return
    for part in members.partition_by("ep_rank", maintain_order=True):
        yield traced.of(part["ep_rank"][0]), part
