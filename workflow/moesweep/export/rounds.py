"""Collectives as the messages they consist of, round by round: rings step by step, exchanges pair by pair.

A ring of n ranks has n - 1 steps, an all_reduce twice as many. What a rank sends a neighbour in its channels
(docs/traffic.md) is split over the steps; bytes that do not divide go with the first. An all_to_all has n - 1
rounds: in the i-th a rank sends to the member i places on and gets from the one i places before.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from moesweep.export.source import Traced
from moesweep.shapes.parallelism import groups, ranks, stage_of
from moesweep.traffic.messages import Communicators, Placed, op_messages

Ends = list[tuple[int, int]]
"""Peers, and the bytes sent to them or got from them."""


@dataclass(frozen=True)
class Round:
    """What a rank sends and gets before it goes on to the next round."""

    sends: Ends
    receives: Ends


@dataclass(frozen=True)
class Exchange:
    """Who sends what to whom in one execution of each op: `op_messages` of a workload, looked up by rank."""

    traced: Traced

    @cached_property
    def messages(self) -> pl.DataFrame:
        """All of them: src, op_index, dst, group_kind, bytes."""
        traced = self.traced
        program = traced.program if traced.each is None else traced.each
        members, everyone = groups(traced.workload), ranks(traced.workload)
        communicators = Communicators(members, everyone, Placed(traced.gpus_per_node))
        return op_messages(program, communicators, traced.routing)

    @cached_property
    def _sent(self) -> dict[tuple[int, str], Ends]:
        return self._by("src", "dst")

    @cached_property
    def _got(self) -> dict[tuple[int, str], Ends]:
        return self._by("dst", "src")

    @cached_property
    def _named(self) -> pl.DataFrame:
        """Messages by the name of their op: stages that share a group number its ops differently."""
        stage = stage_of(pl.col("src"), self.traced.workload)
        names = self.traced.program.select("stage", "op_index", name=name_of_op())
        placed = self.messages.with_columns(stage=stage)
        return placed.join(names, on=["stage", "op_index"], how="left", maintain_order="left")

    def _by(self, rank: str, peer: str) -> dict[tuple[int, str], Ends]:
        ends: dict[tuple[int, str], Ends] = defaultdict(list)
        for own, name, other, size in self._named.select(rank, "name", peer, "bytes").iter_rows():
            ends[own, name].append((other, size))
        return ends

    @cached_property
    def _places(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Position and size of each rank's group of a kind."""
        rows = groups(self.traced.workload).select("group_kind", "rank", "position", "group_size")
        return {(kind, rank): (position, size) for kind, rank, position, size in rows.iter_rows()}

    @cached_property
    def members(self) -> dict[tuple[str, int], frozenset[int]]:
        """The members of each rank's group of a kind."""
        grouped = groups(self.traced.workload).group_by("group_kind", "group_id").agg("rank")
        return {(kind, rank): frozenset(ranks_) for kind, _, ranks_ in grouped.iter_rows() for rank in ranks_}

    def rounds(self, rank: int, name: str, collective: str, group_kind: str) -> list[Round]:
        """Return what a rank does in one execution of a collective, named by `name_of_op`, round by round."""
        sends, gets = (ends.get((rank, name), []) for ends in (self._sent, self._got))
        place, size = self._places[group_kind, rank]
        if collective == "all_to_all":
            distance = {peer: self._places[group_kind, peer][0] - place for peer, _ in (*sends, *gets)}
            return [
                Round(
                    [(peer, bytes_) for peer, bytes_ in sends if distance[peer] % size == step],
                    [(peer, bytes_) for peer, bytes_ in gets if -distance[peer] % size == step],
                )
                for step in range(1, size)
            ]
        steps = (size - 1) * (2 if collective == "all_reduce" else 1)
        return [Round(_part(sends, step, steps), _part(gets, step, steps)) for step in range(steps)]


def name_of_op() -> pl.Expr:
    """Return what tells an op of a program apart on every stage: pass, op and layer."""
    words = (pl.col("phase").cast(pl.String), pl.col("op"), pl.col("layer").cast(pl.String))
    return pl.concat_str(*words, separator=" ")


def _part(ends: Ends, step: int, steps: int) -> Ends:
    """Return what goes with one of so many steps; nothing where there are fewer bytes than steps."""
    parts = ((peer, bytes_ // steps + (step < bytes_ % steps)) for peer, bytes_ in ends)
    return [(peer, bytes_) for peer, bytes_ in parts if bytes_]
