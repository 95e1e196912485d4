"""Workloads with what their cluster's network makes of each kind of communication: once for each layout.

The costs read a column `<kind>_slowdown` where there is one, and 1 where there is none
(moesweep.cost.collectives): a network that blocks nothing adds no column and changes no number.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.problems import BadInput, Problem, collect
from moesweep.network.build import Rates, topology
from moesweep.network.slowdown import layout_slowdowns
from moesweep.network.topology import Topology
from moesweep.network.unit import LAYOUT
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.study.networks import Network

CONSTANTS = ("gpus_per_node", "nic_bytes_per_second", "node_link_bytes_per_second")
"""The constants of a cluster that a network's slowdowns follow from."""


def built(network: Network, constants: Mapping[str, float], world_size: int, root: Path = Path()) -> Topology:
    """Return a cluster's network as it is built for so many GPUs. Raises BadInput where it does not fit."""
    node, nic, nvlink = (constants[name] for name in CONSTANTS)
    return topology(network, world_size, int(node), Rates(nic, nvlink), root)


def slowed(
    workloads: pl.DataFrame, network: Network, constants: Mapping[str, float], root: Path = Path()
) -> pl.DataFrame:
    """Return workloads with a column `<kind>_slowdown` for each kind that the network slows in any of them.

    Raises BadInput with everything that keeps the network from holding the workloads.
    """
    if not network.blocks or workloads.is_empty():
        return workloads
    layouts = workloads.select(LAYOUT).unique(maintain_order=True)
    problems: list[Problem] = []
    sizes = layouts["world_size"].unique().sort().to_list()
    networks = {size: collect(problems, built, network, constants, size, root) for size in sizes}
    if problems:
        raise BadInput(_once(problems))
    rows = []
    for layout in layouts.iter_rows(named=True):
        found = layout_slowdowns(networks[layout["world_size"]], layout)  # type: ignore[arg-type]
        slower = found.filter(pl.col("slowdown") > 1).select("group_kind", "slowdown")
        rows.append({f"{kind}_slowdown": value for kind, value in slower.iter_rows()})
    names = [
        name for name in (f"{kind}_slowdown" for kind in GROUP_KINDS) if any(name in row for row in rows)
    ]
    columns = [pl.Series(name, [row.get(name, 1.0) for row in rows], dtype=pl.Float64) for name in names]
    return workloads.join(layouts.with_columns(columns), on=LAYOUT, how="left", maintain_order="left")


def busiest_link(
    network: Network, constants: Mapping[str, float], layout: Mapping[str, Any], kind: str
) -> str:
    """Return the class and the ends of the link that a kind waits for; of equally busy ones the first."""
    found = built(network, constants, layout["world_size"])
    worst = layout_slowdowns(found, layout).filter(group_kind=kind)["worst_bundle"].item()
    row = found.links.filter(bundle=worst).row(0, named=True)
    return f"{row['class']} link {row['source']} -> {row['target']}"


def _once(problems: Sequence[Problem]) -> list[Problem]:
    """Return problems without those that were told before: worlds of several sizes share most of them."""
    return list(dict.fromkeys(problems))
