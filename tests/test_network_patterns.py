"""Patterns of traffic on networks: the worst ones, rails, PXN, shortest paths link by link, hashing."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesweep.network.dragonfly import Dragonfly
from moesweep.network.flows import CLASSES, Fabric
from moesweep.network.hashed import SEEDS, HashedTree, draws
from moesweep.network.lattice import Lattice
from moesweep.network.slowdown import carried
from moesweep.network.topology import Topology
from moesweep.network.tree import Tree, fitted
from moesweep.store.tablefile import words
from naive_network import ecmp, found, link_ends, shortest, what_stays
from network_loads import Pairs, by_class, everyone, flows, leaf_spine, shifted, total


def rails(nodes: int, gpus: int, spines: int) -> Topology:
    """Golden B: nodes of GPUs on rails, one leaf a rail, all leaves on spines."""
    tree = fitted(nodes * gpus, (nodes, gpus), (1, spines), (1.0, 1.0))
    return Topology(nodes * gpus, gpus, tree, "rail", nodes, False, 1.0, 1.0)


def loaded(topology: Topology, pairs: Pairs) -> dict[tuple[str, str], float]:
    """The links that carry anything."""
    link, _, bytes_ = topology.link_loads(flows(pairs))
    ends = topology.links[link]
    return dict(zip(ends.select("source", "target").iter_rows(), bytes_.tolist(), strict=True))


def ring(order: Iterable[int]) -> Pairs:
    ranks = list(order)
    return dict.fromkeys(zip(ranks, ranks[1:] + ranks[:1], strict=True), 1)


@pytest.mark.parametrize(
    ("tree", "places", "expected"),
    [
        (Tree(16, (4, 4), (1, 2), (1.0, 1.0)), 4, {"nic": [1], "leaf": [2]}),
        (Tree(128, (4, 4, 8), (1, 2, 4), (1.0, 1.0, 1.0)), 16, {"nic": [1], "leaf": [2], "spine": [2]}),
    ],
)
def test_the_next_subtree_is_a_tree_s_worst_pattern(
    tree: Tree, places: int, expected: dict[str, list[float]]
) -> None:
    """Nothing stays below a leaf, or in a pod: all of 2:1 shows, where an all-to-all of 16 shows 1.6."""
    pairs = shifted(tree.hosts, places)
    assert by_class(tree, pairs) == expected
    alone = Topology(tree.hosts, 1, tree, "rank", 1, False, 1.0, 1.0)
    assert carried(alone, flows(pairs)).slowdown.tolist() == [2]


def test_the_next_group_is_a_dragonfly_plus_s_worst_pattern() -> None:
    """Golden C's: 4 GPUs share 2 global links to the next group; by drawn leaves 2 · 4/3 over 2 links."""
    minimal, spread = (Dragonfly(3, 2, 2, 2, 2, v, (1.0, 1.0, 1.0)) for v in (False, True))
    assert by_class(minimal, shifted(12, 4)) == {"nic": [1], "leaf": [1], "global": [0, 2]}
    assert by_class(spread, shifted(12, 4))["global"] == [pytest.approx(4 / 3, abs=1e-9)]


def test_the_next_switch_is_a_hyperx_s_worst_pattern() -> None:
    """All 5 GPUs of a switch of 4 x 3 take one link, the others nothing; Valiant puts 2·5/S_i on each."""
    minimal, spread = (Lattice((4, 3), False, valiant, 5, 1.0, 1.0) for valiant in (False, True))
    pairs = {
        (15 * x + 5 * y + g, 15 * x + 5 * ((y + 1) % 3) + g): 1
        for x in range(4)
        for y in range(3)
        for g in range(5)
    }
    assert by_class(minimal, pairs) == {"nic": [1], "lattice": [0, 5]}
    assert by_class(spread, pairs)["lattice"] == [pytest.approx(size, abs=1e-9) for size in (2.5, 10 / 3)]
    alone = Topology(60, 1, minimal, "rank", 1, False, 1.0, 1.0)
    assert carried(alone, flows(pairs)).slowdown.tolist() == [5]


