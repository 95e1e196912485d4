"""Rings as NCCL runs them, walked one channel after the other: what the columns are held against."""

from collections import Counter


def _inside(members: list[int], channel: int, turn: str) -> list[int]:
    """The order in which a channel passes the members of a node."""
    m = len(members)
    if turn in ("up", "step"):
        first = channel if turn == "up" else channel - 1
        return [members[(first + i) % m] for i in range(m)]
    if turn == "down":
        return [members[(channel - 1 - i) % m] for i in range(m)]
    # Down from c - 2 to c + 1, then c - 1 and c.
    order = [members[(channel - 2 - i) % m] for i in range(m - 2)]
    return [*order, members[(channel - 1) % m], members[channel % m]]


def naive_channels(group: list[int], gpus_per_node: int) -> list[list[int]]:
    """The channels of one group's ring, each the members in the order in which it passes them."""
    nodes: dict[int, list[int]] = {}
    for rank in group:
        nodes.setdefault(rank // gpus_per_node, []).append(rank)
    each = list(nodes.values())
    if len(each) == 1:
        return [group]
    channels = min(map(len, each))
    turns = ["up" if j % 2 == 0 else "down" for j in range(len(each))]
    if len(each) % 2 and channels > 2:
        turns[-2:] = ["step", "back"]
    return [
        [rank for members, turn in zip(each, turns, strict=True) for rank in _inside(members, channel, turn)]
        for channel in range(channels)
    ]


def naive_ring(group: list[int], gpus_per_node: int, sent: dict[int, int]) -> Counter[tuple[int, int]]:
    """What each member that puts `sent` bytes on links sends to whom, evenly over the channels.

    What does not divide stays inside the node where a channel does: it goes to the member that is next in
    order, in nodes passed downwards to the one before, or where no channel takes that way, to the next.
    """
    channels = naive_channels(group, gpus_per_node)
    ways: Counter[tuple[int, int]] = Counter()
    for order in channels:
        for i, rank in enumerate(order):
            ways[rank, order[(i + 1) % len(order)]] += 1
    bytes_: Counter[tuple[int, int]] = Counter()
    for (rank, peer), number in ways.items():
        bytes_[rank, peer] += number * (sent[rank] // len(channels))
    for rank in group:
        left = sent[rank] - sum(size for (source, _), size in bytes_.items() if source == rank)
        if left:
            bytes_[rank, _main(rank, ways, gpus_per_node)] += left
    return bytes_


def _main(rank: int, ways: Counter[tuple[int, int]], gpus_per_node: int) -> int:
    node = sorted({source for source, _ in ways if source // gpus_per_node == rank // gpus_per_node})
    before, after = node[node.index(rank) - 1], node[(node.index(rank) + 1) % len(node)]
    return before if (rank, before) in ways else after
