"""The naive trace's dispatchers: how tokens get to their experts and back, forward and backward."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations
from math import comb

from naive_layers import Layers
from naive_sizes import Workload, own_tokens, routed_size, router_width, tokens


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
        """Rows in the local experts, their width, bytes of an exchange of results, bytes of all results."""
        w = self.w
        gathered_rows = w["moe_router_topk"] * tokens(w) * w["etp"] // w["tp"]
        if w["moe_pad_expert_input_to_capacity"]:
            gathered_rows = self.routed_copies() * w["etp"]
        row_bytes = 2 * w["hidden_size"]
        return (
            gathered_rows,
            w["moe_ffn_hidden_size"] // w["etp"],
            self.routed_copies() * row_bytes,
            gathered_rows * router_width(w) * w["hidden_size"],
        )

    def exchange_copies(self) -> None:
        """Copies go to their experts, or their gradients come back, each with its probability or that's."""
        self.collect("moe_dispatch", "all_to_all", "ep", self.routed_copies() * routed_size(self.w))

    def cast_results(self, op: str, rows: int) -> None:
        """Results of experts that etp ranks sum up are cast to the router's format, and back."""
        if self.w["etp"] > 1 and router_width(self.w) > 2:
            self.light(op, rows * self.w["hidden_size"], reads=(2,), writes=(router_width(self.w),))

    def permute(self, op: str, copied: int, whole: int) -> None:
        """Tokens and copies: a kernel for it all touches each whole token once, others its copies."""
        if self.w["moe_permute_fusion"]:
            self.light(op, self.w["hidden_size"], reads=(2 * whole, 2 * copied))
        else:
            self.move(op, copied)

    def arriving(self) -> int:
        """Tokens that the ranks of the block send to one of them, each having some of its experts."""
        w = self.w
        return int(w["etp"] * w["ep"] * int(own_tokens(w) * spread(w, w["num_experts"] // w["ep"])))

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
        rows, _, _, _ = self.expert_sizes()
        if self.flexible():
            self.fused("fused_dispatch")
            self.permute("permute", rows, self.arriving())
            return
        # Every rank of the etp x ep block contributes an int64 per expert.
        if not w["moe_pad_expert_input_to_capacity"]:
            self.collect("token_counts", "all_gather", "tp_ep", 8 * w["num_experts"] * w["ep"] * w["etp"])
        self.permute("permute", self.routed_copies(), own_tokens(w))
        self.exchange_copies()
        self.collect("expert_gather", "all_gather", "etp", rows * routed_size(w))
        self.sort("expert_sort")

    def from_experts(self) -> None:
        """The way back."""
        w = self.w
        rows, _, sent, results = self.expert_sizes()
        if self.flexible():
            self.permute("unpermute", rows, self.arriving())
            self.fused("fused_combine")
            return
        self.sort("expert_unsort")
        self.cast_results("expert_widen", rows)
        self.collect("expert_scatter", "reduce_scatter", "etp", results)
        self.cast_results("expert_narrow", rows // w["etp"])
        self.collect("moe_combine", "all_to_all", "ep", sent)
        self.permute("unpermute", self.routed_copies(), own_tokens(w))

    def from_experts_backward(self) -> None:
        """Gradients of results travel as tokens did."""
        w = self.w
        rows, _, sent, results = self.expert_sizes()
        if self.flexible():
            self.fused("fused_combine")
            self.permute("unpermute", rows, self.arriving())
            return
        self.permute("unpermute", self.routed_copies(), own_tokens(w))
        self.collect("moe_combine", "all_to_all", "ep", sent)
        self.cast_results("expert_narrow", rows // w["etp"])
        self.collect("expert_scatter", "all_gather", "etp", results)
        self.cast_results("expert_widen", rows)
        self.sort("expert_unsort")

    def to_experts_backward(self) -> None:
        """Gradients of tokens travel as results did."""
        w = self.w
        rows, _, _, _ = self.expert_sizes()
        if self.flexible():
            self.permute("permute", rows, self.arriving())
            self.fused("fused_dispatch")
            return
        self.sort("expert_sort")
        self.collect("expert_gather", "reduce_scatter", "etp", rows * routed_size(w))
        self.exchange_copies()
        self.permute("permute", self.routed_copies(), own_tokens(w))
