"""A second opinion on given routing: single copies of tokens dealt out one after the other.

Written from docs/trace.md ("Given routing") alone, sharing no code with the library; small workloads only.
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from typing import Any

from naive_layout import coordinates, naive_groups
from naive_rows import Row
from naive_sizes import Workload, routed_size, router_width
from naive_trace import Program

Peers = dict[tuple[int, int], int]


def popularities(
    form: str, parameter: float, seed: int, layer: int, experts: int, topk: int
) -> list[Fraction]:
    """Popularity of every expert of a layer, as a share of the copies."""
    digests = [hashlib.sha256(f"{seed}/{layer}/{expert}".encode()).digest() for expert in range(experts)]
    bits = [int.from_bytes(digest[:8], "big") for digest in digests]
    assert form == "zipf", "the lognormal one is left out"
    by_rank = sorted(range(experts), key=lambda expert: bits[expert])
    whole = [max(1, round((by_rank.index(expert) + 1) ** -parameter * 2**40)) for expert in range(experts)]
    return poured([Fraction(weight, sum(whole)) for weight in whole], Fraction(1, topk))


def poured(shares: list[Fraction], brim: Fraction) -> list[Fraction]:
    """What runs over the brim is poured on the others by their shares, until nothing does."""
    while any(share > brim for share in shares):
        over = sum(share - brim for share in shares if share > brim)
        below = sum(share for share in shares if share < brim)
        shares = [min(share, brim) if share >= brim else share * (1 + over / below) for share in shares]
    return shares


class Exchange:
    """One MoE layer of one EP group, for one etp rank and one micro-batch."""

    def __init__(self, w: Workload, weights: list[Fraction], capacity: Fraction | None) -> None:
        ep, experts = w["ep"], w["num_experts"]
        local = (
            w["micro_batch_size"] * w["seq_length"] // w["cp"] // (w["tp"] if w["sequence_parallel"] else 1)
        )
        each = w["moe_router_topk"] * local
        room = each if capacity is None else math.ceil(capacity * each / experts)
        self.sent: Peers = {(source, dest): 0 for source in range(ep) for dest in range(ep)}
        self.kept = [0] * experts
        self.dropped = [0] * experts
        taken: dict[tuple[int, int], int] = {}
        for copy in range(ep * each):
            # The expert whose part of the whole the copy falls into.
            expert, until = 0, weights[0]
            while copy >= until * ep * each // sum(weights):
                expert += 1
                until += weights[expert]
            source = copy % ep
            if taken.get((source, expert), 0) == room:
                self.dropped[expert] += 1
                continue
            taken[source, expert] = taken.get((source, expert), 0) + 1
            self.kept[expert] += 1
            self.sent[source, expert // (experts // ep)] += 1


class UnevenProgram(Program):
    """The rows of one ep rank of one stage; what routing does not touch is inherited."""

    def __init__(self, w: Workload, stage: int, ep_rank: int, layers: dict[int, Exchange]) -> None:
        super().__init__(w, stage)
        self.ep_rank, self.layers = ep_rank, layers

    def expert_sizes(self) -> tuple[int, int, int, int]:
        """Rows in the experts, their width, and bytes of the exchanges and gathers."""
        _, width, _, _ = super().expert_sizes()
        rows = self.w["etp"] * self.total(received=True)
        return rows, width, 0, router_width(self.w) * rows * self.w["hidden_size"]

    def routed_copies(self) -> int:
        """Copies that this rank sends."""
        return self.total(received=False)

    def total(self, received: bool) -> int:
        """Copies that this rank receives or sends in the layer at hand, from itself or to itself as well."""
        sent = self.layers[self.layer].sent
        return sum(n for ends, n in sent.items() if ends[1 if received else 0] == self.ep_rank)

    def collect(self, op: str, collective: str, group_kind: str, comm_bytes: int) -> None:
        """As before, but an exchange sends what routing says."""
        if collective != "all_to_all" or group_kind != "ep" or self.w["ep"] == 1:
            super().collect(op, collective, group_kind, comm_bytes)
            return
        again = self.phase == "forward" or self.prefix != ""
        towards_experts = (op == "moe_dispatch") == again
        copies = self.total(received=not towards_experts)
        own = self.layers[self.layer].sent[self.ep_rank, self.ep_rank]
        size = routed_size(self.w) if op == "moe_dispatch" else 2 * self.w["hidden_size"]
        self.message(op, "collective", collective, group_kind, size * copies, size * (copies - own))


def uneven_ops(w: Workload, layers: dict[int, Exchange]) -> list[Row]:
    """Every row of every rank, rank-major."""
    groups = naive_groups(w)
    rows: list[Row] = []
    for rank, place in enumerate(coordinates(w)):
        program = UnevenProgram(w, place["pp"], place["ep"], layers)
        program.forward()
        program.backward()
        program.optimizer()
        for row in program.rows:
            kind: Any = row["group_kind"]
            group_id = next(i for i, members in enumerate(groups[kind]) if rank in members) if kind else 0
            rows.append({"rank": rank, **row, "group_id": group_id})
    return rows
