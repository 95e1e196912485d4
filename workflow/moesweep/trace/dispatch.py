"""How token copies get to the ranks of their experts and back (Megatron-Core 0.20 `token_dispatcher.py`).

The all-to-all dispatcher copies tokens, exchanges the copies over ep, gathers them over etp and sorts them.
The flex dispatcher (DeepEP, HybridEP) sends each token once to each rank of the etp × ep group that has any
of its experts, and copies it there; results are summed there and come back as one.
"""

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.spread import copies
from moesweep.trace.vocabulary import Op, all_gather, all_to_all, elementwise, reduce_scatter


def _move(name: str, rows: pl.Expr) -> Op:
    """Return the move of rows to other places: every copy is read and written."""
    return elementwise(name, 2 * s.ELEMENT_BYTES * s.hidden * rows)


def _copy(name: str, rows: pl.Expr, tokens: pl.Expr) -> Op:
    """Return the move of tokens to their copies, or the copies' sum: every copy is read and written.

    One kernel for all of it reads or writes each token once (Transformer Engine `triton/permutation.py`).
    """
    moved = rows + pl.when(s.fuses_permutation).then(tokens).otherwise(rows)
    return elementwise(name, s.ELEMENT_BYTES * s.hidden * moved)


def _sort(name: str, rows: s.Rows) -> Op:
    """Return the reordering of the R expert rows by local expert."""
    return _move(name, rows.expert).only(s.sorts_experts)


def _results(moved: pl.Expr) -> pl.Expr:
    """Return the bytes of copies on their way back, or of the gradients of what comes back."""
    return s.ELEMENT_BYTES * moved * s.hidden


def _routed(moved: pl.Expr) -> pl.Expr:
    """Return the bytes of copies on their way to experts with probabilities, or of gradients of both."""
    return _results(moved) + s.probability_bytes * moved


def _exchange(name: str, moved: pl.Expr, rows: s.Rows, bytes_of: Callable[[pl.Expr], pl.Expr]) -> Op:
    """Return the all_to_all over ep that sends copies: routed ones to their experts, or results back.

    Around it, the etp ranks that share an expert exchange theirs.
    """
    op = all_to_all(name, "ep", bytes_of(moved if rows.exchanged is None else rows.exchanged))
    return op if rows.own is None else replace(op, own_bytes=bytes_of(rows.own))


_tokens_of_a_rank = copies(s.local_experts)
"""Tokens of a rank that have any of another's experts, each counted once."""


def _fused(name: str) -> list[Op]:
    """Return the exchange of tokens with each rank that has any of their experts, as many with each.

    Between nodes it sends less than that: where communicators stand, a trace does not know.
    """
    each = s.ELEMENT_BYTES * _tokens_of_a_rank * s.hidden
    return [
        all_to_all(name, "ep", s.ep * each).only(s.etp == 1),
        all_to_all(name, "tp_ep", s.etp * s.ep * each).only(s.etp > 1),
    ]


_arriving = s.etp * s.ep * _tokens_of_a_rank
"""Tokens that the flex dispatcher brings to a rank."""


def _widening(name: str, rows: pl.Expr) -> Op:
    """Return the cast of results between 16 bits and the router's format, in which etp ranks sum them up."""
    bytes_ = (s.ELEMENT_BYTES + s.router_bytes) * rows * s.hidden
    return elementwise(name, bytes_).only(s.widens_router & (s.etp > 1))


def _summed_bytes(rows: s.Rows) -> pl.Expr:
    """Return the results of a rank's experts, in the router's format."""
    return s.router_bytes * rows.expert * s.hidden


def _either(plain: list[Op], flex: list[Op]) -> list[Op]:
    return [*(op.only(~s.flex) for op in plain), *(op.only(s.flex) for op in flex)]


def dispatch(rows: s.Rows) -> list[Op]:
    """Return the way of tokens to their experts."""
    counts_bytes = 8 * s.experts * s.ep * s.etp  # int64 tokens per expert, from every rank of the group
    plain = [
        all_gather("token_counts", "tp_ep", counts_bytes).only(~s.padded),
        _copy("permute", rows.sent, s.local_tokens),
        _exchange("moe_dispatch", rows.sent, rows, _routed),
        all_gather("expert_gather", "etp", _routed(rows.expert)),
        _sort("expert_sort", rows),
    ]
    return _either(plain, [*_fused("fused_dispatch"), _copy("permute", rows.expert, _arriving)])


def combine(rows: s.Rows) -> list[Op]:
    """Return the way of the experts' results back to their tokens."""
    plain = [
        _sort("expert_unsort", rows),
        _widening("expert_widen", rows.expert),
        reduce_scatter("expert_scatter", "etp", _summed_bytes(rows)),
        _widening("expert_narrow", rows.received),
        _exchange("moe_combine", rows.received, rows, _results),
        _copy("unpermute", rows.sent, s.local_tokens),
    ]
    return _either(plain, [_copy("unpermute", rows.expert, _arriving), *_fused("fused_combine")])


def combine_backward(rows: s.Rows) -> list[Op]:
    """Return the way of the results' gradients to the experts."""
    plain = [
        _copy("unpermute", rows.sent, s.local_tokens),
        _exchange("moe_combine", rows.sent, rows, _results),
        _widening("expert_narrow", rows.received),
        all_gather("expert_scatter", "etp", _summed_bytes(rows)),
        _widening("expert_widen", rows.expert),
        _sort("expert_unsort", rows),
    ]
    return _either(plain, [*_fused("fused_combine"), _copy("unpermute", rows.expert, _arriving)])


def dispatch_backward(rows: s.Rows) -> list[Op]:
    """Return the way of the tokens' gradients back."""
    plain = [
        _sort("expert_sort", rows),
        reduce_scatter("expert_gather", "etp", _routed(rows.expert)),
        _exchange("moe_dispatch", rows.received, rows, _routed),
        _copy("permute", rows.sent, s.local_tokens),
    ]
    return _either(plain, [_copy("permute", rows.expert, _arriving), *_fused("fused_dispatch")])
