"""Rings as NCCL runs them: which member of a group sends to which, and how much of its bytes.

A ring whose members share nodes is several rings, channels: one for each member that a node has (the fewest
of any node). A channel takes 1/C of the bytes and passes all members of a node before it leaves it. Channel c
leaves and enters nodes at member c or the one before: it turns round in every other node, so that a message
between nodes leaves and arrives at the same place in them, on one rail.

    node 0 enters at c, goes up, leaves at c - 1; node 1 enters at c - 1, goes down, leaves at c; and so on

The last three of an odd number of nodes go c .. c - 1, c - 1 .. c - 2, and from c - 2 down to c + 1, then
c - 1 and c. Two channels cannot: they change rails once, between the last node and the first. Source: NCCL's
ring graphs (`src/graph/search.cc`, `rings.cc`): channels use one NIC each where NICs are as many as GPUs.
"""

import polars as pl

_GROUP = ("group_kind", "group_id")
_NODE = (*_GROUP, "node")

_UP, _STEP, _BACK, _DOWN = 0, 1, 2, 3
"""How channels pass a node: c to c - 1; c - 1 to c - 2; c - 2 to c; c - 1 to c."""


def ring_shares(members: pl.DataFrame) -> pl.DataFrame:
    """Return to whom the members of rings send: group_kind, rank, peer, channels, share, rest.

    members   group_kind, group_id, rank and the node each stands on; members of a node follow one another

    A rank that puts W bytes on links sends a peer share · ⌊W / channels⌋ of them, and all that does not
    divide where `rest` is 1, once for every rank. So ranks of a group send and receive W, to the byte.
    """
    placed = _placed(members)
    columns = ("group_kind", "rank", "peer", "channels", "share", "rest")
    return pl.concat([_leaving(placed).select(columns), _staying(placed).select(columns)])


def _placed(members: pl.DataFrame) -> pl.DataFrame:
    """Add where each member stands, how channels pass its node, and what node comes next.

    at, first_of_node, next_node     rows: its own, the node's first, the next node's first
    place, in_node, next_in_node     its place in the node, and members there and on the next one
    j, nodes, channels               number of its node, of nodes, and of channels of its group
    turn, next_turn                  how channels pass this node and the next one
    """
    at = pl.int_range(pl.len(), dtype=pl.Int64)
    counted = members.with_columns(at=at).with_columns(
        first_of_node=pl.col("at").first().over(_NODE),
        first=pl.col("at").first().over(_GROUP),
        in_node=pl.len().over(_NODE).cast(pl.Int64),
        size=pl.len().over(_GROUP).cast(pl.Int64),
    )
    nodes = pl.col("node").rle_id().over(_GROUP).cast(pl.Int64)
    along = (pl.col("first_of_node") + pl.col("in_node") - pl.col("first")) % pl.col("size")
    frame = counted.with_columns(
        place=pl.col("at") - pl.col("first_of_node"),
        j=nodes,
        nodes=nodes.max().over(_GROUP) + 1,
        next_node=pl.col("first") + along,
        channels=pl.col("in_node").min().over(_GROUP),
    ).with_columns(turn=_turn())
    return frame.with_columns(
        next_turn=frame["turn"].gather(frame["next_node"]),
        next_in_node=frame["in_node"].gather(frame["next_node"]),
    )


def _turn() -> pl.Expr:
    j, nodes = pl.col("j"), pl.col("nodes")
    odd = (nodes % 2 == 1) & (nodes > 1) & (pl.col("channels") > 2)
    last = pl.when(j == nodes - 1).then(_BACK).when(j == nodes - 2).then(_STEP)
    pair = pl.when(j % 2 == 0).then(_UP).otherwise(_DOWN)
    return pl.when(odd & (j >= nodes - 2)).then(last.otherwise(_UP)).otherwise(pair)


def _ahead() -> pl.Expr:
    """Return how far the channel that leaves a node at a member is ahead of its place."""
    turn = pl.col("turn")
    return pl.when(turn == _UP).then(1).when(turn == _STEP).then(2).otherwise(0)


def _leaving(placed: pl.DataFrame) -> pl.DataFrame:
    """Return what members send to the next node: the channel that leaves at each, if one does."""
    m = pl.col("in_node")
    following = pl.col("next_turn")
    entry = pl.when(following == _UP).then(0).when(following == _BACK).then(2).otherwise(1)
    leaving = placed.filter(pl.col("nodes") > 1).with_columns(channel=(pl.col("place") + _ahead()) % m)
    there = leaving.filter(pl.col("channel") < pl.col("channels")).with_columns(
        to=pl.col("next_node") + (pl.col("channel") - entry) % pl.col("next_in_node")
    )
    alone = (pl.col("channels") == 1).cast(pl.Int64)
    return there.with_columns(peer=placed["rank"].gather(there["to"]), share=pl.lit(1, pl.Int64), rest=alone)


def _staying(placed: pl.DataFrame) -> pl.DataFrame:
    """Return what members send inside their node: up to two more channels than the main one turn off."""
    m, place, channels, turn = (pl.col(name) for name in ("in_node", "place", "channels", "turn"))
    back, inside = turn == _BACK, pl.col("nodes") == 1

    def taken(channel: pl.Expr) -> pl.Expr:
        return (channel % m < channels).cast(pl.Int64)

    leaves = pl.when(inside).then(0).otherwise(taken(place + _ahead()))
    # Of channel c, c - 1 sends to c, and c + 1 to c - 1.
    to_c, from_next = (pl.when(back).then(taken(place + d)).otherwise(0) for d in (1, -1))
    main = channels - leaves - to_c - from_next
    ways = (
        (pl.when(turn.is_in([_UP, _STEP])).then(1).otherwise(-1), main, (main > 0).cast(pl.Int64)),
        (pl.lit(1), to_c, (back & (main == 0)).cast(pl.Int64)),
        (pl.lit(-2), from_next, pl.lit(0, pl.Int64)),
    )
    shared = placed.filter(m > 1)
    parts = [
        shared.select(
            *placed.columns, to=pl.col("first_of_node") + (place + step) % m, share=share, rest=rest
        )
        for step, share, rest in ways
    ]
    staying = pl.concat(parts).filter((pl.col("share") > 0) | (pl.col("rest") > 0))
    return staying.with_columns(peer=placed["rank"].gather(staying["to"]))
