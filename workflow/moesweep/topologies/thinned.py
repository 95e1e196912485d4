"""What oversubscription costs: the same networks with fewer and fewer links up from their leaves."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl

from moesweep.report.networks import slower
from moesweep.study.catalog import Cluster
from moesweep.study.networks import DEFAULT_NETWORK, NON_BLOCKING, Network
from moesweep.topologies.compared import Compared, compared_where_they_fit, topologies

RATIOS = (1, 2, 4, 8)
"""Links down over links up."""


def thinned(found: Compared, prices: Mapping[str, float], root: Path = Path()) -> pl.DataFrame:
    """Return `slower` for each of RATIOS, of the compared networks whose shape says an oversubscription.

    network, oversubscription, kind, median, most; networks that differ in nothing else are one. A ratio that
    a network cannot be built with, or that holds no workload, has no row.
    """
    alike: dict[str, Cluster] = {}
    for each in sorted(_thinnable(found), key=lambda cluster: cluster.network.shape["oversubscription"]):
        key = asdict(_thinned(each.network, 1, ""))
        alike.setdefault(json.dumps(key, default=str, sort_keys=True), each)
    rows = [pl.DataFrame(schema=_SCHEMA)]
    for each in alike.values():
        at = {f"{ratio}": each.on(_thinned(each.network, ratio, f"{ratio}")) for ratio in RATIOS}
        clusters = [each.on(NON_BLOCKING), *at.values()]
        on, _ = compared_where_they_fit(found.workloads, clusters, root)
        lengthened = slower(topologies(on, on.slowdowns(), prices)).filter(
            pl.col("network") != DEFAULT_NETWORK
        )
        own = lengthened.with_columns(
            pl.lit(each.network.name).alias("network"),
            oversubscription=pl.col("network").cast(pl.Int64),
        )
        rows.append(own.select(pl.col(column).cast(dtype) for column, dtype in _SCHEMA.items()))
    return pl.concat(rows)


_SCHEMA: dict[str, pl.DataType] = {
    **{"network": pl.String(), "oversubscription": pl.Int64(), "kind": pl.String()},
    **{"median": pl.Float64(), "most": pl.Float64()},
}


def _thinnable(found: Compared) -> list[Cluster]:
    return [each for each in found.clusters.values() if "oversubscription" in each.network.shape]


def _thinned(network: Network, ratio: int, name: str) -> Network:
    shape = {**network.shape, "oversubscription": ratio}
    return replace(network, name=name, shape=shape, file="", description="")
