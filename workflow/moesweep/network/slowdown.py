"""How much slower a kind of communication is on a network than its cards alone would be.

Seconds of a kind are those of its busiest link, load over capacity; its *NIC bound* is what its busiest card
takes. Their ratio, at least 1, is the kind's slowdown: 1 on a network that blocks nothing. It follows from
who stands where, not from how much is sent, so it is found once for a layout, from unit traffic
(network/unit.py).

NVLink does not count: what an island does by itself the costs know. Nor do ports beyond one card's rate make
a slowdown below 1: a GPU does not send faster than its card.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from moesweep.network.flows import Floats, Flows, sample_mean
from moesweep.network.topology import NVLINK, Topology
from moesweep.network.unit import unit_flows
from moesweep.shapes.communication import GROUP_KINDS


@dataclass(frozen=True)
class Carried:
    """What flows do to a network: one entry a key.

    bound_seconds     of the busiest card: the same flows on a network that blocks nothing
    seconds           of the busiest link outside the islands
    worst             its bundle, -1 where nothing leaves an island
    bytes, bytes_hops bytes sent, and bytes on all links
    """

    bound_seconds: Floats
    seconds: Floats
    worst: np.ndarray[Any, np.dtype[np.int64]]
    bytes: Floats
    bytes_hops: Floats

    @property
    def slowdown(self) -> Floats:
        """Return seconds over those of the busiest card, at least 1."""
        left = self.bound_seconds > 0
        ratio = np.divide(self.seconds, self.bound_seconds, out=np.ones_like(self.seconds), where=left)
        return np.maximum(ratio, 1.0)


def carried(topology: Topology, flows: Flows) -> Carried:
    """Return what flows between GPUs do to a network; where routes are drawn, in the mean over draws."""
    loads, bundles = topology.loads(flows), topology.bundles
    # NVLink's bundles come first.
    outside = slice(int((bundles.class_ == NVLINK).sum()), None)
    seconds = loads[:, :, outside] * (bundles.share / bundles.capacity)[outside]
    if not seconds.shape[2]:
        # One island is the whole network: nothing leaves it.
        seconds = np.zeros((*seconds.shape[:2], 1))
    worst = outside.start + sample_mean(seconds).argmax(axis=1)
    busiest = sample_mean(seconds.max(axis=2))
    return Carried(
        nic_seconds(topology, flows),
        busiest,
        np.where(busiest > 0, worst, -1),
        flows.sums(flows.key * 0, 1)[:, 0],
        sample_mean(loads).sum(axis=1),
    )


def nic_seconds(topology: Topology, flows: Flows) -> Floats:
    """Return how long each key's busiest card takes: what a GPU sends to other islands, or gets from them."""
    far = flows.of(flows.source // topology.island != flows.target // topology.island)
    out, into = (far.sums(ends, topology.gpus).max(axis=1) for ends in (far.source, far.target))
    busiest: Floats = np.maximum(out, into)
    return busiest / topology.nic_bytes_per_second


def measured(topology: Topology, flows: Flows) -> pl.DataFrame:
    """Return one row per key of unit flows (network/unit.py): `key`, and what the network does to it.

    slowdown, mean_hops (links that a byte passes), worst_bundle (-1: none outside the islands);
    card_seconds_per_byte, link_seconds_per_byte: what the busiest card, and the busiest link outside the
    islands, take for each byte that a rank puts on links
    """
    found = carried(topology, flows)
    return pl.DataFrame(
        {
            "key": np.arange(flows.keys),
            "slowdown": found.slowdown,
            "mean_hops": found.bytes_hops / np.maximum(found.bytes, 1.0),
            "worst_bundle": found.worst,
            "card_seconds_per_byte": found.bound_seconds,
            "link_seconds_per_byte": found.seconds,
        }
    )


def slowdowns(topology: Topology, flows: Flows) -> pl.DataFrame:
    """Return one row per kind that has unit flows (`unit_flows`): group_kind, and the rest as `measured`."""
    kinds = measured(topology, flows)[np.unique(flows.key)]
    return kinds.select(pl.lit(pl.Series(GROUP_KINDS)).gather("key").alias("group_kind"), pl.exclude("key"))


def layout_slowdowns(topology: Topology, layout: Mapping[str, Any], order: str | None = None) -> pl.DataFrame:
    """Return the `slowdowns` of a layout's unit traffic."""
    return slowdowns(topology, unit_flows(layout, topology.island, order))
