"""Per-flow ECMP: every queue pair of a flow keeps to one path up a tree, which a hash of its ends draws.

A ring is one fat flow a card, so what matters is how many of them meet on a link: the expected worst link is
the mean, over seeds, of each draw's worst. The hash is the finaliser of splitmix64 (Steele et al. 2014),
twice, so a seed draws the same paths everywhere.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import polars as pl

from moesweep.network.flows import Bundles, Floats, Flows, Ints, Leg, Parts, carried
from moesweep.network.tree import Tree

SEEDS = 16
"""Draws of which the mean is taken."""


@dataclass(frozen=True)
class HashedTree:
    """A tree whose flows are hashed onto its links, in so many queue pairs each."""

    tree: Tree
    queue_pairs: int

    @property
    def hosts(self) -> int:
        """Hosts that it has places for."""
        return self.tree.hosts

    @property
    def hosts_are_its_own(self) -> bool:
        """Hosts are what hangs below it."""
        return False

    @cached_property
    def _widths(self) -> list[int]:
        """Links up from a subtree, by level."""
        return [prod(self.tree.above[: level + 1]) for level in range(self.tree.levels)]

    @cached_property
    def _links(self) -> pl.DataFrame:
        """The tree's links in its order: each is a bundle of its own."""
        return self.tree.links()

    @cached_property
    def bundles(self) -> Bundles:
        """Every link of the tree alone."""
        fluid, bundle = self.tree.bundles, self._links["bundle"].to_numpy()
        return Bundles(fluid.class_[bundle], np.ones(len(bundle)), fluid.capacity[bundle])

    def loads(self, flows: Flows) -> Floats:
        """Return the bytes on each link, for each seed."""
        return np.stack([self._drawn(flows, seed) for seed in range(SEEDS)])

    def _drawn(self, flows: Flows, seed: int) -> Floats:
        total = np.zeros((flows.keys, len(self.bundles)))
        part = Flows(flows.keys, flows.key, flows.source, flows.target, flows.bytes / self.queue_pairs)
        for pair in range(self.queue_pairs):
            drawn = draws(flows.source, flows.target, seed * self.queue_pairs + pair)
            total += carried(part, iter(self._legs(part, drawn)), len(self.bundles))
        return total

    def _legs(self, flows: Flows, drawn: Ints) -> list[Leg]:
        """Return the links that flows pass, up and down by the same switches."""
        legs: list[Leg] = []
        rows, first = np.arange(len(drawn)), 0
        for level, width in enumerate(self._widths):
            up, down = (self.tree.subtree(level, ends[rows]) for ends in (flows.source, flows.target))
            apart = up != down
            rows, up, down = rows[apart], up[apart], down[apart]
            # The c-th way up begins at the switch that the c // w_i-th way up from below has reached.
            way = drawn[rows] % self._widths[-1] // (self._widths[-1] // width)
            count = self.tree.hosts // prod(self.tree.below[:level])
            legs += [(rows, first + up * width + way, 1.0), (rows, first + (count + down) * width + way, 1.0)]
            first += 2 * count * width
        return legs

    def links(self) -> pl.DataFrame:
        """Return every link."""
        return self._links.with_columns(bundle=pl.int_range(pl.len(), dtype=pl.Int64))

    def parts(self) -> Parts:
        """Return the tree's parts."""
        return self.tree.parts()


def draws(source: Ints, target: Ints, seed: int) -> Ints:
    """Return a number of 32 bits for each pair of ends: a hash of both and the seed."""
    with np.errstate(over="ignore"):
        z = source.astype(np.uint64) << np.uint64(32) | target.astype(np.uint64)
        z = z + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        for _ in range(2):
            z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
            z = z ^ z >> np.uint64(31)
    return (z >> np.uint64(32)).astype(np.int64)
