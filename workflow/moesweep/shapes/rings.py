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

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

Ints = np.ndarray[Any, np.dtype[np.int64]]

_UP, _STEP, _BACK, _DOWN = 0, 1, 2, 3
"""How channels pass a node: c to c - 1; c - 1 to c - 2; c - 2 to c; c - 1 to c."""

_SENT = ("peer", "channels", "share", "rest")

_ENTRY = np.array([0, 1, 2, 1])
_EXIT = np.array([1, 2, 0, 0])
"""How far before its own member a channel enters a node, and leaves it."""


def ring_shares(members: pl.DataFrame) -> pl.DataFrame:
    """Return to whom the members of rings send: group_kind, rank, peer, channels, share, rest.

    members   group_kind, group_id, rank and the node each stands on; members of a group follow one another,
              and those of a node

    A rank that puts W bytes on links sends a peer share · ⌊W / channels⌋ of them, and all that does not
    divide where `rest` is 1, once for every rank. So ranks of a group send and receive W, to the byte.
    """
    if members.is_empty():
        nobody = members.select("group_kind", "rank")
        return nobody.with_columns(pl.lit(0, pl.Int64).alias(name) for name in _SENT)
    stand = _Standing.of(members)
    parts = [_leaving(stand), *_staying(stand)]
    at, to, share, rest = (np.concatenate(column) for column in zip(*parts, strict=True))
    used = share > 0
    at, to = at[used], to[used]
    return members.select("group_kind", "rank")[at].with_columns(
        peer=members["rank"].gather(to),
        channels=pl.Series(stand.channels[at]),
        share=pl.Series(share[used]),
        rest=pl.Series(rest[used]),
    )


@dataclass(frozen=True)
class _Standing:
    """Where members stand: one entry each.

    place, in_node   place in its node, and members there
    nodes, channels  of its group
    turn             how channels pass its node
    first, next_     the row where its node begins, and where the next one does
    """

    place: Ints
    in_node: Ints
    nodes: Ints
    channels: Ints
    turn: Ints
    first: Ints
    next_: Ints

    @staticmethod
    def of(members: pl.DataFrame) -> "_Standing":
        """Return where members stand, by runs of rows of a group and of its nodes."""
        group = (
            members.select(pl.struct("group_kind", "group_id").rle_id())
            .to_series()
            .to_numpy()
            .astype(np.int64)
        )
        node = members["node"].to_numpy()
        begins = np.ones(len(node), dtype=bool)
        begins[1:] = (group[1:] != group[:-1]) | (node[1:] != node[:-1])
        start = np.flatnonzero(begins)
        run = np.cumsum(begins) - 1
        length = np.diff(np.append(start, len(node)))
        group_of_run = group[start]
        runs = np.bincount(group_of_run)
        first_run = np.concatenate([[0], np.cumsum(runs)[:-1]]).astype(np.int64)
        j = np.arange(len(start)) - first_run[group_of_run]
        following = first_run[group_of_run] + (j + 1) % runs[group_of_run]
        channels = np.minimum.reduceat(length, first_run)[group_of_run]
        turn = _turns(j, runs[group_of_run], channels)
        place = np.arange(len(node)) - start[run]
        return _Standing(
            place,
            length[run],
            runs[group_of_run][run],
            channels[run],
            turn[run],
            start[run],
            start[following][run],
        )


def _turns(j: Ints, nodes: Ints, channels: Ints) -> Ints:
    """Return how channels pass the j-th node of a group."""
    odd = (nodes % 2 == 1) & (nodes > 1) & (channels > 2)
    turn = np.where(j % 2 == 0, _UP, _DOWN)
    turn = np.where(odd & (j == nodes - 2), _STEP, turn)
    return np.where(odd & (j == nodes - 1), _BACK, turn)


_Part = tuple[Ints, Ints, Ints, Ints]
"""Rows of members, of their peers, the channels between them, and whether what does not divide goes there."""


def _leaving(stand: _Standing) -> _Part:
    """Return what members send to the next node: the channel that leaves at each, if one does."""
    channel = (stand.place + _EXIT[stand.turn]) % stand.in_node
    at = np.flatnonzero((stand.nodes > 1) & (channel < stand.channels))
    following = stand.next_[at]
    place = (channel[at] - _ENTRY[stand.turn[following]]) % stand.in_node[following]
    alone = (stand.channels[at] == 1).astype(np.int64)
    return at, following + place, np.ones_like(at), alone


def _staying(stand: _Standing) -> list[_Part]:
    """Return what members send inside their node: in _BACK up to two channels turn off from the main way."""
    m, place = stand.in_node, stand.place
    back = stand.turn == _BACK

    def taken(ahead: Ints | int) -> Ints:
        return ((place + ahead) % m < stand.channels).astype(np.int64)

    leaves = np.where(stand.nodes > 1, taken(_EXIT[stand.turn]), 0)
    # Of channel c, c - 1 sends to c, and c + 1 to c - 1.
    to_c, from_next = np.where(back, taken(1), 0), np.where(back, taken(-1), 0)
    main = stand.channels - leaves - to_c - from_next
    upward = (stand.turn == _UP) | (stand.turn == _STEP)
    ways = (
        (np.where(upward, 1, -1), main, main > 0),
        (np.ones_like(m), to_c, back & (main == 0)),
        (np.full_like(m, -2), from_next, np.zeros_like(back)),
    )
    at = np.flatnonzero(m > 1)
    return [
        (at, (stand.first + (place + step) % m)[at], share[at], rest[at].astype(np.int64))
        for step, share, rest in ways
    ]
