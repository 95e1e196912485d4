"""Topologies and routes: closed forms, goldens worked by hand, and links walked one by one."""

from math import prod

import numpy as np
import polars as pl
import pytest

from moesweep.network.dragonfly import Dragonfly
from moesweep.network.graph import Graph
from moesweep.network.lattice import Lattice
from moesweep.network.slowdown import carried
from moesweep.network.topology import Topology
from moesweep.network.tree import Tree
from naive_network import link_ends, per_link
from network_loads import by_class, everyone, flows, leaf_spine, shifted, total


@pytest.mark.parametrize(("spines", "leaf", "slowdown"), [(2, 24, 1.6), (4, 12, 1), (1, 48, 3.2)])
def test_leaf_and_spine(spines: int, leaf: int, slowdown: float) -> None:
    """2:1 slows an all-to-all by 1.6, not by 2: a fifth of it stays on the leaf."""
    tree = leaf_spine(spines)
    assert by_class(tree, everyone(16)) == {"nic": [15], "leaf": [leaf]}
    assert total(tree, everyone(16)) == 864 == 3.6 * 240
    alone = Topology(16, 1, tree, "rank", 1, False, 1.0, 1.0)
    assert carried(alone, flows(everyone(16))).slowdown.tolist() == [slowdown]


@pytest.mark.parametrize("k", [2, 4, 6, 8])
def test_fat_trees(k: int) -> None:
    """N - 1, N - k/2 and N - k²/4 on links of hosts, of edge switches, and to the core."""
    n, half = k**3 // 4, k // 2
    tree = Tree(n, (half, half, k), (1, half, half), (1.0, 1.0, 1.0))
    assert by_class(tree, everyone(n)) == {"nic": [n - 1], "leaf": [n - half], "spine": [n - k * k // 4]}
    assert tree.parts().switches == 5 * k * k // 4
    assert tree.parts().links == 3 * n
    assert tree.parts().ports == k * tree.parts().switches


def test_a_fat_tree_of_16_by_hand() -> None:
    tree = Tree(16, (2, 2, 4), (1, 2, 2), (1.0, 1.0, 1.0))
    assert by_class(tree, everyone(16)) == {"nic": [15], "leaf": [14], "spine": [12]}


@pytest.mark.parametrize("shape", [(4, 3, 2), (2, 2), (5,), (3, 1, 4)])
def test_hyperx(shape: tuple[int, ...]) -> None:
    """A link of dimension i carries N / S_i, and ⌊S_i²/4⌋·N/S_i of them join two halves."""
    lattice, n = Lattice(shape, False, False, 0, 1.0, 1.0), prod(shape)
    loads = per_link(lattice, flows(everyone(n)))
    number = (
        pl.col("source").str.extract(r"(\d+)").cast(pl.Int64),
        pl.col("target").str.extract(r"(\d+)").cast(pl.Int64),
    )
    for i, size in enumerate(shape):
        after = prod(shape[i + 1 :])
        at, to = (n_ // after % size for n_ in number)
        own = loads.filter(at != to)
        assert own["bytes"].unique().to_list() == ([n / size] if size > 1 else [])
        halves = own.filter((at < size // 2) & (to >= size // 2))
        assert halves.height == size * size // 4 * n // size
    if shape == (4, 3, 2):
        assert total(lattice, everyone(n)) / (n * (n - 1)) == 2.0


@pytest.mark.parametrize("n", range(1, 13))
def test_rings_of_links(n: int) -> None:
    ring = Lattice((n,), True, False, 0, 1.0, 1.0)
    expected = n * n / 8 if n % 2 == 0 else (n * n - 1) / 8
    assert set(per_link(ring, flows(everyone(n)))["bytes"]) == ({expected} if n > 1 else set())
    if n == 8:
        assert total(ring, everyone(8)) / 56 == pytest.approx(16 / 7)


def test_a_torus_of_4_by_4() -> None:
    torus = Lattice((4, 4), True, False, 0, 1.0, 1.0)
    assert by_class(torus, everyone(16)) == {"lattice": [8]}
    assert total(torus, everyone(16)) / 240 == pytest.approx(2.1333333)


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_transpose_on_a_torus(n: int) -> None:
    """(a, b) sends to (b, a), first along the first dimension: all of row b meets on its way to column b.

    On the ring of column b each a sends one unit to b; so the busiest links are those into b, which half of
    the others reach: ⌊n/2⌋ or, with ties, (n-1)/2 each.
    """
    torus = Lattice((n, n), True, False, 0, 1.0, 1.0)
    pairs = {(a * n + b, b * n + a): 1 for a in range(n) for b in range(n) if a != b}
    loads = per_link(torus, flows(pairs))
    assert loads["bytes"].max() == (n - 1) / 2
    # Valiant: twice an all-to-all's N·n/8 (n even) over N, a little less as the diagonal sends nothing.
    spread = Lattice((n, n), True, True, 0, 1.0, 1.0)
    assert 0.7 * n / 4 < per_link(spread, flows(pairs))["bytes"].max() <= n / 4  # type: ignore[operator]


@pytest.mark.parametrize("rings", [False, True])
def test_valiant_on_a_lattice_is_twice_its_all_to_all(rings: bool) -> None:
    """Whatever permutation is sent: two sweeps over all vertices, a unit of each vertex spread over N."""
    shape, n = (4, 3), 12
    minimal, spread = (Lattice(shape, rings, valiant, 0, 1.0, 1.0) for valiant in (False, True))
    expected = 2 * minimal.loads(flows(everyone(n)))[0] / n
    for places in (1, 5, 7):
        assert spread.loads(flows(shifted(n, places)))[0] == pytest.approx(expected)


def test_dragonfly_plus() -> None:
    """Golden C: 3 groups of 2 leaves with 2 GPUs, 2 spines, each joined to its like in both other groups."""
    network = Dragonfly(3, 2, 2, 2, 2, False, (1.0, 1.0, 1.0))
    assert by_class(network, everyone(12)) == {"nic": [11], "leaf": [10], "global": [8]}
    assert total(network, everyone(12)) == 600 == pytest.approx(132 * 50 / 11)
    assert network.parts().switches == 12
    # Spine i is joined to spine i of the other groups.
    spines = [ends for ends in link_ends(network) if all(end.startswith("spine") for end in ends)]
    assert all(int(a.split()[1]) % 2 == int(b.split()[1]) % 2 for a, b in spines)
    assert len(spines) == 12


@pytest.mark.parametrize(("a", "p", "h"), [(2, 2, 2), (4, 2, 2), (2, 1, 1), (3, 2, 1)])
def test_dragonfly(a: int, p: int, h: int) -> None:
    """(a·p)² on a global link, p² + 2·a·h·p² on a local one."""
    groups = a * h + 1
    network = Dragonfly(groups, a, p, 0, h, False, (1.0, 1.0, 1.0))
    n = groups * a * p
    expected = {"nic": [n - 1], "local": [p * p + 2 * a * h * p * p], "global": [(a * p) ** 2]}
    assert by_class(network, everyone(n)) == expected


def test_shortest_paths_overload_a_dragonfly() -> None:
    """(4, 2, 2, 9): by rule 64 on a global link; two global hops where they are shorter load some with 94."""
    network = Dragonfly(9, 4, 2, 0, 2, False, (1.0, 1.0, 1.0))
    assert by_class(network, everyone(72))["global"] == [64]
    names = {name: i for i, name in enumerate(dict.fromkeys(e for ends in link_ends(network) for e in ends))}
    hosts = sorted((n for n in names if n.startswith("host")), key=lambda n: int(n.split()[1]))
    order = [*hosts, *(n for n in names if n not in hosts)]
    place = {name: i for i, name in enumerate(order)}
    ends = np.array([[place[a], place[b]] for a, b in link_ends(network)])
    graph = Graph(72, tuple(order), ends[:, 0], ends[:, 1], np.ones(len(ends)))
    loads = per_link(graph, flows(everyone(72)))
    group = {name: int(name.split()[1]) // 4 for name in order if name.startswith("switch")}
    globals_ = [
        size
        for a, b, size in loads.select("source", "target", "bytes").iter_rows()
        if a in group and b in group and group[a] != group[b]
    ]
    assert max(globals_) == pytest.approx(94, abs=0.5)


@pytest.mark.parametrize(("a", "p", "h", "groups"), [(2, 2, 2, 5), (2, 1, 1, 3), (4, 2, 2, 9)])
def test_the_next_group_is_a_dragonfly_s_worst_pattern(a: int, p: int, h: int, groups: int) -> None:
    """Golden D: minimal a·p on one global link a group and nothing elsewhere, Valiant 2ap/g on all."""
    minimal, spread = (Dragonfly(groups, a, p, 0, h, v, (1.0, 1.0, 1.0)) for v in (False, True))
    pairs = shifted(groups * a * p, a * p)
    used = per_link(minimal, flows(pairs)).filter(pl.col("class") == "global")
    assert sorted(used["bytes"]) == [0.0] * (groups * (groups - 2)) + [float(a * p)] * groups
    assert by_class(spread, pairs)["global"] == [pytest.approx(2 * a * p / groups, abs=1e-9)]
