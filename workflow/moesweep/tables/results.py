"""What every table is made from, read once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from moesweep.edge.problems import BadInput, Problem
from moesweep.evaluate.files import constants_but_prices
from moesweep.evaluate.recost import recosted
from moesweep.store.layout import Results
from moesweep.store.memo import MADE_FROM, Memo, made_at_once, remade
from moesweep.store.parts import made_from
from moesweep.store.tablefile import (
    collected,
    facts_of,
    read_costed,
    read_of_all,
    read_table,
    read_types,
    scan_table,
)
from moesweep.study.catalog import Cluster, load_cluster
from moesweep.study.claims import Claim, read_claims
from moesweep.study.routing import given
from moesweep.study.workload import description
from moesweep.traffic.files import read_links

LAYOUT = ("model", "world_size", "tp", "pp", "cp", "ep", "etp", "dp", "edp")
"""Columns that say how a workload is spread over GPUs; dp is Megatron's, edp the copies of each expert."""

BATCH = ("global_batch_size", "micro_batch_size", "seq_length", "num_microbatches")

COMMUNICATION = ("workload", "phase", "op", "collective", "group_kind", "group_size")
"""What tells communication ops apart."""

_SAME = ("workload", "stage", "phase", "op", "collective", "group_kind", "group_size")
_QUANTITIES = ("flops", "comm_bytes", "wire_bytes", "num_microbatches")


@dataclass(frozen=True)
class Inputs:
    """The frames behind the tables.

    results     the folder of the results
    workloads   results/workloads.parquet
    validation  results/validation.parquet
    costs       results/costs.parquet
    ops         the costed programs, rows that differ only in their layer folded into one: `layers` of them
    links       results/traffic/links.parquet
    cluster     the cluster that the costs are for
    sent        what the ranks of workloads with a given routing move in all, by op; None if there are none
    claims      what the sweep claims of expert parallelism
    memory_bytes  what a GPU is asked to have (recompute_options); None is the cluster's
    """

    results: Results
    workloads: pl.DataFrame
    validation: pl.DataFrame
    costs: pl.DataFrame
    ops: pl.DataFrame
    links: pl.DataFrame
    cluster: Cluster
    sent: pl.DataFrame | None = None
    claims: tuple[Claim, ...] = ()
    memory_bytes: float | None = None

    def recosted(self, workloads: pl.DataFrame, table: str) -> pl.DataFrame:
        """Return the cost columns but money, and expert loads, of workloads on the cluster, in their order.

        What `table` had costed before is not costed again, unless it has moved.
        """
        (found,) = remade([self._memo(table)], self._wanted(workloads), self._recosted)
        return found

    def recost_at_once(self, asked: Mapping[str, pl.DataFrame]) -> None:
        """Cost at once what several tables are going to have recosted: that takes little longer than one."""
        wanted = [(self._memo(table), self._wanted(workloads)) for table, workloads in asked.items()]
        made_at_once(wanted, self._recosted)

    def _memo(self, table: str) -> Memo:
        return Memo(self.results, "tables", table)

    def _wanted(self, workloads: pl.DataFrame) -> pl.DataFrame:
        constants = constants_but_prices(self.cluster)
        digests = [
            made_from("tables", description(row), constants) for row in workloads.iter_rows(named=True)
        ]
        return workloads.with_columns(pl.Series(MADE_FROM, digests, dtype=pl.String))

    def _recosted(self, wanted: pl.DataFrame) -> list[pl.DataFrame]:
        costs = recosted(wanted.drop(MADE_FROM), self.cluster).drop("usd_per_billion_tokens")
        digests = wanted.select("workload", MADE_FROM)
        return [digests.join(costs, on="workload", maintain_order="left")]


def read_inputs(results: Results) -> Inputs:
    """Read what the stages before have written; raise BadInput if a file is missing or of another version."""
    workloads, costs = read_costed(results.workloads, results.costs)
    cluster = load_cluster(Path.cwd(), _cluster_name(results))
    return Inputs(
        results,
        workloads,
        read_table(results.validation, "validation"),
        costs,
        _distinct_ops(results, workloads["workload"]),
        read_links(results, int(cluster.value("gpus_per_node"))),
        cluster,
        _sent(results, workloads.filter(given)["workload"].to_list()),
        read_claims(results.workloads),
    )


def _cluster_name(results: Results) -> str:
    name = facts_of(results.costs).get("moesweep.cluster")
    if name is None:
        message = "does not say which cluster it is for"
        raise BadInput([Problem(str(results.costs), "", "cluster", "", message, "run make sweep")])
    return name


def _distinct_ops(results: Results, listed: pl.Series) -> pl.DataFrame:
    ops = read_of_all(results.distinct_ops, "distinct_ops", listed)
    same = ops.group_by(*_SAME, "kind", *_QUANTITIES, maintain_order=True)
    return same.agg(pl.col("seconds").first(), pl.col("layers").sum())


def _sent(results: Results, ids: list[str]) -> pl.DataFrame | None:
    """Return `all_comm_bytes` and `all_wire_bytes` of each op of one iteration, summed over all ranks.

    Programs show the fullest rank of a stage; the traces of the ranks show them all.
    """
    once = pl.col("comm_bytes", "wire_bytes").cast(pl.Int128) * pl.col("num_microbatches")
    key = [pl.col(name).cast(read_types("cost_ops")[name]) for name in COMMUNICATION[1:]]
    frames = []
    for id_ in ids:
        path = results.trace("ops", id_)
        sent = (
            scan_table(path, "ops")
            .filter(pl.col("collective").is_not_null())
            .group_by(key)
            .agg(once.sum().name.prefix("all_"))
            .select(pl.lit(id_).alias("workload"), pl.all())
        )
        frames.append(collected(sent, path, "ops"))
    return pl.concat(frames) if frames else None


def per_iteration(quantity: pl.Expr) -> pl.Expr:
    """Return a quantity of one execution as its sum over one rank's iteration, in 128 bits: no sum wraps."""
    return quantity.cast(pl.Int128) * pl.col("num_microbatches") * pl.col("layers")


def seconds_per_iteration() -> pl.Expr:
    """Return the seconds of one rank of a row's stage in it; a send is waited for where it arrives."""
    waited = pl.when(pl.col("collective").eq_missing("send")).then(0.0).otherwise(pl.col("seconds"))
    return waited * pl.col("num_microbatches") * pl.col("layers")
