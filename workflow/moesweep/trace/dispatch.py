"""How token copies get to the ranks of their experts and back (Megatron-Core 0.20 `token_dispatcher.py`).

The all-to-all dispatcher copies tokens, exchanges the copies over ep, gathers them over etp and sorts them.
The flex dispatcher (DeepEP, HybridEP) sends each token once to each rank of the etp × ep group that has any
of its experts, and copies it there; results are summed there and come back as one.
"""

from dataclasses import replace

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.spread import copies
from moesweep.trace.vocabulary import Op, all_gather, all_to_all, elementwise, reduce_scatter


def _move(name: str, rows: pl.Expr) -> Op:
    """Return the move of rows to other places: every copy is read and written."""
    return elementwise(name, 2 * s.ELEMENT_BYTES * s.hidden * rows)


def _sort(name: str, rows: s.Rows) -> Op:
    """Return the reordering of the R expert rows by local expert."""
    return _move(name, rows.expert).only(s.sorts_experts)


def _exchange(name: str, moved: pl.Expr, rows: s.Rows) -> Op:
    """Return the all_to_all over ep that sends copies: routed ones to their experts, or results back.

    Around it, the etp ranks that share an expert exchange theirs.
    """
    sent = moved if rows.exchanged is None else rows.exchanged
    op = all_to_all(name, "ep", s.ELEMENT_BYTES * sent * s.hidden)
    return op if rows.own is None else replace(op, own_bytes=s.ELEMENT_BYTES * rows.own * s.hidden)


def _fused(name: str) -> list[Op]:
    """Return the exchange of tokens with each rank that has any of their experts, as many with each.

    Between nodes it sends less than that: where communicators stand, a trace does not know.
    """
    each = s.ELEMENT_BYTES * copies(s.local_experts) * s.hidden
    return [
        all_to_all(name, "ep", s.ep * each).only(s.etp == 1),
        all_to_all(name, "tp_ep", s.etp * s.ep * each).only(s.etp > 1),
    ]


def _expert_bytes(rows: s.Rows) -> pl.Expr:
    return s.ELEMENT_BYTES * rows.expert * s.hidden


def _either(plain: list[Op], flex: list[Op]) -> list[Op]:
    return [*(op.only(~s.flex) for op in plain), *(op.only(s.flex) for op in flex)]


def dispatch(rows: s.Rows) -> list[Op]:
    """Return the way of tokens to their experts."""
    counts_bytes = 8 * s.experts * s.ep * s.etp  # int64 tokens per expert, from every rank of the group
    plain = [
        all_gather("token_counts", "tp_ep", counts_bytes).only(~s.padded),
        _move("permute", rows.sent),
        _exchange("moe_dispatch", rows.sent, rows),
        all_gather("expert_gather", "etp", _expert_bytes(rows)),
        _sort("expert_sort", rows),
    ]
    return _either(plain, [*_fused("fused_dispatch"), _move("permute", rows.expert)])


def combine(rows: s.Rows) -> list[Op]:
    """Return the way of the experts' results back to their tokens."""
    plain = [
        _sort("expert_unsort", rows),
        reduce_scatter("expert_scatter", "etp", _expert_bytes(rows)),
        _exchange("moe_combine", rows.received, rows),
        _move("unpermute", rows.sent),
    ]
    return _either(plain, [_move("unpermute", rows.expert), *_fused("fused_combine")])


def combine_backward(rows: s.Rows) -> list[Op]:
    """Return the way of the results' gradients to the experts."""
    plain = [
        _move("unpermute", rows.sent),
        _exchange("moe_combine", rows.sent, rows),
        all_gather("expert_scatter", "etp", _expert_bytes(rows)),
        _sort("expert_unsort", rows),
    ]
    return _either(plain, [*_fused("fused_combine"), _move("unpermute", rows.expert)])


def dispatch_backward(rows: s.Rows) -> list[Op]:
    """Return the way of the tokens' gradients back."""
    plain = [
        _sort("expert_sort", rows),
        reduce_scatter("expert_gather", "etp", _expert_bytes(rows)),
        _exchange("moe_dispatch", rows.received, rows),
        _move("permute", rows.sent),
    ]
    return _either(plain, [_move("permute", rows.expert), *_fused("fused_dispatch")])
