"""The naive trace's dispatchers: how tokens get to their experts and back, forward and backward."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations
from math import comb

from naive_layers import Layers
from naive_sizes import Workload, own_tokens, tokens


def spread(w: Workload, held: int) -> Fraction:
    """The share of tokens with any of the first `held` experts; each group that is taken gives as many."""
    experts, topk, groups = w["num_experts"], w["moe_router_topk"], w["moe_router_num_groups"]
    if not groups:
        return of_choices(experts, topk, held)
    taken, size = w["moe_router_group_topk"], experts // groups
    if held > size:
        if held % size:
            return between_choices(groups, taken, held / size)
        return of_choices(groups, taken, held // size)
    return Fraction(taken, groups) * of_choices(size, topk // taken, held)


def between_choices(groups: int, taken: int, held: float) -> Fraction:
    """The same of groups of which one is held in part: binomials of numbers that are not whole."""
    free = groups - held
    if free < taken:
        return Fraction(1)
    logarithm = math.lgamma(free + 1) - math.lgamma(free - taken + 1) - math.log(math.perm(groups, taken))
    return 1 - Fraction(math.exp(logarithm))


def of_choices(experts: int, topk: int, held: int) -> Fraction:
    """The share of all choices of top-k experts that have any of the first `held` ones."""
    if comb(experts, topk) <= 2000:
        choices = list(combinations(range(experts), topk))
        return Fraction(sum(min(choice) < held for choice in choices), len(choices))
    return 1 - Fraction(comb(experts - held, topk), comb(experts, topk))


class Dispatchers(Layers):
    """The ways of tokens between a layer's router and its experts."""

    def expert_sizes(self) -> tuple[int, int, int, int]:
        """Rows in the local experts, their width, bytes of the all_to_all, bytes of the gather over etp."""
        w = self.w
        gathered_rows = w["moe_router_topk"] * tokens(w) * w["etp"] // w["tp"]
        if w["moe_pad_expert_input_to_capacity"]:
            gathered_rows = self.routed_copies() * w["etp"]
        row_bytes = 2 * w["hidden_size"]
        return (
            gathered_rows,
            w["moe_ffn_hidden_size"] // w["etp"],
            self.routed_copies() * row_bytes,
            gathered_rows * row_bytes,
        )

    def routed_copies(self) -> int:
        """Copies of its own tokens that a rank sends to experts."""
        w, routed = self.w, int(self.w["moe_router_topk"] * own_tokens(self.w))
        if w["moe_pad_expert_input_to_capacity"]:
            # As many rows for each expert, some of them zeros.
            return int(
                math.ceil(routed / w["num_experts"] * w["moe_expert_capacity_factor"]) * w["num_experts"]
            )
        return routed

    def move(self, op: str, rows: int) -> None:
        """Rows change their places: read and write each."""
        self.light(op, rows * self.w["hidden_size"], reads=(2,), writes=(2,))

    def sort(self, op: str) -> None:
        """Rows of several local experts are put in order."""
        if self.w["num_experts"] // self.w["ep"] > 1:
            self.move(op, self.expert_sizes()[0])

    def flexible(self) -> bool:
        """Whether a token goes to a rank once, however many of its experts are there."""
        return bool(self.w["moe_token_dispatcher_type"] == "flex")

    def fused(self, op: str) -> None:
        """Tokens for each rank of the block that has any of their experts, whole tokens."""
        w = self.w
        of_a_rank = w["num_experts"] // w["ep"]
        sent = int(own_tokens(w) * spread(w, of_a_rank))
        kind, ranks = ("ep", w["ep"]) if w["etp"] == 1 else ("tp_ep", w["etp"] * w["ep"])
        self.collect(op, "all_to_all", kind, ranks * sent * 2 * w["hidden_size"])

    def to_experts(self) -> None:
        """Counts, copies, their exchange and gathering, sorting; or one exchange, and copies made there."""
        w = self.w
        rows, _, sent, gathered = self.expert_sizes()
        if self.flexible():
            self.fused("fused_dispatch")
            self.move("permute", rows)
            return
        # Every rank of the etp x ep block contributes an int64 per expert.
        if not w["moe_pad_expert_input_to_capacity"]:
            self.collect("token_counts", "all_gather", "tp_ep", 8 * w["num_experts"] * w["ep"] * w["etp"])
        self.move("permute", self.routed_copies())
        self.collect("moe_dispatch", "all_to_all", "ep", sent)
        self.collect("expert_gather", "all_gather", "etp", gathered)
        self.sort("expert_sort")

    def from_experts(self) -> None:
        """The way back."""
        rows, _, sent, gathered = self.expert_sizes()
        if self.flexible():
            self.move("unpermute", rows)
            self.fused("fused_combine")
            return
        self.sort("expert_unsort")
        self.collect("expert_scatter", "reduce_scatter", "etp", gathered)
        self.collect("moe_combine", "all_to_all", "ep", sent)
        self.move("unpermute", self.routed_copies())

    def from_experts_backward(self) -> None:
        """Gradients of results travel as tokens did."""
        rows, _, sent, gathered = self.expert_sizes()
        if self.flexible():
            self.fused("fused_combine")
            self.move("unpermute", rows)
            return
        self.move("unpermute", self.routed_copies())
        self.collect("moe_combine", "all_to_all", "ep", sent)
        self.collect("expert_scatter", "all_gather", "etp", gathered)
        self.sort("expert_unsort")

    def to_experts_backward(self) -> None:
        """Gradients of tokens travel as results did."""
        rows, _, sent, gathered = self.expert_sizes()
        if self.flexible():
            self.move("permute", rows)
            self.fused("fused_dispatch")
            return
        self.sort("expert_sort")
        self.collect("expert_gather", "reduce_scatter", "etp", gathered)
        self.collect("moe_dispatch", "all_to_all", "ep", sent)
        self.move("permute", self.routed_copies())
