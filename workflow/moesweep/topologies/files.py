"""The network stage's file: the catalogue's workloads in, results/network/topologies.parquet out.

A workload is compared again if its row of the catalogue, a constant, a network, a price of parts or code has
moved; how much the networks slow its layout is found again only if a network or what it links has.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from moesweep.edge.problems import Problem
from moesweep.evaluate.files import constants_but_prices
from moesweep.network.slowed import CONSTANTS
from moesweep.network.unit import LAYOUT
from moesweep.store.layout import Results
from moesweep.store.memo import MADE_FROM, Memo, remade
from moesweep.store.parts import made_from
from moesweep.store.tablefile import conform, read_table, write_table
from moesweep.study.catalog import Cluster
from moesweep.study.networks import load_parts
from moesweep.study.workload import description
from moesweep.topologies.chosen import catalogue_networks
from moesweep.topologies.compared import Compared, compared_where_they_fit, topologies


def read_of(cluster: Cluster, root: Path = Path()) -> str:
    """Return what the stage reads besides the catalogue of workloads, as text. Raises BadInput."""
    networks = [each.numbers(root) for each in catalogue_networks(root, cluster)]
    return json.dumps([constants_but_prices(cluster), networks, _prices(root)], default=str)


def write_topologies(results: Results, cluster: Cluster, root: Path = Path()) -> Sequence[Problem]:
    """Write the table of every workload on every network of the catalogue that holds it.

    Returns why networks are left out, of some worlds or of all. Raises BadInput on unusable inputs.
    """
    prices, read = _prices(root), read_of(cluster, root)
    clusters = [cluster.on(each) for each in catalogue_networks(root, cluster)]
    listed = read_table(results.workloads, "workloads")
    digests = [made_from("network", read, description(row)) for row in listed.iter_rows(named=True)]
    wanted = listed.with_columns(pl.Series(MADE_FROM, digests, dtype=pl.String))
    # Not those of kept rows alone: whoever runs the stage is told each time.
    found, left_out = compared_where_they_fit(listed, clusters, root)

    def made(some: pl.DataFrame) -> list[pl.DataFrame]:
        each = found.of(some.drop(MADE_FROM))
        slower = _slowdowns(results, found, root).join(each.layouts, on=LAYOUT, maintain_order="left")
        table = conform(topologies(each, slower, prices).lazy(), "topologies").collect()
        return [table.join(some.select("workload", MADE_FROM), on="workload", maintain_order="left")]

    (rows,) = remade([Memo(results, "network", "topologies")], wanted, made)
    write_table(rows, results.topologies, "topologies", {"cluster": cluster.name})
    return left_out


def _slowdowns(results: Results, found: Compared, root: Path) -> pl.DataFrame:
    """Return `Compared.slowdowns` of all layouts, with LAYOUT for their number, made where they moved."""
    sited = [
        [each.network.numbers(root), *(each.value(name) for name in CONSTANTS)]
        for each in found.clusters.values()
    ]
    read, layouts = json.dumps(sited, default=str), found.layouts.select(LAYOUT)
    digests = [made_from("network", read, json.dumps(row)) for row in layouts.iter_rows(named=True)]
    wanted = layouts.with_columns(pl.Series(MADE_FROM, digests, dtype=pl.String))

    def made(some: pl.DataFrame) -> list[pl.DataFrame]:
        numbered = some.with_row_index("layout")
        own = numbered.select(pl.col("layout").cast(pl.Int64), *LAYOUT, MADE_FROM)
        slower = found.slowdowns(numbered.drop(MADE_FROM))
        return [own.join(slower, on="layout", maintain_order="left_right").drop("layout")]

    return remade([Memo(results, "network", "slowdowns")], wanted, made)[0]


def _prices(root: Path) -> dict[str, float]:
    return {name: part.value for name, part in load_parts(root).items()}
