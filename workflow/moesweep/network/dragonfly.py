"""Dragonfly and Dragonfly+: groups of switches, each joined to every other group by global links.

A group has ports for global links, h at each of its switches that have any. With g groups its port
q = (o - 1) + c·(g - 1), at switch q // h, leads to the group o further on, c = 0, 1, ... as often as ports
suffice. At the other end that is port (g - o - 1) + c·(g - 1).

- Dragonfly (Kim et al. 2008): a switches a group, all joined to one another, p hosts and h global ports each;
  at most a·h + 1 groups. Minimal routing is by rule, local-global-local: at most one global link. (Shortest
  paths would at times take two, and load them half as much again.) With one link a pair of groups and a unit
  between each pair of hosts: (a·p)² on a global link, p² + 2·a·h·p² on a local one.
- Dragonfly+ (Shpiner et al. 2017): leaves with hosts and spines with h global ports, all leaves of a group
  joined to all its spines. Minimal: up to a spine of the source's group with a link to the target's, along
  it, down.

Valiant sends every flow between switches by one with hosts drawn evenly, both ends' own included. Its load is
what every switch sends to all others, and what every one gets from all others, in proportion to its bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from scipy import sparse

from moesweep.network.flows import Bundles, Floats, Flows, Ints, Leg, Parts, bundled, carried, named


@dataclass(frozen=True)
class Dragonfly:
    """Groups of switches: of `spines` 0 a Dragonfly, otherwise a Dragonfly+.

    groups        g
    leaves        switches with hosts in a group: a
    leaf_hosts    p
    spines        switches above them in a group, which have the global ports
    globals_      global ports h of a switch that has any
    capacities    bytes per second of a host's, a local and a global link
    """

    groups: int
    leaves: int
    leaf_hosts: int
    spines: int
    globals_: int
    valiant: bool
    capacities: tuple[float, float, float]

    @property
    def hosts(self) -> int:
        """Hosts that it has places for."""
        return self.groups * self.leaves * self.leaf_hosts

    @property
    def hosts_are_its_own(self) -> bool:
        """Hosts are what hangs at its switches."""
        return False

    @property
    def _leaf(self) -> str:
        """What a switch with hosts is called."""
        return "leaf" if self.spines else "switch"

    @property
    def _switches(self) -> int:
        return self.groups * self.leaves

    @property
    def _copies(self) -> int:
        """Links between two groups."""
        ports = (self.spines or self.leaves) * self.globals_
        return ports // (self.groups - 1) if self.groups > 1 else 0

    @property
    def _locals(self) -> int:
        """One-way links inside a group: to the other leaves, or up to the spines and down again."""
        return 2 * self.leaves * self.spines if self.spines else self.leaves * (self.leaves - 1)

    @property
    def _globals(self) -> int:
        """One-way links out of a group to others."""
        return self._copies * (self.groups - 1)

    @cached_property
    def bundles(self) -> Bundles:
        """Out of each host, into each host; links inside each group; links out of each group."""
        host, local, global_ = self.capacities
        return bundled(
            ("nic", 2 * self.hosts, 1, host),
            ("leaf" if self.spines else "local", self.groups * self._locals, 1, local),
            ("global", self.groups * self._globals, 1, global_),
        )

    def loads(self, flows: Flows) -> Floats:
        """Return the bytes on each link."""
        source, target = flows.source // self.leaf_hosts, flows.target // self.leaf_hosts
        apart = source != target
        far = flows.of(apart).between(source[apart], target[apart])
        ends = [flows.sums(flows.source, self.hosts), flows.sums(flows.target, self.hosts)]
        first = 2 * self.hosts
        if self.valiant:
            out, into = (far.sums(leaf, self._switches) for leaf in (far.source, far.target))
            from_all, to_all = self._drawn
            between = out @ from_all + into @ to_all
        else:
            between = carried(far, self.legs(far.source, far.target), len(self.bundles) - first)
        return np.concatenate([*ends, between], axis=1)[None]

    @cached_property
    def _drawn(self) -> tuple[sparse.csr_array, sparse.csr_array]:
        """What a byte from each leaf to a drawn one puts on links between switches, and one to each leaf."""
        count, links = self._switches, len(self.bundles) - 2 * self.hosts
        every = np.arange(count)
        one, other = np.repeat(every, count), np.tile(every, count)

        def spread(source: Ints, target: Ints) -> sparse.csr_array:
            """Return the share of each link (columns) in what a leaf (rows) sends or gets."""
            legs = [
                (one[rows], link, np.broadcast_to(share / count, link.shape))
                for rows, link, share in self.legs(source, target)
            ]
            leaf, link, share = (np.concatenate(parts) for parts in zip(*legs, strict=True))
            return sparse.csr_array((share, (leaf, link)), shape=(count, links))

        return spread(one, other), spread(other, one)

    def legs(self, source: Ints, target: Ints) -> Iterator[Leg]:
        """Yield the links between switches that flows from leaf to leaf pass, numbered after hosts' links."""
        rows = np.arange(len(source))
        group, to = source // self.leaves, target // self.leaves
        here = rows[(group == to) & (source != target)]
        yield from self._inside(here, source[here], target[here])
        rows = rows[group != to]
        group, to, source, target = group[rows], to[rows], source[rows], target[rows]
        ahead = (to - group) % self.groups
        for copy in range(self._copies):
            port = ahead - 1 + copy * (self.groups - 1)
            back = self.groups - ahead - 1 + copy * (self.groups - 1)
            yield from self._to_port(rows, source, port // self.globals_)
            yield rows, self.groups * self._locals + group * self._globals + port, 1 / self._copies
            yield from self._from_port(rows, target, back // self.globals_)

    def _inside(self, rows: Ints, source: Ints, target: Ints) -> Iterator[Leg]:
        """Yield the way from leaf to leaf of a group: by their link, or by all spines alike."""
        if not self.spines:
            yield rows, self._local(source, target % self.leaves), 1.0
            return
        for spine in range(self.spines):
            yield rows, self._up(source, spine), 1 / self.spines
            yield rows, self._down(target, spine), 1 / self.spines

    def _to_port(self, rows: Ints, leaf: Ints, switch: Ints) -> Iterator[Leg]:
        """Yield the way from a leaf to the switch of its group that has the port."""
        if self.spines:
            yield rows, self._up(leaf, switch), 1 / self._copies
            return
        away = leaf % self.leaves != switch
        yield rows[away], self._local(leaf[away], switch[away]), 1 / self._copies

    def _from_port(self, rows: Ints, leaf: Ints, switch: Ints) -> Iterator[Leg]:
        """Yield the way to a leaf from the switch of its group that has the port."""
        if self.spines:
            yield rows, self._down(leaf, switch), 1 / self._copies
            return
        away = leaf % self.leaves != switch
        there = leaf[away] // self.leaves * self.leaves + switch[away]
        yield rows[away], self._local(there, leaf[away] % self.leaves), 1 / self._copies

    def _local(self, leaf: Ints, to: Ints) -> Ints:
        """Return the link from a leaf to another place in its group."""
        return leaf * (self.leaves - 1) + to - (to > leaf % self.leaves)

    def _up(self, leaf: Ints, spine: Ints | int) -> Ints:
        return leaf // self.leaves * self._locals + leaf % self.leaves * self.spines + spine

    def _down(self, leaf: Ints, spine: Ints | int) -> Ints:
        return self._up(leaf, spine) + self.leaves * self.spines

    def links(self) -> pl.DataFrame:
        """Return every link."""
        host = np.arange(self.hosts)
        leaf = named(self._leaf, host // self.leaf_hosts)
        ends = [
            (named("host", host), leaf),
            (leaf, named("host", host)),
            *self._local_ends(),
            *self._global_ends(),
        ]
        both = [pl.DataFrame({"source": source, "target": target}) for source, target in ends]
        return pl.concat(both).select(
            bundle=pl.int_range(pl.len(), dtype=pl.Int64), source="source", target="target"
        )

    def _local_ends(self) -> Iterator[tuple[pl.Series, pl.Series]]:
        for group in range(self.groups):
            first = group * self.leaves
            leaf = first + np.repeat(np.arange(self.leaves), self.spines or self.leaves - 1)
            if self.spines:
                spine = group * self.spines + np.tile(np.arange(self.spines), self.leaves)
                ends = named(self._leaf, leaf), named("spine", spine)
                yield ends
                yield ends[::-1]
            else:
                way = np.tile(np.arange(self.leaves - 1), self.leaves)
                yield named(self._leaf, leaf), named(self._leaf, first + way + (way >= leaf - first))

    def _global_ends(self) -> Iterator[tuple[pl.Series, pl.Series]]:
        what, number = ("spine", self.spines) if self.spines else (self._leaf, self.leaves)
        port = np.arange(self._globals)
        for group in range(self.groups):
            ahead, copy = port % (self.groups - 1) + 1, port // (self.groups - 1)
            back = self.groups - ahead - 1 + copy * (self.groups - 1)
            there = (group + ahead) % self.groups * number + back // self.globals_
            yield named(what, group * number + port // self.globals_), named(what, there)

    def parts(self) -> Parts:
        """Return switches, links and ports."""
        between = self.groups * (self._locals + self._globals) // 2
        return Parts(
            self.groups * (self.leaves + self.spines), self.hosts + between, self.hosts + 2 * between
        )
