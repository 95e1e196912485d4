"""Workloads with what their cluster's network makes of each kind of communication: once for each layout.

The costs read a column `<kind>_slowdown` where there is one, and 1 where there is none
(moesweep.cost.collectives): a network that blocks nothing adds no column and changes no number.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from moesweep.edge.problems import BadInput, Problem, collect
from moesweep.network.flows import Flows
from moesweep.network.slowdown import measured, slowdowns
from moesweep.network.topology import Topology
from moesweep.network.unit import LAYOUT, pattern_flows, patterns, unit_flows
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.study.networks import Network

CONSTANTS = ("gpus_per_node", "nic_bytes_per_second", "node_link_bytes_per_second")
"""The constants of a cluster that a network's slowdowns follow from."""

CELLS = 1 << 19
"""Loads, keys times bundles, that are held at a time."""

Name = TypeVar("Name")
Thing = TypeVar("Thing", bound=Hashable)

Sited = tuple[Network, Mapping[str, float]]
"""A network, and the constants of the cluster that it joins."""


def built(network: Network, constants: Mapping[str, float], world_size: int, root: Path = Path()) -> Topology:
    """Return a cluster's network as it is built for so many GPUs. Raises BadInput where it does not fit."""
    # Whatever costs imports this module, few clusters name a network, and sparse matrices load slowly.
    from moesweep.network.build import Rates, topology

    node, nic, nvlink = (constants[name] for name in CONSTANTS)
    return topology(network, world_size, int(node), Rates(nic, nvlink), root)


def built_for(
    sizes: pl.Series, networks: Mapping[str, Sited], root: Path = Path()
) -> dict[tuple[str, int], Topology]:
    """Return networks as built for worlds of some sizes. Raises BadInput with all that do not fit."""
    problems: list[Problem] = []
    found = {
        (name, size): collect(problems, built, *sited, size, root)
        for name, sited in networks.items()
        for size in sizes.unique().sort()
    }
    if problems:
        # Worlds of several sizes share most of them.
        raise BadInput(dict.fromkeys(problems))
    return {key: each for key, each in found.items() if each is not None}


def of_layouts(
    layouts: pl.DataFrame, topologies: Mapping[tuple[str, int], Topology], order: str | None = None
) -> pl.DataFrame:
    """Return what networks do to each kind of each layout: once for each pattern (network/unit.py).

    layouts     the columns LAYOUT and `layout`, a number
    topologies  networks by name, as built for each world: a layout is put on those of its own

    One row per layout, network and kind: layout, network, group_kind, and as `measured`.
    """
    frames = []
    for world, own in by_world(layouts):
        rows, found = told_apart(
            ((row["layout"], kind), pattern)
            for row in own.iter_rows(named=True)
            for kind, pattern in patterns(row, order).items()
        )
        of_kinds = pl.DataFrame(
            [(*names, key) for names, key in rows],
            {"layout": pl.Int64, "group_kind": pl.String, "key": pl.Int64},
            orient="row",
        )
        networks = {name: built for (name, size), built in topologies.items() if size == world}
        islands = {built.island for built in networks.values()}
        flows = {island: pattern_flows(found, island) for island in islands}
        for name, built in networks.items():
            on_it = pl.concat(
                measured(built, some).with_columns(pl.col("key") + first)
                for first, some in in_parts(built, flows[built.island])
            )
            carried = of_kinds.join(on_it, on="key", maintain_order="left")
            frames.append(
                carried.select("layout", pl.lit(name).alias("network"), pl.exclude("layout", "key"))
            )
    return pl.concat(frames)


def by_world(layouts: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield layouts by the size of their world."""
    for (size,), own in layouts.group_by("world_size", maintain_order=True):
        yield int(size), own


def told_apart(named: Iterable[tuple[Name, Thing]]) -> tuple[list[tuple[Name, int]], list[Thing]]:
    """Return the names of things with the number of each, and the distinct things."""
    numbers: dict[Thing, int] = {}
    rows = [(name, numbers.setdefault(thing, len(numbers))) for name, thing in named]
    return rows, list(numbers)


def in_parts(built: Topology, flows: Flows) -> Iterator[tuple[int, Flows]]:
    """Yield flows of so many keys at a time that their loads find room, and the first of these keys."""
    at_once = max(CELLS // len(built.bundles), 1)
    if at_once >= flows.keys:
        yield 0, flows
        return
    for first in range(0, flows.keys, at_once):
        keys = min(at_once, flows.keys - first)
        own = flows.of((flows.key >= first) & (flows.key < first + keys))
        yield first, Flows(keys, own.key - first, own.source, own.target, own.bytes)


def slowed(
    workloads: pl.DataFrame, network: Network, constants: Mapping[str, float], root: Path = Path()
) -> pl.DataFrame:
    """Return workloads with a column `<kind>_slowdown` for each kind that the network slows in any of them.

    Raises BadInput with everything that keeps the network from holding the workloads.
    """
    if not network.blocks or workloads.is_empty():
        return workloads
    layouts = workloads.select(LAYOUT).unique(maintain_order=True)
    topologies = built_for(layouts["world_size"], {network.name: (network, constants)}, root)
    numbered = layouts.with_row_index("layout")
    return with_slowdowns(workloads, numbered, of_layouts(numbered, topologies))


def with_slowdowns(workloads: pl.DataFrame, layouts: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """Return workloads with the columns of `slowed`; `found` has layout (a number of theirs), group_kind."""
    slower = found.filter(pl.col("slowdown") > 1)
    kinds = [kind for kind in GROUP_KINDS if kind in set(slower["group_kind"])]
    of_kinds = layouts.with_columns(pl.col("layout").cast(pl.Int64))
    for kind in kinds:
        own = slower.filter(group_kind=kind).select(
            pl.col("layout").cast(pl.Int64), pl.col("slowdown").alias(f"{kind}_slowdown")
        )
        of_kinds = of_kinds.join(own, on="layout", how="left", maintain_order="left")
    filled = of_kinds.drop("layout").with_columns(pl.col(f"{kind}_slowdown").fill_null(1.0) for kind in kinds)
    return workloads.join(filled, on=LAYOUT, how="left", maintain_order="left")


def busiest_link(
    network: Network, constants: Mapping[str, float], layout: Mapping[str, Any], kind: str
) -> str:
    """Return the class and the ends of the link that a kind waits for; of equally busy ones the first."""
    found = built(network, constants, layout["world_size"])
    flows = unit_flows(layout, found.island)
    worst = slowdowns(found, flows).filter(group_kind=kind)["worst_bundle"].item()
    row = found.links.filter(bundle=worst).row(0, named=True)
    return f"{row['class']} link {row['source']} -> {row['target']}"
