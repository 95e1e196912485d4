"""Unit traffic of a layout: what kinds of communicators exchange where every rank puts one unit on links.

It goes round its group's rings, to all other members of an all_to_all in equal parts, or to each neighbouring
stage. Keys and values that cp ranks pass on go to the next one alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from moesweep.network.flows import Floats, Flows, Ints
from moesweep.network.order import slots
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.shapes.parallelism import STAGES_BESIDE, Runs, grouped, runs, used_kinds
from moesweep.shapes.placement import stage_of_prediction
from moesweep.shapes.rings import ring_shares

DEGREES = ("world_size", "tp", "cp", "dp", "pp", "etp", "ep", "edp", STAGES_BESIDE)
"""What places ranks."""

LAYOUT = (
    *(*DEGREES, "cp_comm_type", "cp_a2a"),
    *("pipeline_model_parallel_layout", "moe_router_load_balancing_type", "moe_router_enable_expert_bias"),
)
"""Columns of a workload that say who stands where, how cp ranks share a sequence, who shares a table, and who
balances experts."""

Way = Literal["ring", "exchange", "neighbours", "next"]
"""How members exchange: round rings, each with all others, with both neighbours, or on to the next one."""

_WAYS: dict[str, Way] = {"ep": "exchange", "pp": "neighbours", "cp_a2a": "exchange", "cp_p2p": "next"}
_WAYS_OF_CP: dict[str, Way] = {"a2a": "exchange", "p2p": "next"}


@dataclass(frozen=True)
class Pattern:
    """Who exchanges what: kinds and layouts of one pattern put the same on links.

    runs     how groups lie in the world
    other    the member of each that is meant beside the first one, if no more are
    order    axes in the order in which ranks are placed (network/order.py), of what `layout`; None for rank
             order, which the runs tell
    """

    way: Way
    runs: Runs
    other: int | None = None
    order: str | None = None
    layout: tuple[tuple[str, Any], ...] = ()

    @property
    def table(self) -> Ints:
        """The GPUs of the groups' members: groups × members."""
        ranks = grouped(self.runs)
        if self.other is not None:
            ranks = ranks[:, [0, self.other]]
        return ranks if self.order is None else slots(dict(self.layout), self.order)[ranks]


def patterns(layout: Mapping[str, Any], order: str | None = None) -> dict[str, Pattern]:
    """Return the pattern of each kind whose groups have several members, in the order of GROUP_KINDS.

    layout   the columns LAYOUT; expert groups are there where etp, ep or edp say so
    order    axes in the order in which ranks are placed; None for rank order
    """
    placed = () if order is None else tuple((name, layout[name]) for name in DEGREES)
    ways = _WAYS | ({"cp": way} if (way := _WAYS_OF_CP.get(layout["cp_comm_type"])) else {})
    found = {kind: runs(kind, layout) for kind in used_kinds(layout)}
    other = {"embedding": stage_of_prediction(layout)}
    return {
        kind: Pattern(ways.get(kind, "ring"), lie, other.get(kind), order, placed)
        for kind, lie in found.items()
        if any(inside for _, inside in lie)
    }


def pattern_flows(found: Sequence[Pattern], island: int) -> Flows:
    """Return the unit flows of patterns between GPUs: keys are their places.

    island   GPUs of an island: rings pass all members on one before they leave it
    """
    tables = [each.table for each in found]
    parts = list(_rings(found, tables, island))
    for number, (each, table) in enumerate(zip(found, tables, strict=True)):
        parts += [
            (np.full(source.size, number), source.ravel(), target.ravel(), np.full(source.size, share))
            for source, target, share in _sent(each.way, table)
        ]
    if not parts:
        nothing = np.zeros(0, dtype=np.int64)
        return Flows(len(found), nothing, nothing, nothing, np.zeros(0))
    key, source, target, bytes_ = (np.concatenate(column) for column in zip(*parts, strict=True))
    sent = bytes_ > 0
    return Flows(len(found), key[sent], source[sent], target[sent], bytes_[sent])


def unit_flows(layout: Mapping[str, Any], island: int, order: str | None = None) -> Flows:
    """Return a layout's unit flows between GPUs, told apart by kind: keys are places in GROUP_KINDS.

    layout, order   as for `patterns`; island as for `pattern_flows`
    """
    found = patterns(layout, order)
    flows = pattern_flows(list(found.values()), island)
    kinds = np.array([GROUP_KINDS.index(kind) for kind in found], dtype=np.int64)
    return Flows(len(GROUP_KINDS), kinds[flows.key], flows.source, flows.target, flows.bytes)


_Part = tuple[Ints, Ints, Ints, Floats]
"""Key, source, target and bytes."""


def _rings(found: Sequence[Pattern], tables: Sequence[Ints], island: int) -> Iterator[_Part]:
    """Yield what the rings among some patterns send, all together."""
    members = []
    for number, (each, table) in enumerate(zip(found, tables, strict=True)):
        if each.way != "ring":
            continue
        at = {
            "group_kind": np.full(table.size, number),
            "group_id": np.repeat(np.arange(len(table)), table.shape[1]),
            "rank": table.ravel(),
            "node": table.ravel() // island,
        }
        standing = pl.DataFrame(at)
        # In rank order members of an island follow one another as they are.
        moved = each.order is not None
        members.append(standing.sort("group_id", "node", maintain_order=True) if moved else standing)
    if not members:
        return
    around = ring_shares(pl.concat(members))
    key, source, target = (around[name].to_numpy() for name in ("group_kind", "rank", "peer"))
    yield key, source, target, (around["share"] / around["channels"]).to_numpy()


def _sent(way: Way, table: Ints) -> Iterator[tuple[Ints, Ints, float]]:
    """Yield sources, targets and what each sends, of ways that are no rings."""
    members = table.shape[1]
    if way == "exchange":
        for step in range(1, members):
            yield table, np.roll(table, -step, axis=1), 1 / (members - 1)
    elif way == "neighbours":
        yield table[:, :-1], table[:, 1:], 1.0
        yield table[:, 1:], table[:, :-1], 1.0
    elif way == "next":
        yield table, np.roll(table, -1, axis=1), 1.0
