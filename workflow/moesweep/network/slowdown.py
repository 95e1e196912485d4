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

from moesweep.network.flows import Floats, Flows
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
    outside = bundles.class_ != NVLINK
    seconds = loads[:, :, outside] * (bundles.share / bundles.capacity)[outside]
    worst = np.flatnonzero(outside)[seconds.mean(axis=0).argmax(axis=1)]
    busiest = seconds.max(axis=2).mean(axis=0)
    return Carried(
        nic_seconds(topology, flows),
        busiest,
        np.where(busiest > 0, worst, -1),
        flows.sums(flows.key * 0, 1)[:, 0],
        loads.mean(axis=0).sum(axis=1),
    )


def nic_seconds(topology: Topology, flows: Flows) -> Floats:
    """Return how long each key's busiest card takes: what a GPU sends to other islands, or gets from them."""
    far = flows.of(flows.source // topology.island != flows.target // topology.island)
    out, into = (far.sums(ends, topology.gpus).max(axis=1) for ends in (far.source, far.target))
    busiest: Floats = np.maximum(out, into)
    return busiest / topology.nic_bytes_per_second


def slowdowns(topology: Topology, flows: Flows) -> pl.DataFrame:
    """Return one row per kind of communicator that has unit flows (`unit_flows`).

    group_kind, slowdown, mean_hops (links that a byte passes), worst_bundle (-1: none outside the islands);
    card_seconds_per_byte, link_seconds_per_byte: what the busiest card, and the busiest link outside the
    islands, take for each byte that a rank puts on links
    """
    found = carried(topology, flows)
    there = found.bytes > 0
    return pl.DataFrame(
        {
            "group_kind": pl.Series(GROUP_KINDS).filter(pl.Series(there)),
            "slowdown": found.slowdown[there],
            "mean_hops": found.bytes_hops[there] / found.bytes[there],
            "worst_bundle": found.worst[there],
            "card_seconds_per_byte": found.bound_seconds[there],
            "link_seconds_per_byte": found.seconds[there],
        }
    )


def layout_slowdowns(topology: Topology, layout: Mapping[str, Any], order: str | None = None) -> pl.DataFrame:
    """Return the `slowdowns` of a layout's unit traffic."""
    return slowdowns(topology, unit_flows(layout, topology.island, order))
