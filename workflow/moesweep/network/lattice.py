"""Tori and HyperX: vertices with coordinates, joined along each dimension by a ring or by all pairs.

Dimension order: a flow corrects one coordinate after the other, so in dimension i it passes from (targets'
coordinates before i, sources' from i on) to the same with the target's i. In a HyperX that is one link of
each dimension in which the ends differ, in a torus the shorter way round its ring, half each way where both
are as long. With a unit between each pair of N vertices a link of dimension i of a HyperX carries N / S_i, of
a ring of n alone n²/8 (n even) or (n²-1)/8.

Valiant (1982) sends every flow by a vertex drawn evenly from all, both ends included, each half in dimension
order: sums along dimensions say what that puts on each link, whatever the pattern.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod

import numpy as np
import polars as pl

from moesweep.network.flows import Bundles, Floats, Flows, Ints, Parts, bundled, named


@dataclass(frozen=True)
class Lattice:
    """Hosts on the vertices of a torus (`rings`) or HyperX.

    shape           vertices along each dimension
    vertex_hosts    hosts at a vertex, on links of their own: 0 where hosts are the vertices
    capacity        bytes per second of a link between vertices; host_capacity of one of a host to its vertex
    """

    shape: tuple[int, ...]
    rings: bool
    valiant: bool
    vertex_hosts: int
    capacity: float
    host_capacity: float

    @property
    def vertices(self) -> int:
        """Vertices in all."""
        return prod(self.shape)

    @property
    def hosts(self) -> int:
        """Hosts that it has places for."""
        return self.vertices * max(self.vertex_hosts, 1)

    @property
    def hosts_are_its_own(self) -> bool:
        """Hosts are vertices, which pass on what others send; or they hang at switches."""
        return not self.vertex_hosts

    @property
    def _host_links(self) -> int:
        return 2 * self.hosts if self.vertex_hosts else 0

    def _links_of(self, dimension: int) -> int:
        """Links along a dimension from each vertex: two ways round a ring, one to each of the others."""
        size = self.shape[dimension]
        return 2 if self.rings and size > 1 else size - 1

    @property
    def links_of_a_vertex(self) -> int:
        """Links from each vertex to others."""
        return sum(map(self._links_of, range(len(self.shape))))

    @cached_property
    def bundles(self) -> Bundles:
        """Out of each host, into each host; then links by dimension, vertex and way."""
        return bundled(
            ("nic", self._host_links, 1, self.host_capacity),
            ("lattice", self.vertices * self.links_of_a_vertex, 1, self.capacity),
        )

    def loads(self, flows: Flows) -> Floats:
        """Return the bytes on each link."""
        per = max(self.vertex_hosts, 1)
        source, target = flows.source // per, flows.target // per
        parts = []
        if self.vertex_hosts:
            parts += [flows.sums(flows.source, self.hosts), flows.sums(flows.target, self.hosts)]
        apart = source != target
        far = flows.of(apart).between(source[apart], target[apart])
        if self.valiant:
            moves = enumerate(self._valiant(far))
            parts += [self._along(i, moved).reshape(flows.keys, -1) for i, moved in moves]
        else:
            parts += list(self._in_order(far))
        return np.concatenate(parts, axis=1)[None]

    def _in_order(self, flows: Flows) -> Iterator[Floats]:
        """Yield what flows put on the links of each dimension, keys × links: coordinate after coordinate."""
        at = flows.source
        for i, size in enumerate(self.shape):
            after = prod(self.shape[i + 1 :])
            here, to = at // after % size, flows.target // after % size
            moves = np.flatnonzero(here != to)
            moved = flows.of(moves)
            along = self._round_rings if self.rings else self._straight
            yield along(moved, i, at[moves], here[moves], to[moves])
            at = at + (to - here) * after

    def _straight(self, flows: Flows, dimension: int, at: Ints, here: Ints, to: Ints) -> Floats:
        """Return flows on links to another vertex of the line, by vertex and way."""
        ways = self._links_of(dimension)
        return flows.sums(at * ways + to - (to > here), self.vertices * ways)

    def _round_rings(self, flows: Flows, dimension: int, at: Ints, here: Ints, to: Ints) -> Floats:
        """Return flows on the links of rings, up and down, by vertex and way.

        A flow passes the links of the vertices lo, lo + 1, ... before hi: so a sum along the ring of what
        begins at lo less what ends at hi, and all of it once round where it passes 0.
        """
        size, after = self.shape[dimension], prod(self.shape[dimension + 1 :])
        ways = self._links_of(dimension)
        if not ways:
            return np.zeros((flows.keys, 0))
        up = (to - here) % size
        share = np.where(2 * up == size, 0.5, 1.0)
        sides = ((2 * up <= size, here, to), (2 * up >= size, (to + 1) % size, (here + 1) % size))
        grid = (flows.keys, prod(self.shape[:dimension]), size, after)
        loads = []
        for taken, lo, hi in sides:
            part = flows.of(taken)
            part = Flows(part.keys, part.key, part.source, part.target, part.bytes * share[taken])
            line = at[taken] - here[taken] * after
            begins, ends = (
                part.sums(line + place[taken] * after, self.vertices).reshape(grid) for place in (lo, hi)
            )
            passes_0 = part.of(lo[taken] >= hi[taken])
            round_ = passes_0.sums(line[lo[taken] >= hi[taken]], self.vertices).reshape(grid)[:, :, :1]
            loads.append(_without_noise(round_ + np.cumsum(begins - ends, axis=2)))
        return np.stack(loads, axis=-1).reshape(flows.keys, -1)

    def _valiant(self, flows: Flows) -> Iterator[Floats]:
        """Yield the same for two legs by a vertex drawn evenly."""
        out, into = (flows.sums(ends, self.vertices) for ends in (flows.source, flows.target))
        for i, size in enumerate(self.shape):
            before, after = prod(self.shape[:i]), prod(self.shape[i + 1 :])
            grid = (flows.keys, before, size, after)
            # To a drawn vertex: earlier coordinates are drawn already, this one is drawn now.
            first = out.reshape(grid).sum(axis=1, keepdims=True) / (before * size)
            # From a drawn vertex: later coordinates are drawn still, this one becomes the target's.
            second = into.reshape(grid).sum(axis=3, keepdims=True) / (after * size)
            shape = (*grid, size)
            here = np.broadcast_to(first[..., None], shape)
            yield here + second.reshape(flows.keys, before, 1, 1, size)

    def _along(self, dimension: int, moved: Floats) -> Floats:
        """Return what moves put on the links of a dimension: keys × before × from × after × ways."""
        size = self.shape[dimension]
        if not self.rings:
            others = np.array([[b for b in range(size) if b != a] for a in range(size)], dtype=np.int64)
            return np.take_along_axis(moved, others.reshape(1, 1, size, 1, size - 1), axis=4)
        if size == 1:
            return moved[..., :0]
        # One key after the other: how sums are rounded must not depend on how many there are.
        paths = ring_paths(size)
        return np.stack([np.einsum("bxay,xypw->bpaw", each, paths, optimize=True) for each in moved])

    def links(self) -> pl.DataFrame:
        """Return every link."""
        frames = [self._of_hosts()] if self.vertex_hosts else []
        what, first = "switch" if self.vertex_hosts else "host", self._host_links
        for i, size in enumerate(self.shape):
            ways, after = self._links_of(i), prod(self.shape[i + 1 :])
            vertex = np.repeat(np.arange(self.vertices), ways)
            way = np.tile(np.arange(ways), self.vertices)
            at = vertex // after % size
            to = (at + 1 - 2 * way) % size if self.rings else way + (way >= at)
            frames.append(_links(first, what, vertex, what, vertex + (to - at) * after))
            first += self.vertices * ways
        return pl.concat(frames)

    def _of_hosts(self) -> pl.DataFrame:
        host = np.arange(self.hosts)
        vertex = host // self.vertex_hosts
        both = [_links(0, "host", host, "switch", vertex), _links(self.hosts, "switch", vertex, "host", host)]
        return pl.concat(both)

    def parts(self) -> Parts:
        """Return switches, links and ports: without switches, links alone."""
        lattice = self.vertices * self.links_of_a_vertex // 2
        if not self.vertex_hosts:
            return Parts(0, lattice, 0)
        return Parts(self.vertices, lattice + self.hosts, 2 * lattice + self.hosts)


def _without_noise(sums: Floats) -> Floats:
    """Return sums, keys first, with what rounding leaves of a 0 removed; other keys make no difference."""
    most = sums.max(axis=tuple(range(1, sums.ndim)), keepdims=True, initial=0.0)
    return np.where(sums > 1e-12 * most, sums, 0.0)


@cache
def ring_paths(size: int) -> Floats:
    """Return the share of a flow from x to y that leaves p up (0) or down (1) a ring: x × y × p × 2."""
    paths = np.zeros((size, size, size, 2))
    for x in range(size):
        for y in range(size):
            up, down = (y - x) % size, (x - y) % size
            share = 0.5 if up == down else 1.0
            if 0 < up <= down:
                paths[x, y, [(x + step) % size for step in range(up)], 0] += share
            if 0 < down <= up:
                paths[x, y, [(x - step) % size for step in range(down)], 1] += share
    return paths


def _links(first: int, source_is: str, source: Ints, target_is: str, target: Ints) -> pl.DataFrame:
    """Return links numbered from `first`, between things numbered and named."""
    ends = {"source": named(source_is, source), "target": named(target_is, target)}
    return pl.DataFrame({"bundle": first + np.arange(len(source)), **ends})
