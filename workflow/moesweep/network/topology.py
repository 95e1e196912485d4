"""A network as a workload meets it: GPUs in islands, and a fabric between those.

GPUs of an island are joined by NVLink through a switch: a link out of each and one into each. What goes to
another island takes the fabric. With PXN (NCCL 2.12) it first crosses NVLink to the GPU of its island that
stands on the receiver's rail, and leaves on that card: no traffic between rails is left for the fabric.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from moesweep.network.flows import CLASSES, Bundles, Fabric, Floats, Flows, Ints, Parts, named, sample_mean

Order = Literal["rank", "rail", "apart"]
"""How GPUs are hosts: in rank order; rail after rail within a pod; a fabric of its own for each rail."""

NVLINK = CLASSES.index("nvlink")


@dataclass(frozen=True)
class Topology:
    """Islands and what joins them.

    gpus        GPUs in whole islands
    island      GPUs of an island
    pod         islands of a pod, in the order `rail`
    nvlink_bytes_per_second, nic_bytes_per_second   of one GPU, one direction
    """

    gpus: int
    island: int
    fabric: Fabric
    order: Order
    pod: int
    pxn: bool
    nvlink_bytes_per_second: float
    nic_bytes_per_second: float

    @property
    def fabrics(self) -> int:
        """Fabrics side by side."""
        return self.island if self.order == "apart" else 1

    @property
    def _nvlinks(self) -> int:
        return 2 * self.gpus if self.island > 1 else 0

    @cached_property
    def bundles(self) -> Bundles:
        """NVLink out of each GPU, into each GPU; then the fabric's, one rail's after the other's."""
        fabric, count = self.fabric.bundles, self._nvlinks
        return Bundles(
            np.concatenate([np.full(count, NVLINK), np.tile(fabric.class_, self.fabrics)]),
            np.concatenate([np.ones(count), np.tile(fabric.share, self.fabrics)]),
            np.concatenate(
                [np.full(count, self.nvlink_bytes_per_second), np.tile(fabric.capacity, self.fabrics)]
            ),
        )

    def loads(self, flows: Flows) -> Floats:
        """Return the bytes that flows between GPUs put on each bundle: samples × keys × bundles."""
        inside = flows.source // self.island == flows.target // self.island
        near, far = flows.of(inside), flows.of(~inside)
        outward = [near]
        if self.pxn:
            card = far.source // self.island * self.island + far.target % self.island
            forwarded = far.source != card
            outward.append(far.between(far.source, card).of(forwarded))
            far = far.between(card, far.target)
        fabric = self._fabric_loads(far)
        if not self._nvlinks:
            return fabric
        nvlink = sum(
            np.concatenate([part.sums(part.source, self.gpus), part.sums(part.target, self.gpus)], axis=1)
            for part in outward
        )
        each = np.broadcast_to(nvlink, (len(fabric), *np.shape(nvlink)))
        return np.concatenate([each, fabric], axis=2)

    def _fabric_loads(self, flows: Flows) -> Floats:
        if self.order == "rank":
            return self.fabric.loads(flows)
        if self.order == "rail":
            return self.fabric.loads(flows.between(self._place(flows.source), self._place(flows.target)))
        rail = flows.target % self.island
        on_rail = Flows(
            flows.keys * self.island,
            flows.key * self.island + rail,
            flows.source // self.island,
            flows.target // self.island,
            flows.bytes,
        )
        loads = self.fabric.loads(on_rail)
        return loads.reshape(len(loads), flows.keys, -1)

    def hosts_of_gpus(self) -> Ints:
        """Return the host that each GPU is; with a fabric a rail, on its rail's."""
        gpu = np.arange(self.gpus)
        if self.order == "rail":
            return self._place(gpu)
        return gpu if self.order == "rank" else gpu // self.island

    def _place(self, gpu: Ints) -> Ints:
        """Return a GPU's place among the hosts: rail after rail within its pod."""
        island, rail = gpu // self.island, gpu % self.island
        return (island // self.pod * self.island + rail) * self.pod + island % self.pod

    def link_loads(self, flows: Flows) -> tuple[Ints, Ints, Floats]:
        """Return link, key and bytes, one entry for each key that a link carries; of drawn routes the mean.

        Ordered by link, then key.
        """
        bundle = self.links["bundle"].to_numpy()
        loads = (sample_mean(self.loads(flows)) * self.bundles.share)[:, bundle].T
        link, key = np.nonzero(loads)
        return link, key, loads[link, key]

    @cached_property
    def links(self) -> pl.DataFrame:
        """Every one-way link: link, bundle, class, source, target, bytes_per_second."""
        parts = [self._fabric_links(rail) for rail in range(self.fabrics)]
        if self._nvlinks:
            gpu = np.arange(self.gpus)
            ends = named("gpu", gpu), named("nvswitch", gpu // self.island)
            nvlink = [
                pl.DataFrame({"bundle": gpu + first, "source": source, "target": target})
                for first, (source, target) in ((0, ends), (self.gpus, ends[::-1]))
            ]
            parts = [*nvlink, *parts]
        every = pl.concat(parts)
        if not self.fabric.hosts_are_its_own:
            gpus = [pl.col(end).str.extract(r"^gpu (\d+)$").cast(pl.Int64) for end in ("source", "target")]
            every = every.filter(pl.all_horizontal(gpu.fill_null(0) < self.gpus for gpu in gpus))
        frame = every.with_row_index("link").with_columns(pl.col("link").cast(pl.Int64))
        bundle = frame["bundle"].to_numpy()
        return frame.with_columns(
            pl.Series("class", self.bundles.class_[bundle]).replace_strict(
                dict(enumerate(CLASSES)), return_dtype=pl.Enum(CLASSES)
            ),
            pl.Series("bytes_per_second", self.bundles.capacity[bundle]),
        )

    def _fabric_links(self, rail: int) -> pl.DataFrame:
        """Return a fabric's links with hosts named by GPU, switches of several fabrics by their rail."""
        first = self._nvlinks + rail * len(self.fabric.bundles)
        links = self.fabric.links().with_columns(pl.col("bundle").cast(pl.Int64) + first)
        return links.with_columns(self._renamed(pl.col(end), rail) for end in ("source", "target"))

    def _renamed(self, name: pl.Expr, rail: int) -> pl.Expr:
        host = name.str.strip_prefix("host ")
        number = host.cast(pl.Int64, strict=False)
        gpu = number
        if self.order == "apart":
            gpu = number * self.island + rail
        elif self.order == "rail":
            pod, within = number // (self.island * self.pod), number % (self.island * self.pod)
            gpu = (pod * self.pod + within % self.pod) * self.island + within // self.pod
        switch = pl.format("rail {} {}", pl.lit(rail), name) if self.fabrics > 1 else name
        return pl.when(name.str.starts_with("host ")).then(pl.format("gpu {}", gpu)).otherwise(switch)

    def parts(self) -> Parts:
        """Return switches, links and ports outside the islands."""
        every = self.fabric.parts().times(self.fabrics)
        absent = 0 if self.fabric.hosts_are_its_own else self.fabric.hosts * self.fabrics - self.gpus
        return Parts(every.switches, every.links - absent, every.ports - absent)
