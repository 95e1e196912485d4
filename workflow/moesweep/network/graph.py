"""Graphs of people's own networks: shortest paths, shared evenly hop by hop (ECMP as a fluid).

Hosts forward nothing, so all that lies between two of them is switches. What goes to the hosts at one switch
is carried together: every switch's distance to it, then, from the farthest inward, what has reached a switch
is split evenly over its links to switches that are one nearer.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from scipy import sparse
from scipy.sparse import csgraph

from moesweep.network.flows import CLASSES, Bundles, Floats, Flows, Ints, Parts

AT_ONCE = 256
"""Targets whose distances are held at a time."""


@dataclass(frozen=True)
class Graph:
    """Hosts, then switches, numbered on, and the one-way links between them.

    names    of every host and switch
    source, target, capacity   one entry a link; a two-way link is two
    """

    hosts: int
    names: tuple[str, ...]
    source: Ints
    target: Ints
    capacity: Floats

    @property
    def hosts_are_its_own(self) -> bool:
        """Hosts are those of the graph."""
        return True

    @property
    def _switches(self) -> int:
        return len(self.names) - self.hosts

    @cached_property
    def bundles(self) -> Bundles:
        """Every link alone: a host's is `nic`."""
        at_host = (self.source < self.hosts) | (self.target < self.hosts)
        class_ = np.where(at_host, CLASSES.index("nic"), CLASSES.index("link"))
        return Bundles(class_, np.ones(len(class_)), self.capacity)

    @cached_property
    def _inner(self) -> tuple[Ints, Ints, Ints]:
        """Links between switches: which they are, and their ends among switches."""
        link = np.flatnonzero((self.source >= self.hosts) & (self.target >= self.hosts))
        return link, self.source[link] - self.hosts, self.target[link] - self.hosts

    @cached_property
    def _core(self) -> sparse.csr_array:
        """Which switch is joined to which."""
        _, source, target = self._inner
        ones = np.ones(len(source))
        return sparse.csr_array((ones, (source, target)), shape=(self._switches, self._switches))

    def _at_switches(self, out: bool) -> tuple[Ints, Ints, Ints]:
        """Return links from hosts to switches, or to hosts: which they are, the host, and the switch."""
        ends = (self.source, self.target) if out else (self.target, self.source)
        link = np.flatnonzero((ends[0] < self.hosts) & (ends[1] >= self.hosts))
        link = link[np.argsort(ends[0][link], kind="stable")]
        return link, ends[0][link], ends[1][link] - self.hosts

    @cached_property
    def apart(self) -> Ints:
        """For each host the number of its part of the graph, without passing hosts; -1 where it is alone."""
        _, part = csgraph.connected_components(self._core, directed=False)
        _, host, switch = self._at_switches(out=True)
        found = np.full(self.hosts, -1)
        found[host[::-1]] = part[switch[::-1]]
        return found

    def loads(self, flows: Flows) -> Floats:
        """Return the bytes on each link."""
        total = np.zeros((flows.keys, len(self.source)))
        rest = self._direct(flows, total)
        link, host, switch = self._at_switches(out=False)
        degree = np.bincount(host, minlength=self.hosts)
        alone = degree[host] == 1
        for at in np.unique(switch[alone]):
            here = np.zeros(self.hosts, dtype=bool)
            here[host[alone & (switch == at)]] = True
            self._toward(rest.of(here[rest.target]), np.array([at]), total)
        into = np.full(self.hosts, -1)
        into[host[alone]] = link[alone]
        single = rest.of(into[rest.target] >= 0)
        np.add.at(total, (single.key, into[single.target]), single.bytes)
        for target in np.flatnonzero(degree > 1):
            mine = host == target
            own = rest.of(rest.target == target)
            arrived = self._toward(own, switch[mine], total)
            number = np.bincount(switch[mine], minlength=self._switches)[switch[mine]]
            total[:, link[mine]] += arrived[:, switch[mine]] / number
        return total[None]

    def _direct(self, flows: Flows, total: Floats) -> Flows:
        """Put flows between hosts with links of their own on these; return the others."""
        between = np.flatnonzero((self.source < self.hosts) & (self.target < self.hosts))
        if not len(between):
            return flows
        pair = self.source[between] * self.hosts + self.target[between]
        order = np.argsort(pair, kind="stable")
        wanted = flows.source * self.hosts + flows.target
        first, last = (np.searchsorted(pair[order], wanted, side) for side in ("left", "right"))
        has = last > first
        number = (last - first)[has]
        which = (
            np.repeat(first[has], number)
            + np.arange(number.sum())
            - np.repeat(np.cumsum(number) - number, number)
        )
        key, part = np.repeat(flows.key[has], number), np.repeat(flows.bytes[has] / number, number)
        np.add.at(total, (key, between[order][which]), part)
        return flows.of(~has)

    def _toward(self, flows: Flows, switches: Ints, total: Floats) -> Floats:
        """Put flows to hosts at some switches on links, up to there; return what arrives: keys × switches."""
        held = np.zeros((flows.keys, self._switches))
        if not len(flows.key):
            return held
        far = csgraph.dijkstra(self._core.T, indices=switches, unweighted=True, min_only=True)
        self._enter(flows, far, held, total)
        link, source, target = self._inner
        near = far[source] == far[target] + 1
        link, source, target = link[near], source[near], target[near]
        ways = np.bincount(source, minlength=self._switches)
        distance = far[source]
        for step in range(int(distance.max(initial=0)), 0, -1):
            there = distance == step
            moved = held[:, source[there]] / ways[source[there]]
            total[:, link[there]] += moved
            reached = sparse.csr_array(
                (np.ones(there.sum()), (np.arange(there.sum()), target[there])),
                shape=(int(there.sum()), self._switches),
            )
            held += moved @ reached
        return held

    def _enter(self, flows: Flows, far: Floats, held: Floats, total: Floats) -> None:
        """Put flows on their hosts' links to the nearest switches, evenly."""
        link, host, switch = self._at_switches(out=True)
        nearest = np.full(self.hosts, np.inf)
        np.minimum.at(nearest, host, far[switch])
        used = far[switch] == nearest[host]
        link, host, switch = link[used], host[used], switch[used]
        number = np.bincount(host, minlength=self.hosts)
        sent = flows.sums(flows.source, self.hosts)
        part = sent[:, host] / number[host]
        total[:, link] += part
        at_switch = sparse.csr_array(
            (np.ones(len(switch)), (np.arange(len(switch)), switch)), shape=(len(switch), self._switches)
        )
        held += part @ at_switch

    def links(self) -> pl.DataFrame:
        """Return every link."""
        names = np.array(self.names)
        ends = {"source": names[self.source], "target": names[self.target]}
        return pl.DataFrame({"bundle": np.arange(len(self.source)), **ends})

    def parts(self) -> Parts:
        """Return switches, links and ports."""
        at_switches = int((self.source >= self.hosts).sum())
        return Parts(self._switches, len(self.source) // 2, at_switches)
