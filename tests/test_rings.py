"""Rings as channels: by hand, against channels walked one by one, and as properties."""

from collections import Counter
from itertools import pairwise

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from moesweep.shapes.rings import ring_shares
from naive_rings import naive_channels, naive_ring


def shares(group: list[int], gpus_per_node: int) -> pl.DataFrame:
    members = pl.DataFrame({"rank": group}, schema={"rank": pl.Int64}).select(
        "rank", group_kind=pl.lit("tp"), group_id=pl.lit(0), node=pl.col("rank") // gpus_per_node
    )
    return ring_shares(members)


def sent(group: list[int], gpus_per_node: int, wire: int) -> Counter[tuple[int, int]]:
    found: Counter[tuple[int, int]] = Counter()
    for row in shares(group, gpus_per_node).iter_rows(named=True):
        evenly, rest = divmod(wire, row["channels"])
        found[row["rank"], row["peer"]] += row["share"] * evenly + row["rest"] * rest
    return found


def test_two_nodes_of_four_by_hand() -> None:
    """Four channels: up through the first node, down through the second; a quarter leaves at every member."""
    up = {(r, (r + 1) % 4): 75 for r in range(4)}
    down = {(4 + r, 4 + (r - 1) % 4): 75 for r in range(4)}
    across = {(r, r + 4): 25 for r in range(4)} | {(r + 4, r): 25 for r in range(4)}
    assert sent(list(range(8)), 4, 100) == up | down | across


def test_three_nodes_of_four_keep_their_rails_by_hand() -> None:
    """The third node goes from c - 2 down to c + 1 (here one hop less than none), then c - 1 and c."""
    found = sent(list(range(12)), 4, 100)
    across = {(r, (r + 4) % 12): 25 for r in range(12)}
    up = {(4 * node + r, 4 * node + (r + 1) % 4): 75 for node in range(2) for r in range(4)}
    # Each channel's path is c-2, c+1, c-1, c: of places p one channel each to p-1, p-2 and p+1.
    back = {(8 + r, 8 + (r + step) % 4): 0 for r in range(4) for step in (-1, -2, 1)}
    for channel in range(4):
        path = [(channel + step) % 4 for step in (-2, 1, -1, 0)]
        for a, b in pairwise(path):
            back[8 + a, 8 + b] += 25
    assert found == Counter(across) + Counter(up) + Counter(back)
    assert set(back.values()) == {25}


def test_groups_of_one_frame_are_rings_of_their_own() -> None:
    two = [list(range(6)), list(range(6, 12))]
    members = pl.DataFrame({"rank": two[0] + two[1], "group_id": [0] * 6 + [1] * 6}).select(
        "rank", "group_id", group_kind=pl.lit("tp"), node=pl.col("rank") // 4
    )
    alone = [ring_shares(members.filter(group_id=number)) for number in (0, 1)]
    assert ring_shares(members).sort("rank", "peer").equals(pl.concat(alone).sort("rank", "peer"))


def test_one_member_a_node_is_one_ring() -> None:
    assert sent([0, 8, 16], 8, 7) == {(0, 8): 7, (8, 16): 7, (16, 0): 7}


def test_a_ring_inside_a_node_is_the_order_of_its_group() -> None:
    assert sent([1, 3, 5], 8, 7) == {(1, 3): 7, (3, 5): 7, (5, 1): 7}


@st.composite
def standing_groups(draw: st.DrawFn) -> tuple[list[int], int]:
    """A group of ranks one stride apart, and GPUs a node."""
    size, stride, first = (draw(st.integers(*bounds)) for bounds in ((2, 24), (1, 6), (0, 9)))
    return [first + i * stride for i in range(size)], draw(st.sampled_from([1, 2, 3, 4, 5, 8]))


@given(standing_groups(), st.integers(0, 1000))
def test_columns_are_the_channels_walked_one_by_one(standing: tuple[list[int], int], wire: int) -> None:
    group, node = standing
    assert +sent(group, node, wire) == +naive_ring(group, node, dict.fromkeys(group, wire))


@given(standing_groups())
def test_every_channel_passes_everybody_once(standing: tuple[list[int], int]) -> None:
    group, node = standing
    for order in naive_channels(group, node):
        assert sorted(order) == group
        # A channel leaves each node once, so it is on one node after the other.
        visited = [rank // node for rank in order]
        assert sum(a != b for a, b in zip(visited, visited[1:] + visited[:1], strict=True)) in (
            0,
            len(set(visited)),
        )


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 9), st.integers(1, 10**6))
def test_full_nodes_share_their_bytes_and_keep_their_rails(node: int, nodes: int, wire: int) -> None:
    """Every member sends and gets 1/m of the bytes across nodes, on its own rail, and all others inside."""
    group = list(range(node * nodes))
    found = sent(group, node, wire)
    across = {pair: size for pair, size in found.items() if pair[0] // node != pair[1] // node and size}
    if nodes == 1:
        assert not across
        return
    part = wire if node == 1 else wire // node
    assert all(size == part for size in across.values())
    if part:
        assert len(across) == len(group)
    if nodes % 2 == 0 or node != 2:
        assert all(a % node == b % node for a, b in across)
    got = Counter[int]()
    for (_, peer), size in found.items():
        got[peer] += size
    assert set(got.values()) == {wire} or len(group) == 1
