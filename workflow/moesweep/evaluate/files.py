"""The cost stage's files: trace tables and a cluster in, costed programs and results/costs.parquet out.

A workload is costed again if its trace, its row of the catalogue, a constant or code has moved. A price moves
columns of money alone, which are computed last.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import polars as pl

from moesweep.cost.fold import fold, layers_of, unfold, with_layer_kind
from moesweep.cost.model import cost, price
from moesweep.cost.skewed_ranks import fullest_ranks
from moesweep.cost.uncertainty import UNCERTAIN, changes
from moesweep.evaluate.costs import moved_seconds, on_cluster
from moesweep.store.layout import Results
from moesweep.store.memo import MADE_FROM, Memo, remade
from moesweep.store.of_each import check_each, read_of_each
from moesweep.store.parts import content_of, is_current, made_from, write_index
from moesweep.store.provenance import facts
from moesweep.store.tablefile import conform, dictionary, dtypes, read_table, write_table
from moesweep.store.values import check_values
from moesweep.study.catalog import Cluster
from moesweep.study.routing import given
from moesweep.study.workload import description

BATCH_WORKLOADS = 128
"""Workloads costed at a time: enough for columns to pay, few enough for memory not to grow with the sweep."""

PRICES = ("usd_per_gpu_hour",)
"""The constants that only money is made from."""

MEMOS = ("costs", "distinct_ops")


def write_costs(results: Results, cluster: Cluster) -> None:
    """Cost every workload of the catalogue on one cluster.

    Every file's metadata name the cluster, and those of a costed program its workload; those of
    results/costs.parquet also say what it was made from. The index of the costed programs is written last.
    """
    named = {"cluster": cluster.name}
    listed = read_table(results.workloads, "workloads")
    wanted = listed.with_columns(pl.Series(MADE_FROM, _digests(results, listed, cluster), dtype=pl.String))
    costs, ops = remade(
        [Memo(results, "cost", name) for name in MEMOS],
        wanted,
        lambda some: _batches(results, some, cluster, named),
        lambda row: is_current(results.cost_ops(row["workload"]), row[MADE_FROM]),
    )
    moved = costs.select("workload", *UNCERTAIN)
    priced = costs.with_columns(pl.lit(cluster.value(name), pl.Float64).alias(name) for name in PRICES)
    costs = priced.with_columns(**price()).select(list(dtypes("costs")))
    write_table(ops, results.distinct_ops, "distinct_ops", named)
    write_table(changes(costs, moved), results.sensitivity, "sensitivity", named)
    told = facts(cluster.name, cluster.constants, asdict(cluster.network))
    write_table(costs, results.costs, "costs", told)
    write_index(results.index("cost"), results, map(results.cost_ops, listed["workload"]))


def _batches(
    results: Results, listed: pl.DataFrame, cluster: Cluster, named: Mapping[str, str]
) -> list[pl.DataFrame]:
    batches = [_batch(results, some, cluster, named) for some in listed.iter_slices(BATCH_WORKLOADS)]
    costs, ops = (pl.concat(frames) for frames in zip(*batches, strict=True))
    moved = moved_seconds(listed.drop(MADE_FROM), [cluster], lambda row: _routed(results, row["workload"]))
    return [costs.join(moved, on="workload", maintain_order="left"), ops]


def _batch(
    results: Results, listed: pl.DataFrame, cluster: Cluster, named: Mapping[str, str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Write costed programs of some workloads; return their costs and distinct ops."""
    workloads = on_cluster(listed.drop(MADE_FROM), cluster)
    traced = read_of_each({id_: results.trace("programs", id_) for id_ in listed["workload"]}, "programs")
    programs = with_layer_kind(traced)
    costs = cost(
        fold(programs), workloads, _fullest(results, workloads, traced), layers_of(programs, workloads)
    )
    # Before a part is written: what is refused leaves nothing behind.
    check_values(costs.workloads, dictionary("costs"), str(results.costs))
    rows = unfold(programs, costs.ops)
    check_each(rows, "cost_ops", results.cost_ops)
    unfolded = rows.partition_by("workload", as_dict=True, maintain_order=True)
    for id_, digest in listed.select("workload", MADE_FROM).iter_rows():
        own = dict(named) | {"workload": id_}
        write_table(unfolded[(id_,)].lazy(), results.cost_ops(id_), "cost_ops", own, digest)
    digests = listed.select("workload", MADE_FROM)
    return (
        digests.join(
            conform(costs.workloads.lazy(), "costs").collect(), on="workload", maintain_order="left"
        ),
        distinct_ops(rows).join(digests, on="workload", maintain_order="left"),
    )


def distinct_ops(unfolded: pl.DataFrame) -> pl.DataFrame:
    """Return costed programs with the rows of a workload that differ only in their layer as one: `layers`."""
    own = [name for name in dtypes("distinct_ops") if name != "layers"]
    rows = unfolded.group_by(own, maintain_order=True).agg(layers=pl.len().cast(pl.Int64))
    return conform(rows.lazy(), "distinct_ops").collect()


def constants_but_prices(cluster: Cluster) -> str:
    """Return what costs other than money are made from of a cluster, as text: all but prices and sources."""
    constants = {
        name: (constant.value, constant.low, constant.high)
        for name, constant in sorted(cluster.constants.items())
        if name not in PRICES
    }
    # Whatever else a cluster has one day counts too.
    told = asdict(cluster) | {"constants": constants, "network": cluster.network.numbers()}
    return json.dumps(told, default=str)


def _digests(results: Results, listed: pl.DataFrame, cluster: Cluster) -> list[str]:
    """Return the digest of what each workload's costs are made from, in the order of the catalogue."""
    constants = constants_but_prices(cluster)

    def digest(row: Mapping[str, Any]) -> str:
        read = (content_of(results.trace(table, row["workload"])) for table in ("programs", "routing"))
        return made_from("cost", description(row), constants, *read)

    return [digest(row) for row in listed.iter_rows(named=True)]


def _fullest(results: Results, workloads: pl.DataFrame, programs: pl.DataFrame) -> pl.DataFrame | None:
    """Return the expert rows of the fullest ranks of workloads with a given routing, if there are any."""
    ids = workloads.filter(given)["workload"]
    if ids.is_empty():
        return None
    tables = (_routed(results, id_).select(pl.lit(id_).alias("workload"), pl.all()) for id_ in ids)
    return fullest_ranks(programs, pl.concat(tables))


def _routed(results: Results, workload: str) -> pl.DataFrame:
    """Return how a traced workload is routed: its own table says, whatever has become of a measured one."""
    return read_table(results.trace("routing", workload), "given_routing")
