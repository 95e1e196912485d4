"""Flows and the links that carry them, as arrays.

A *bundle* is a set of parallel links that share their load evenly, such as those of a leaf to all spines: a
network is counted in bundles and shown in links. Fabrics join *hosts*, numbered from 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import numpy as np
import polars as pl

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Rows = slice | Ints

CLASSES = ("nvlink", "nic", "leaf", "spine", "local", "global", "lattice", "link")
"""Classes of links: inside an island, card to switch (or to card), from leaves up, above them; between
switches
of a group, between groups; of a torus or HyperX; of an imported graph."""


@dataclass(frozen=True)
class Flows:
    """Who sends how much to whom: arrays of one length, and what they are told apart by.

    keys     how many things are told apart, such as kinds of communicators
    key      which of them a flow belongs to
    source   where it begins; target where it ends
    bytes    how much it is
    """

    keys: int
    key: Ints
    source: Ints
    target: Ints
    bytes: Floats

    def of(self, rows: Any) -> "Flows":
        """Return some of the flows."""
        return Flows(self.keys, self.key[rows], self.source[rows], self.target[rows], self.bytes[rows])

    def between(self, source: Ints, target: Ints) -> "Flows":
        """Return the same flows between other ends."""
        return Flows(self.keys, self.key, source, target, self.bytes)

    def sums(self, ends: Ints, count: int) -> Floats:
        """Return the bytes at each of `count` ends, keys × ends."""
        flat: Floats = np.bincount(self.key * count + ends, self.bytes, minlength=self.keys * count).astype(
            float
        )
        return flat.reshape(self.keys, count)


Leg = tuple[Rows, Ints, Floats | float]
"""Flows that pass a bundle: rows of the flows, the bundle of each, and the share of its bytes."""


@dataclass(frozen=True)
class Bundles:
    """A fabric's bundles: arrays with one entry each.

    class_      index in CLASSES
    share       of a bundle's load, on one of its links: one over their number
    capacity    bytes per second of one of its links
    """

    class_: Ints
    share: Floats
    capacity: Floats

    def __len__(self) -> int:
        return len(self.class_)


@dataclass(frozen=True)
class Parts:
    """What a fabric is built from: switches, two-way links, and the switches' ports in use."""

    switches: int
    links: int
    ports: int

    def times(self, number: int) -> "Parts":
        """Return the parts of so many fabrics of a kind."""
        return Parts(*(part * number for part in (self.switches, self.links, self.ports)))


class Fabric(Protocol):
    """What joins hosts: its bundles, and what flows between hosts put on them."""

    @property
    def hosts(self) -> int:
        """Hosts that it has places for."""

    @property
    def hosts_are_its_own(self) -> bool:
        """Whether hosts are there, with their links, also where a workload has no GPU for them."""

    @property
    def bundles(self) -> Bundles:
        """Its bundles."""

    def loads(self, flows: Flows) -> Floats:
        """Return the bytes on each bundle, samples × keys × bundles: one sample unless routes are drawn."""

    def links(self) -> pl.DataFrame:
        """Return one row per one-way link: `bundle`, `source`, `target`; hosts are named `host <number>`."""

    def parts(self) -> Parts:
        """Return what it is built from."""


def carried(flows: Flows, legs: Iterator[Leg], bundles: int) -> Floats:
    """Return the bytes that legs put on bundles, keys × bundles."""
    total = np.zeros(flows.keys * bundles)
    for rows, bundle, share in legs:
        cells = flows.key[rows] * bundles + bundle
        np.add.at(total, cells, flows.bytes[rows] * share)
    return total.reshape(flows.keys, bundles)


def sample_mean(samples: Floats) -> Floats:
    """Return the mean of samples, added one after the other: other keys do not change how it is rounded."""
    total: Floats = reduce(np.add, samples)
    return total / len(samples) if len(samples) > 1 else total


def bundled(*parts: tuple[str, int, float, float]) -> Bundles:
    """Return bundles one class after the other: class, number, share of one link, capacity."""
    numbers = [number for _, number, _, _ in parts]
    return Bundles(
        *(
            np.repeat(np.array(column), numbers)
            for column in (
                [CLASSES.index(class_) for class_, _, _, _ in parts],
                [float(share) for _, _, share, _ in parts],
                [float(capacity) for _, _, _, capacity in parts],
            )
        )
    )


def named(what: str, numbers: Ints) -> pl.Series:
    """Return names of numbered things, such as `leaf 3`."""
    return pl.Series(numbers).cast(pl.String).str.replace("^", f"{what} ")
