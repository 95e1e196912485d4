"""Unit traffic of a layout: what kinds of communicators exchange where every rank puts one unit on links.

It goes round its group's rings, to all other members of an all_to_all in equal parts, or to each neighbouring
stage. Keys and values that cp ranks pass on go to the next one alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from moesweep.network.flows import Floats, Flows, Ints
from moesweep.network.order import slots
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.shapes.parallelism import groups
from moesweep.shapes.rings import ring_shares

EXCHANGED = ("ep",)
MESSAGES = ("pp",)
"""Kinds whose members do not form rings; what those of cp do says `cp_comm_type`."""

LAYOUT = ("world_size", "tp", "cp", "dp", "pp", "etp", "ep", "edp", "cp_comm_type")
"""Columns of a workload that say who stands where, and how cp ranks share a sequence."""


def unit_flows(layout: Mapping[str, Any], island: int, order: str | None = None) -> Flows:
    """Return a layout's unit flows between GPUs, told apart by kind: keys are places in GROUP_KINDS.

    layout   the columns LAYOUT; expert groups are there where etp, ep or edp say so
    island   GPUs of an island: rings pass all members on one before they leave it
    order    axes in the order in which ranks are placed (network/order.py); None for rank order
    """
    place = slots(layout, order)
    members = groups({**layout, "num_experts": 1}).with_columns(
        slot=pl.lit(pl.Series(place)).gather(pl.col("rank")) if order else pl.col("rank")
    )
    shared = layout["cp_comm_type"]
    exchanged = (*EXCHANGED, "cp") if shared == "a2a" else EXCHANGED
    passed = ("cp",) if shared == "p2p" else ()
    rings = members.filter(~pl.col("group_kind").is_in((*exchanged, *MESSAGES, *passed)))
    standing = rings.with_columns(rank="slot", node=pl.col("slot") // island)
    if order:
        standing = standing.sort("group_kind", "group_id", "node", maintain_order=True)
    around = ring_shares(standing)
    parts = [
        (
            around["group_kind"].replace_strict(_KEYS, return_dtype=pl.Int64).to_numpy(),
            around["rank"].to_numpy(),
            around["peer"].to_numpy(),
            (around["share"] / around["channels"]).to_numpy(),
        ),
        *_exchanges(members, exchanged),
        *_messages(members),
        *_passed_on(members, passed),
    ]
    key, source, target, bytes_ = (np.concatenate(column) for column in zip(*parts, strict=True))
    sent = bytes_ > 0
    return Flows(len(GROUP_KINDS), key[sent], source[sent], target[sent], bytes_[sent])


_Part = tuple[Ints, Ints, Ints, Floats]
"""Key, source, target and bytes."""

_KEYS = {kind: key for key, kind in enumerate(GROUP_KINDS)}


def _table(members: pl.DataFrame, kind: str) -> Ints:
    """Return the slots of a kind's groups, groups × members."""
    own = members.filter(pl.col("group_kind") == kind)
    size = int(own["group_size"][0]) if own.height else 1
    return own["slot"].to_numpy().reshape(-1, size)


def _exchanges(members: pl.DataFrame, kinds: Iterable[str]) -> Iterator[_Part]:
    for kind in kinds:
        table = _table(members, kind)
        n = table.shape[1]
        for step in range(1, n):
            source, target = table.ravel(), np.roll(table, -step, axis=1).ravel()
            yield np.full(len(source), _KEYS[kind]), source, target, np.full(len(source), 1 / (n - 1))


def _messages(members: pl.DataFrame) -> Iterator[_Part]:
    for kind in MESSAGES:
        table = _table(members, kind)
        if table.shape[1] < 2:
            continue
        low, high = table[:, :-1].ravel(), table[:, 1:].ravel()
        for source, target in ((low, high), (high, low)):
            yield np.full(len(source), _KEYS[kind]), source, target, np.ones(len(source))


def _passed_on(members: pl.DataFrame, kinds: Iterable[str]) -> Iterator[_Part]:
    for kind in kinds:
        table = _table(members, kind)
        if table.shape[1] > 1:
            source, target = table.ravel(), np.roll(table, -1, axis=1).ravel()
            yield np.full(len(source), _KEYS[kind]), source, target, np.ones(len(source))
