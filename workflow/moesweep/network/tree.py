"""Trees of switches: leaf/spine, fat trees, rails; every path goes up to the nearest common switch and down.

An extended generalised fat tree (Öhring et al. 1995) of levels 1 to h: a switch of level i has m_i below it
and everything on level i - 1 has w_i above it, w_1 = 1. Hosts are level 0, in order: those of the same x //
(m_1 ··· m_i) are below the same w_1 ··· w_i switches of level i.

Up/down routing as a fluid: all shortest paths share a flow evenly. So what leaves the hosts below a switch of
level i - 1 is spread over all w_1 ··· w_i links up from there, and what comes down likewise. In a k-ary fat
tree (m = k/2, k/2, k; w = 1, k/2, k/2) with a unit between each pair of N hosts that gives N - 1 on a host's
link, N - k/2 between edge and aggregation, N - k²/4 between aggregation and core.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import polars as pl

from moesweep.network.flows import Bundles, Floats, Flows, Ints, Leg, Parts, bundled, carried, named

LEVEL_CLASSES = ("nic", "leaf", "spine", "spine", "spine")
NAMES = ("host", "leaf", "spine", "core", "core 2", "core 3")


@dataclass(frozen=True)
class Tree:
    """A tree with as many subtrees below its top switches as `needed` hosts fill.

    below        m_1 .. m_h: at the top the most that a switch can take
    above        w_1 .. w_h
    capacities   bytes per second of a link from level i - 1 to level i
    """

    needed: int
    below: tuple[int, ...]
    above: tuple[int, ...]
    capacities: tuple[float, ...]

    @property
    def tops(self) -> int:
        """Subtrees below the top switches."""
        return -(-self.needed // prod(self.below[:-1]))

    @property
    def hosts(self) -> int:
        """Hosts that it has places for."""
        return self.tops * prod(self.below[:-1])

    @property
    def hosts_are_its_own(self) -> bool:
        """Hosts are what hangs below it."""
        return False

    @property
    def levels(self) -> int:
        """Levels of switches."""
        return len(self.below)

    def subtree(self, level: int, host: Ints) -> Ints:
        """Return which switches of a level stand above hosts, as the number of their subtree."""
        return host // prod(self.below[:level])

    def _subtrees(self, level: int) -> int:
        return self.hosts // prod(self.below[:level])

    @cached_property
    def bundles(self) -> Bundles:
        """From every subtree of level i - 1 up, then down to it, for i = 1, 2, ..."""
        return bundled(
            *(
                (
                    LEVEL_CLASSES[level],
                    2 * self._subtrees(level),
                    1 / prod(self.above[: level + 1]),
                    self.capacities[level],
                )
                for level in range(self.levels)
            )
        )

    @cached_property
    def _first(self) -> list[int]:
        """The first bundle of each level."""
        numbers = [2 * self._subtrees(level) for level in range(self.levels)]
        return [sum(numbers[:level]) for level in range(self.levels)]

    def legs(self, source: Ints, target: Ints) -> Iterator[Leg]:
        """Yield the bundles that flows pass: up and down, as far as their nearest common switch."""
        rows: Ints = np.arange(len(source))
        for level in range(self.levels):
            up, down = self.subtree(level, source[rows]), self.subtree(level, target[rows])
            apart = up != down
            rows, up, down = rows[apart], up[apart], down[apart]
            yield rows, self._first[level] + up, 1.0
            yield rows, self._first[level] + self._subtrees(level) + down, 1.0

    def loads(self, flows: Flows) -> Floats:
        """Return the bytes on each bundle."""
        return carried(flows, self.legs(flows.source, flows.target), len(self.bundles))[None]

    def links(self) -> pl.DataFrame:
        """Return every link: of the c-th of w_1 ··· w_i, a switch of level i - 1 by c // w_i."""
        frames = []
        for level in range(self.levels):
            width, lower = prod(self.above[: level + 1]), prod(self.above[:level])
            count = self._subtrees(level)
            below = np.repeat(np.arange(count), width)
            c = np.tile(np.arange(width), count)
            low = named(NAMES[level], below * lower + c // self.above[level])
            parent = below // self.below[level] if level < self.levels - 1 else below * 0
            high = named(NAMES[level + 1], parent * width + c)
            ends = {"up": (low, high), "down": (high, low)}
            frames += [
                pl.DataFrame(
                    {
                        "bundle": self._first[level] + (0 if way == "up" else count) + below,
                        "source": source,
                        "target": target,
                    }
                )
                for way, (source, target) in ends.items()
            ]
        return pl.concat(frames)

    def parts(self) -> Parts:
        """Return switches, links and ports. Top switches that few subtrees reach are merged to full ones."""
        links = [self._subtrees(level) * prod(self.above[: level + 1]) for level in range(self.levels)]
        whole = [prod(self.above[:i]) * self._subtrees(i) for i in range(1, self.levels)]
        top = -(-prod(self.above) * self.tops // self.below[-1])
        return Parts(sum(whole) + top, sum(links), 2 * sum(links) - links[0])


def fitted(
    needed: int, below: tuple[int, ...], above: tuple[int, ...], capacities: tuple[float, ...]
) -> Tree:
    """Return the tree of such switches that holds `needed` hosts: no level that they can do without."""
    levels = next((level for level in range(1, len(below)) if needed <= prod(below[:level])), len(below))
    return Tree(needed, below[:levels], above[:levels], capacities[:levels])
