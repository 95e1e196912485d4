"""The cost stage's files: trace tables and a cluster in, costed programs and results/costs.parquet out."""

from collections.abc import Mapping

import polars as pl

from moesweep.cost.fold import fold, layers_of, unfold
from moesweep.cost.model import cost, with_constants
from moesweep.cost.skewed_ranks import fullest_ranks
from moesweep.cost.uncertainty import changes
from moesweep.evaluate.costs import moved_seconds
from moesweep.store.layout import Results
from moesweep.store.parts import write_index
from moesweep.store.provenance import facts
from moesweep.store.tablefile import read_table, write_table
from moesweep.study.catalog import Cluster
from moesweep.study.routing import given

BATCH_WORKLOADS = 128
"""Workloads costed at a time: enough for columns to pay, few enough for memory not to grow with the sweep."""


def write_costs(results: Results, cluster: Cluster) -> None:
    """Cost every workload of the catalogue on one cluster.

    Every file's metadata name the cluster, and those of a costed program its workload; those of
    results/costs.parquet also say what it was made from. The index of the costed programs is written last.
    """
    named = {"cluster": cluster.name}
    listed = read_table(results.workloads, "workloads")
    workloads = with_constants(listed, cluster.values)
    costs = pl.concat(_write_ops(results, each, named) for each in workloads.iter_slices(BATCH_WORKLOADS))
    moved = moved_seconds(listed, [cluster], lambda row: _routed(results, row["workload"]))
    write_table(changes(costs, moved), results.sensitivity, "sensitivity", named)
    write_table(costs, results.costs, "costs", facts(cluster.name, cluster.constants))
    write_index(results.index("cost"), results, map(results.cost_ops, workloads["workload"]))


def _write_ops(results: Results, workloads: pl.DataFrame, named: Mapping[str, str]) -> pl.DataFrame:
    """Write the costed programs of some workloads; return their costs."""
    programs = pl.concat(
        read_table(results.trace("programs", id_), "programs").select(pl.lit(id_).alias("workload"), pl.all())
        for id_ in workloads["workload"]
    )
    layers = layers_of(programs, workloads)
    costs = cost(fold(programs), workloads, _fullest(results, workloads, programs), layers)
    unfolded = unfold(programs, costs.ops).partition_by("workload", as_dict=True, maintain_order=True)
    for (id_,), frame in unfolded.items():
        own = dict(named) | {"workload": str(id_)}
        write_table(frame, results.cost_ops(str(id_)), "cost_ops", own)
    return costs.workloads


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
