"""Workloads on several networks: slowdowns by kind and placement, iterations, parts and prices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from moesweep.evaluate.costs import constants_frame, costed
from moesweep.network.order import RANK_ORDER
from moesweep.network.slowed import built_for, by_layout, with_slowdowns
from moesweep.network.topology import Topology
from moesweep.network.unit import LAYOUT
from moesweep.shapes.communication import EXPERT_KINDS
from moesweep.study.catalog import Cluster


@dataclass(frozen=True)
class Compared:
    """Workloads, and a cluster on several networks.

    clusters    by the network's name
    topologies  each network as it is built for the world of a workload, by name and size
    """

    workloads: pl.DataFrame
    clusters: Mapping[str, Cluster]
    topologies: Mapping[tuple[str, int], Topology]

    @property
    def layouts(self) -> pl.DataFrame:
        """The distinct layouts, numbered."""
        return self.workloads.select(LAYOUT).unique(maintain_order=True).with_row_index("layout")

    def kinds(self, orders: Sequence[str] = (RANK_ORDER,)) -> pl.DataFrame:
        """Return the table `network_kinds`: what each network does to each kind of each workload."""
        frames = [frame for order in orders for frame in self._kinds(order)]
        of_layouts = self.layouts.with_columns(pl.col("layout").cast(pl.Int64))
        return (
            self.workloads.select("workload", "kind", *LAYOUT)
            .join(of_layouts, on=LAYOUT, how="left", maintain_order="left")
            .join(pl.concat(frames), on="layout", maintain_order="left_right")
            .filter((pl.col("kind") == "moe") | ~pl.col("group_kind").is_in(EXPERT_KINDS))
        )

    def _kinds(self, order: str) -> list[pl.DataFrame]:
        given, numbers = None if order == RANK_ORDER else order, self.layouts
        found = []
        for layout, name, built, frame in by_layout(numbers, self.topologies, given):
            ends = built.links.unique("bundle", keep="first").select(
                "class", "source", "target", worst_bundle=pl.col("bundle")
            )
            named = frame.join(ends, on="worst_bundle", how="left", maintain_order="left")
            found.append(
                named.with_columns(
                    layout=pl.lit(layout["layout"], dtype=pl.Int64), network=pl.lit(name), order=pl.lit(order)
                )
            )
        return found


def compared(workloads: pl.DataFrame, clusters: Sequence[Cluster], root: Path = Path()) -> Compared:
    """Return workloads with a cluster on several networks, each built for every world that there is.

    Raises BadInput with everything that does not fit.
    """
    sited = {each.network.name: (each.network, each.values) for each in clusters}
    topologies = built_for(workloads["world_size"], sited, root)
    return Compared(workloads, {each.network.name: each for each in clusters}, topologies)


def topologies(found: Compared, kinds: pl.DataFrame, prices: Mapping[str, float]) -> pl.DataFrame:
    """Return the table `topologies`: each workload's iteration on each network, in rank order, and its parts.

    kinds   the table `network_kinds`
    prices  `link_usd` and `switch_port_usd`
    """
    in_order = kinds.filter(order=RANK_ORDER)
    frames = [
        _on_one(found, cluster, in_order.filter(network=name)) for name, cluster in found.clusters.items()
    ]
    ep = in_order.filter(group_kind="ep").select("workload", "network", ep_slowdown="slowdown")
    rows = [
        (name, size, built.parts().links, built.parts().switches, _usd(built, prices))
        for (name, size), built in found.topologies.items()
    ]
    parts = pl.DataFrame(rows, ["network", "world_size", "links", "switches", "usd"], orient="row")
    return (
        pl.concat(frames)
        .join(ep, on=["workload", "network"], how="left", maintain_order="left")
        .join(parts, on=["network", "world_size"], how="left", maintain_order="left")
        .with_columns(pl.col("ep_slowdown").fill_null(1.0))
    )


def _usd(built: Topology, prices: Mapping[str, float]) -> float:
    parts = built.parts()
    return parts.links * prices["link_usd"] + parts.ports * prices["switch_port_usd"]


def _on_one(found: Compared, cluster: Cluster, kinds: pl.DataFrame) -> pl.DataFrame:
    of_layouts = kinds.unique(["layout", "group_kind"], maintain_order=True)
    slower = with_slowdowns(found.workloads, found.layouts, of_layouts)
    seconds = costed(slower, constants_frame([cluster])).select("workload", "iteration_seconds")
    return found.workloads.select(
        "workload", "kind", "world_size", network=pl.lit(cluster.network.name)
    ).join(seconds, on="workload", how="left", maintain_order="left")