def test_the_next_rail_is_a_rail_s_worst_pattern() -> None:
    """To the next rail of the other node: both cards of a leaf cross one spine's link; with PXN none does."""
    plain = rails(2, 4, 1)
    pairs = {(g, (g // 4 + 1) % 2 * 4 + (g + 1) % 4): 1 for g in range(8)}
    leaves = {size for ends, size in loaded(plain, pairs).items() if "spine" in ends[0] + ends[1]}
    assert leaves == {2}
    assert carried(plain, flows(pairs)).slowdown.tolist() == [2]
    pxn = replace(plain, pxn=True)
    assert not [ends for ends in loaded(pxn, pairs) if "spine" in ends[0] + ends[1]]
    assert {size for ends, size in loaded(pxn, pairs).items() if "nvswitch" in ends[0] + ends[1]} == {1}


def test_rails() -> None:
    """Golden B: 2 nodes of 4 GPUs."""
    tp = loaded(rails(2, 4, 2), ring(range(4)))
    assert tp == {(f"gpu {g}", "nvswitch 0"): 1 for g in range(4)} | {
        ("nvswitch 0", f"gpu {g}"): 1 for g in range(4)
    }
    dp: Pairs = {}
    for g in range(4):
        dp |= ring((g, g + 4))
    cards = loaded(rails(2, 4, 2), dp)
    assert cards == {(f"gpu {g}", f"leaf {g % 4}"): 1 for g in range(8)} | {
        (f"leaf {g % 4}", f"gpu {g}"): 1 for g in range(8)
    }
    # Only 3 -> 4 and 7 -> 0 leave their nodes, both from rail 3 to rail 0.
    world = loaded(rails(2, 4, 1), ring(range(8)))
    assert {ends: size for ends, size in world.items() if "spine" in ends[0] + ends[1]} == {
        ("leaf 3", "spine 0"): 2,
        ("spine 0", "leaf 0"): 2,
    }
    exchange = rails(2, 4, 2)
    link, _, bytes_ = exchange.link_loads(flows(everyone(8)))
    by_class = exchange.links[link].with_columns(bytes=pl.Series(bytes_)).group_by("class").agg("bytes")
    assert {class_: set(sizes) for class_, sizes in by_class.iter_rows()} == {
        "nic": {4},
        "nvlink": {3},
        "leaf": {3},
    }


def rail_only(nodes: int, gpus: int) -> Topology:
    """Golden E: every rail a switch of its own."""
    return Topology(nodes * gpus, gpus, fitted(nodes, (nodes,), (1,), (1.0,)), "apart", 1, True, 1.0, 1.0)


def test_pxn() -> None:
    """Golden E: from GPU 0 to 6 over NVLink to GPU 2, which stands on the receiver's rail."""
    assert loaded(rail_only(2, 4), {(0, 6): 1}) == {
        ("gpu 0", "nvswitch 0"): 1,
        ("nvswitch 0", "gpu 2"): 1,
        ("gpu 2", "rail 2 leaf 0"): 1,
        ("rail 2 leaf 0", "gpu 6"): 1,
    }
    exchange = loaded(rail_only(2, 4), everyone(8))
    # NVLink: 3 of its own and 3 forwarded, each way.
    assert {ends[0].split()[0] + ends[1].split()[0]: size for ends, size in exchange.items()} == {
        "gpunvswitch": 6,
        "nvswitchgpu": 6,
        "gpurail": 4,
        "railgpu": 4,
    }


FABRICS: dict[str, Fabric] = {
    "leaf, spine": fitted(12, (4, 4), (1, 3), (1.0, 1.0)),
    "three levels": fitted(24, (2, 3, 4), (1, 2, 3), (1.0, 1.0, 1.0)),
    "one leaf": fitted(5, (8, 4), (1, 2), (1.0, 1.0)),
    "hashed": HashedTree(fitted(12, (4, 4), (1, 3), (1.0, 1.0)), 2),
    "hashed, three levels": HashedTree(fitted(24, (2, 3, 4), (1, 2, 3), (1.0, 1.0, 1.0)), 1),
    "hyperx": Lattice((3, 2, 2), False, False, 0, 1.0, 1.0),
    "hyperx of switches": Lattice((3, 2), False, False, 2, 1.0, 1.0),
    "torus": Lattice((4, 3), True, False, 0, 1.0, 1.0),
    "torus of switches": Lattice((2, 5), True, False, 2, 1.0, 1.0),
    "torus, valiant": Lattice((4, 3), True, True, 0, 1.0, 1.0),
    "hyperx of switches, valiant": Lattice((3, 2), False, True, 2, 1.0, 1.0),
    "dragonfly": Dragonfly(5, 2, 2, 0, 2, False, (1.0, 1.0, 1.0)),
    "dragonfly, fewer groups": Dragonfly(3, 4, 1, 0, 1, False, (1.0, 1.0, 1.0)),
    "dragonfly, valiant": Dragonfly(3, 2, 2, 0, 2, True, (1.0, 1.0, 1.0)),
    "dragonfly+": Dragonfly(3, 2, 2, 2, 2, False, (1.0, 1.0, 1.0)),
    "dragonfly+, fewer ports": Dragonfly(4, 2, 2, 3, 1, False, (1.0, 1.0, 1.0)),
    "dragonfly+, valiant": Dragonfly(4, 2, 1, 3, 1, True, (1.0, 1.0, 1.0)),
    "one group": Dragonfly(1, 3, 2, 0, 2, False, (1.0, 1.0, 1.0)),
}

SHORTEST = [
    "leaf, spine",
    "three levels",
    "one leaf",
    "dragonfly+",
    "dragonfly+, fewer ports",
    "one group",
]
"""Fabrics whose routes are all shortest paths, shared evenly hop by hop."""


@st.composite
def traffic(draw: st.DrawFn) -> tuple[str, Pairs]:
    """A fabric, and bytes between some of its hosts."""
    name = draw(st.sampled_from(list(FABRICS)))
    hosts = FABRICS[name].hosts
    pair = st.tuples(st.integers(0, hosts - 1), st.integers(0, hosts - 1)).filter(
        lambda ends: ends[0] != ends[1]
    )
    return name, draw(st.dictionaries(pair, st.integers(1, 1000), min_size=1, max_size=12))


@given(traffic())
def test_what_comes_to_a_switch_leaves_it(drawn: tuple[str, Pairs]) -> None:
    name, pairs = drawn
    kept = what_stays(found(FABRICS[name], flows(pairs)), pairs)
    assert max(abs(size) for size in kept.values()) < 1e-6


@given(traffic())
def test_loads_are_bytes_times_hops(drawn: tuple[str, Pairs]) -> None:
    """Minimal routes are as long as shortest paths, but a Dragonfly's, which keep to one global link."""
    name, pairs = drawn
    fabric = FABRICS[name]
    links = link_ends(fabric)
    hops = {pair: shortest(links, f"host {pair[1]}")[f"host {pair[0]}"] for pair in pairs}
    loads, least = total(fabric, pairs), sum(size * hops[pair] for pair, size in pairs.items())
    if "valiant" in name or name.startswith("dragonfly"):
        assert loads >= least - 1e-6
        return
    assert loads == pytest.approx(least)


@pytest.mark.parametrize("name", SHORTEST)
def test_shortest_paths_link_by_link(name: str) -> None:
    fabric = FABRICS[name]
    pairs = {pair: 1 + (7 * pair[0] + 3 * pair[1]) % 5 for pair in everyone(fabric.hosts)}
    walked = ecmp(fabric, pairs)
    assert found(fabric, flows(pairs)) == pytest.approx({ends: float(size) for ends, size in walked.items()})


@pytest.mark.parametrize("name", ["hyperx", "torus", "torus of switches"])
def test_dimension_order_by_hand(name: str) -> None:
    """Every pair's path, coordinate after coordinate."""
    lattice = FABRICS[name]
    assert isinstance(lattice, Lattice)
    pairs = {pair: 1 + sum(pair) % 3 for pair in everyone(lattice.hosts)}
    walked: dict[tuple[str, str], float] = {}

    def step(a: str, b: str, size: float) -> None:
        walked[a, b] = walked.get((a, b), 0.0) + size

    per = max(lattice.vertex_hosts, 1)
    what = "switch" if lattice.vertex_hosts else "host"
    for (source, target), size in pairs.items():
        at, to = source // per, target // per
        if lattice.vertex_hosts:
            step(f"host {source}", f"switch {at}", size)
            step(f"switch {to}", f"host {target}", size)
        for i, side in enumerate(lattice.shape):
            after = prod(lattice.shape[i + 1 :])
            here, there = at // after % side, to // after % side
            for way, share in ways(here, there, side, lattice.rings):
                for a, b in pairwise(way):
                    step(
                        f"{what} {at + (a - here) * after}", f"{what} {at + (b - here) * after}", size * share
                    )
            at += (there - here) * after
    assert found(lattice, flows(pairs)) == pytest.approx(walked)


def ways(here: int, there: int, side: int, rings: bool) -> list[tuple[list[int], float]]:
    """The ways from one place of a line to another, each with its share."""
    if here == there:
        return []
    if not rings:
        return [([here, there], 1.0)]
    up = [(here + i) % side for i in range((there - here) % side + 1)]
    down = [(here - i) % side for i in range((here - there) % side + 1)]
    if len(up) == len(down):
        return [(up, 0.5), (down, 0.5)]
    return [(min(up, down, key=len), 1.0)]


def test_hashed_flows_keep_to_one_path() -> None:
    """A pair's bytes take one way up and come down by the same switches; seeds draw others, evenly."""
    tree = fitted(24, (2, 3, 4), (1, 2, 3), (1.0, 1.0, 1.0))
    one = HashedTree(tree, 1).loads(flows({(0, 23): 6}))
    assert one.shape[0] == SEEDS
    for drawn in one:
        assert np.count_nonzero(drawn) == 6
        assert set(drawn[drawn > 0]) == {6.0}
    assert len({tuple(np.flatnonzero(drawn[0])) for drawn in one}) > 3
    pairs = [(0, 1), (1, 0), (4095, 17)]
    drawn_ = draws(*(np.array(ends) for ends in zip(*pairs, strict=True)), 5)
    assert drawn_.tolist() == [mixed(a << 32 | b, 5) for a, b in pairs]
    far = draws(np.arange(30_000), np.arange(30_000) + 1, 3) % 7
    assert np.bincount(far) == pytest.approx(30_000 / 7, rel=0.05)


def mixed(number: int, seed: int) -> int:
    """The finaliser of splitmix64, twice, in Python's whole numbers."""
    mask = 2**64 - 1
    z = (number + (seed + 1) * 0x9E3779B97F4A7C15) & mask
    for _ in range(2):
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
    return z >> 32


def test_hashing_meets_on_links_where_a_fluid_does_not() -> None:
    """Rings are one fat flow a card: on 4 leaves of 4 cards and 4 spines some meet."""
    pairs = shifted(16, 4)
    fluid, hashed = leaf_spine(4), HashedTree(leaf_spine(4), 1)
    worst = hashed.loads(flows(pairs)).max(axis=(1, 2))
    assert (fluid.loads(flows(pairs))[0, 0] * fluid.bundles.share).max() == 1
    assert 2 <= worst.mean() <= 4
    more = HashedTree(leaf_spine(4), 16).loads(flows(pairs)).max(axis=(1, 2))
    assert more.mean() < worst.mean()


def test_classes_are_words() -> None:
    assert list(CLASSES) == words()["link_class"]
    assert {CLASSES[c] for fabric in FABRICS.values() for c in fabric.bundles.class_} == {
        "nic",
        "leaf",
        "spine",
        "local",
        "global",
        "lattice",
    }
