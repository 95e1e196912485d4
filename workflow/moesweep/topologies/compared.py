"""Workloads on several networks: slowdowns by kind and placement, iterations, parts and prices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from moesweep.edge.problems import BadInput, Problem
from moesweep.evaluate.costs import constants_frame, seconds_of
from moesweep.network.order import rank_order
from moesweep.network.slowed import built, built_for, of_layouts, with_slowdowns
from moesweep.network.topology import Topology
from moesweep.network.unit import LAYOUT
from moesweep.shapes.communication import EXPERT_KINDS, GROUP_KINDS
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

    def of(self, workloads: pl.DataFrame) -> "Compared":
        """Return the same with some of the workloads."""
        sizes = set(workloads["world_size"])
        built = {key: each for key, each in self.topologies.items() if key[1] in sizes}
        return Compared(workloads, self.clusters, built)

    def slowdowns(self, layouts: pl.DataFrame | None = None, orders: Sequence[str] = ()) -> pl.DataFrame:
        """Return what each network does to each kind of layouts: `slowdowns`, layout, network, order.

        In rank order, and where ranks are placed in the other `orders` that are asked for. `layouts` is some
        of `layouts`, numbered; left out: all.
        """
        numbers = self.layouts if layouts is None else layouts
        in_rank_order = of_layouts(numbers, self.topologies).join(
            _ranked(numbers), on="layout", maintain_order="left"
        )
        others = [
            of_layouts(moved, self.topologies, order).with_columns(order=pl.lit(order))
            for order in dict.fromkeys(orders)
            if not (moved := numbers.filter(rank_order() != order)).is_empty()
        ]
        return pl.concat([in_rank_order, *others])

    def kinds(self, slowdowns: pl.DataFrame) -> pl.DataFrame:
        """Return the table `network_kinds`: what each network does to each kind of each workload."""
        of_layouts = self.layouts.with_columns(pl.col("layout").cast(pl.Int64))
        return (
            self.workloads.select("workload", "kind", *LAYOUT)
            .join(of_layouts, on=LAYOUT, how="left", maintain_order="left")
            .join(slowdowns, on="layout", maintain_order="left_right")
            .filter((pl.col("kind") == "moe") | ~pl.col("group_kind").is_in(EXPERT_KINDS))
            .join(
                self._ends(slowdowns["worst_bundle"]),
                on=["network", "world_size", "worst_bundle"],
                how="left",
                maintain_order="left",
            )
        )

    def _ends(self, bundles: pl.Series) -> pl.DataFrame:
        """Return class, source and target of the first link of some bundles, by network and world."""
        return pl.concat(
            each.links.filter(pl.col("bundle").is_in(bundles.unique().implode()))
            .unique("bundle", keep="first", maintain_order=True)
            .select(
                "class",
                "source",
                "target",
                worst_bundle=pl.col("bundle"),
                network=pl.lit(name),
                world_size=pl.lit(size, pl.Int64),
            )
            for (name, size), each in self.topologies.items()
        )


def compared(workloads: pl.DataFrame, clusters: Sequence[Cluster], root: Path = Path()) -> Compared:
    """Return workloads with a cluster on several networks, each built for every world that there is.

    Raises BadInput with everything that does not fit.
    """
    sited = {each.network.name: (each.network, each.values) for each in clusters}
    topologies = built_for(workloads["world_size"], sited, root)
    return Compared(workloads, {each.network.name: each for each in clusters}, topologies)


def compared_where_they_fit(
    workloads: pl.DataFrame, clusters: Sequence[Cluster], root: Path = Path()
) -> tuple[Compared, list[Problem]]:
    """Return the same of networks that hold the workloads of a world, and why the others do not."""
    topologies, problems = {}, dict[Problem, None]()
    for each in clusters:
        for size in workloads["world_size"].unique().sort():
            try:
                topologies[each.network.name, size] = built(each.network, each.values, size, root)
            except BadInput as bad:
                problems |= dict.fromkeys(bad.problems)
    found = Compared(workloads, {each.network.name: each for each in clusters}, topologies)
    return found, list(problems)


def topologies(found: Compared, slowdowns: pl.DataFrame, prices: Mapping[str, float]) -> pl.DataFrame:
    """Return the table `topologies`: each workload's iteration on each network that holds it, and its parts.

    slowdowns  of `Compared.slowdowns`; read are those of rank order
    prices     `link_usd` and `switch_port_usd`
    """
    ranked = slowdowns.join(_ranked(found.layouts), on=["layout", "order"], how="semi", maintain_order="left")
    placed = _placed(found, ranked)
    rows = [
        (name, size, each.parts().links, each.parts().switches, _usd(each, prices))
        for (name, size), each in found.topologies.items()
    ]
    parts = pl.DataFrame(rows, ["network", "world_size", "links", "switches", "usd"], orient="row")
    if "ep_slowdown" not in placed.columns:
        placed = placed.with_columns(ep_slowdown=pl.lit(1.0))
    ep = pl.when(pl.col("kind") == "moe").then("ep_slowdown").otherwise(1.0)
    return placed.select(
        "workload", "kind", "world_size", "network", _seconds(found, placed), ep_slowdown=ep
    ).join(parts, on=["network", "world_size"], maintain_order="left")


def _ranked(layouts: pl.DataFrame) -> pl.DataFrame:
    """Return the rank order of each layout."""
    return layouts.select(pl.col("layout").cast(pl.Int64), order=rank_order())


def _usd(each: Topology, prices: Mapping[str, float]) -> float:
    parts = each.parts()
    return parts.links * prices["link_usd"] + parts.ports * prices["switch_port_usd"]


def _placed(found: Compared, slowdowns: pl.DataFrame) -> pl.DataFrame:
    """Return every workload on every network that is built for its world, with the slowdowns there."""
    layouts, frames = found.layouts, []
    for name in found.clusters:
        worlds = pl.Series("world_size", [size for of, size in found.topologies if of == name], pl.Int64)
        held = found.workloads.join(worlds.to_frame(), on="world_size", how="semi", maintain_order="left")
        slower = with_slowdowns(held, layouts, slowdowns.filter(network=name))
        frames.append(slower.with_columns(network=pl.lit(name)))
    placed = pl.concat(frames, how="diagonal")
    return placed.with_columns(pl.col(f"^({'|'.join(GROUP_KINDS)})_slowdown$").fill_null(1.0))


def _seconds(found: Compared, placed: pl.DataFrame) -> pl.Series:
    """Return the seconds of iterations: once where networks are alike to a workload and to its cluster."""
    first: dict[tuple[float, ...], str] = {}
    alike = {
        name: first.setdefault(tuple(each.values.values()), name) for name, each in found.clusters.items()
    }
    told = placed.with_columns(cluster=pl.col("network").replace_strict(alike, return_dtype=pl.String))
    key = ["workload", "cluster", *(name for name in told.columns if name.endswith("_slowdown"))]
    once = told.unique(key, keep="first", maintain_order=True)
    constants = constants_frame(found.clusters[name] for name in first.values())
    seconds = seconds_of(once, constants.with_columns(cluster=pl.Series(list(first.values()))))
    timed = once.select(key).with_columns(seconds)
    return told.select(key).join(timed, on=key, how="left", maintain_order="left")["iteration_seconds"]
