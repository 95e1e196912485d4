"""Costs of any workloads on any clusters: the door to the factored form, and clusters as columns."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from moesweep.cost.model import with_constants
from moesweep.cost.uncertainty import UNCERTAIN, farther_ends
from moesweep.edge.problems import BadInput, Problem, collect
from moesweep.evaluate.batch import Batch
from moesweep.evaluate.factored import costs, seconds
from moesweep.evaluate.skewed_batch import SkewedBatch
from moesweep.network.slowed import slowed
from moesweep.store.tablefile import dictionary, dtypes
from moesweep.store.values import check_values
from moesweep.study.catalog import Cluster
from moesweep.study.routing import given
from moesweep.trace.skewed_copies import Routed, by_tables_in

HERE = by_tables_in(Path())
"""Routing by the measured tables of the project that the command runs in."""

AT_ONCE, SKEWED_AT_ONCE = 1 << 20, 1 << 10
"""Workloads evaluated together, without and with given routing: that tells every layer apart."""


def constants_frame(clusters: Iterable[Cluster]) -> pl.DataFrame:
    """Return one row a cluster: its name in `cluster`, and one column a constant, in base units."""
    return pl.DataFrame([{"cluster": cluster.name} | cluster.values for cluster in clusters])


def on_networks(workloads: pl.DataFrame, clusters: Sequence[Cluster]) -> pl.DataFrame:
    """Return workloads with what their clusters' networks slow down (`slowed`), in their order.

    Workloads name their cluster in `cluster`, unless there is but one. Raises BadInput where they do not fit.
    """
    if not any(cluster.network.blocks for cluster in clusters):
        return workloads
    numbered, problems = workloads.with_row_index("at"), list[Problem]()
    parts = [
        collect(problems, slowed, _of(numbered, cluster), cluster.network, cluster.values)
        for cluster in clusters
    ]
    if problems:
        raise BadInput(problems)
    found = pl.concat((part for part in parts if part is not None), how="diagonal").sort("at").drop("at")
    return found.with_columns(pl.col(found.columns[workloads.width :]).fill_null(1.0))


def _of(workloads: pl.DataFrame, cluster: Cluster) -> pl.DataFrame:
    return workloads.filter(cluster=cluster.name) if "cluster" in workloads.columns else workloads


def on_cluster(workloads: pl.DataFrame, cluster: Cluster) -> pl.DataFrame:
    """Return workloads with all that the row form (moesweep.cost.model) reads of one cluster."""
    return with_constants(on_networks(workloads, [cluster]), cluster.values)


def costed_on(workloads: pl.DataFrame, clusters: Sequence[Cluster], routed: Routed = HERE) -> pl.DataFrame:
    """Return `workload` and the cost columns of workloads on their clusters and networks (`costed`)."""
    return costed(on_networks(workloads, clusters), constants_frame(clusters), routed)


def costed(workloads: pl.DataFrame, constants: pl.DataFrame, routed: Routed = HERE) -> pl.DataFrame:
    """Return `workload` and the cost columns of workloads, in their order.

    constants   one row a cluster; workloads name theirs in `cluster`, unless there is but one
    routed      how workloads are routed whose routing is given: as their measured tables say, where the
                command runs, which raises BadInput if one cannot be read or has changed

    Raises BadInput for a workload whose costs are no numbers with sense.
    """
    found = _each(workloads, constants, routed, costs, dtypes("costs"))
    check_values(found, dictionary("costs"), "costs")
    return found


def seconds_of(workloads: pl.DataFrame, constants: pl.DataFrame, routed: Routed = HERE) -> pl.Series:
    """Return the seconds of workloads' iterations alone, in their order: `iteration_seconds` of `costed`."""
    return parts_of(workloads, constants, ["iteration_seconds"], routed).to_series()


def parts_of(
    workloads: pl.DataFrame, constants: pl.DataFrame, names: Sequence[str], routed: Routed = HERE
) -> pl.DataFrame:
    """Return some of the seconds of workloads' iterations, in their order: columns of `costed`."""

    def timed(batch: Batch) -> pl.DataFrame:
        return seconds(batch).select(names)

    return _each(workloads, constants, routed, timed, dict.fromkeys(names, pl.Float64()))


def moved_seconds(
    workloads: pl.DataFrame, clusters: Sequence[Cluster], routed: Routed = HERE
) -> pl.DataFrame:
    """Return `workload` and, by constant, the iteration's seconds with that one at its farther end alone."""
    constants = constants_frame(clusters)
    ends = pl.DataFrame([farther_ends(cluster.constants) for cluster in clusters])
    # Every constant moved is a cluster of its own: what does not read it is evaluated once for all of them.
    every = [
        constants.with_columns(ends[name], cluster=pl.format(f"{name} {{}}", "cluster")) for name in UNCERTAIN
    ]
    slower = on_networks(workloads, clusters)
    on = pl.col("cluster") if "cluster" in slower.columns else pl.lit(clusters[0].name)
    asked = [slower.with_columns(cluster=pl.format(f"{name} {{}}", on)) for name in UNCERTAIN]
    found = seconds_of(pl.concat(asked), pl.concat(every), routed)
    return slower.select(
        "workload",
        **{name: found.slice(i * slower.height, slower.height) for i, name in enumerate(UNCERTAIN)},
    )


def _each(
    workloads: pl.DataFrame,
    constants: pl.DataFrame,
    routed: Routed,
    what: Callable[[Batch], pl.DataFrame],
    schema: Mapping[str, pl.DataType],
) -> pl.DataFrame:
    """Return what is asked of batches of workloads, in the workloads' order; of none an empty frame."""
    numbered = workloads.with_row_index("at")
    parts = [
        what(batch).with_columns(at=at)
        for frame, skewed in ((numbered.filter(~given), False), (numbered.filter(given), True))
        for some in frame.iter_slices(SKEWED_AT_ONCE if skewed else AT_ONCE)
        for at, batch in [(some["at"], batch_of(some.drop("at"), constants, routed if skewed else None))]
    ]
    if not parts:
        return pl.DataFrame(schema=schema)
    return pl.concat(parts).sort("at").drop("at")


def batch_of(workloads: pl.DataFrame, constants: pl.DataFrame, routed: Routed | None = None) -> Batch:
    """Return workloads as one batch; `routed` as for `costed`, None where no routing is given."""
    values = constants.drop("cluster", strict=False)
    if "cluster" in workloads.columns:
        rows = {name: row for row, name in enumerate(constants["cluster"])}
        cluster = workloads["cluster"].replace_strict(rows, return_dtype=pl.Int64).to_numpy()
    else:
        cluster = np.zeros(workloads.height, dtype=np.int64)
    if routed is None:
        return Batch(workloads, values, cluster)
    return SkewedBatch(workloads, values, cluster, routed)
