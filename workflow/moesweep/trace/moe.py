"""The experts of a layer, forward and backward (Megatron-Core 0.20 `MoEAlltoAllTokenDispatcher`)."""

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.trace.elementwise import activation, norm, norm_backward, residual, residual_backward
from moesweep.trace.mlp import mlp_backward, mlp_forward
from moesweep.trace.vocabulary import (
    Op,
    again,
    all_gather,
    all_to_all,
    elementwise,
    gemm,
    linear_backward,
    reduce_scatter,
)

ROUTER_LOGIT = 12  # softmax and top-k: two reads and a write of one fp32 router logit
GATING, GATING_BACKWARD = 4, 12  # times a number a token, like BY_PROBABILITY
SUM = 6  # shared and routed experts' outputs: read two, write one


def _router() -> Op:
    """Return the product that gives logits, in fp32 where the router's format is that."""
    # [b·s/t, E] <- [b·s/t, h]
    op = gemm("router", s.local_tokens, s.experts, s.hidden)
    return replace(op, hbm_bytes=s.ELEMENT_BYTES * (op.m * op.k + op.k * op.n) + s.router_bytes * op.m * op.n)


def _router_backward() -> list[Op]:
    """Return both gradients; of fp32 logits they are products of fp32, as what is given to them is cast."""
    dgrad, wgrad = linear_backward(_router())
    m, n, k = s.local_tokens, s.experts, s.hidden
    summed = 2 * s.gradient_bytes * n * k
    return [
        replace(dgrad, hbm_bytes=s.router_bytes * (m * n + n * k + m * k)),
        replace(wgrad, hbm_bytes=s.router_bytes * m * (n + k) + summed),
    ]


def _router_topk() -> Op:
    return elementwise("router_topk", ROUTER_LOGIT * s.local_tokens * s.experts)


def _permute(name: str, rows: s.Rows) -> Op:
    """Return the move of b·s/t tokens from or to their k copies each: every copy is read and written.

    One kernel for all of it reads, or sums up and writes, each token once (Transformer Engine
    `triton/permutation.py`).
    """
    moved = rows.sent + pl.when(s.fuses_permutation).then(s.local_tokens).otherwise(rows.sent)
    return elementwise(name, s.ELEMENT_BYTES * s.hidden * moved)


def _sort(name: str, rows: s.Rows) -> Op:
    """Return the reordering of the R expert rows by local expert: read and write."""
    return elementwise(name, 2 * s.ELEMENT_BYTES * rows.expert * s.hidden).only(s.sorts_experts)


def _expert_linears(rows: s.Rows) -> tuple[Op, Op]:
    """Return the grouped GEMMs of the E/e local experts, over their R rows in all."""
    width = s.expert_ffn // s.etp
    # [R, f/etp] <- [R, h], gated 2f/etp; [R, h] <- [R, f/etp]
    fc1 = gemm("expert_fc1", rows.expert, s.gate * width, s.hidden, "grouped_gemm", s.local_experts)
    return fc1, gemm("expert_fc2", rows.expert, s.hidden, width, "grouped_gemm", s.local_experts)


def _results(copies: pl.Expr) -> pl.Expr:
    """Return the bytes of copies on their way back, or of the gradients of what comes back."""
    return s.ELEMENT_BYTES * copies * s.hidden


def _routed(copies: pl.Expr) -> pl.Expr:
    """Return the bytes of copies on their way to experts with their probabilities, or of gradients of both."""
    return _results(copies) + s.probability_bytes * copies


def _exchange(name: str, copies: pl.Expr, rows: s.Rows, bytes_of: Callable[[pl.Expr], pl.Expr]) -> Op:
    """Return the all_to_all over ep that sends `copies`: routed ones to their experts, or results back.

    Around it, the etp ranks that share an expert exchange theirs.
    """
    op = all_to_all(name, "ep", bytes_of(copies if rows.exchanged is None else rows.exchanged))
    return op if rows.own is None else replace(op, own_bytes=bytes_of(rows.own))


def _dispatch(copies: pl.Expr, rows: s.Rows) -> Op:
    return _exchange("moe_dispatch", copies, rows, _routed)


def _combine(copies: pl.Expr, rows: s.Rows) -> Op:
    return _exchange("moe_combine", copies, rows, _results)


def _widening(name: str, rows: pl.Expr) -> Op:
    """Return the cast of results between 16 bits and the router's format, in which etp ranks sum them up."""
    bytes_ = (s.ELEMENT_BYTES + s.router_bytes) * rows * s.hidden
    return elementwise(name, bytes_).only(s.widens_router & (s.etp > 1))


def _summed_bytes(rows: s.Rows) -> pl.Expr:
    """Return the results of a rank's experts, in the router's format (Megatron `token_dispatcher.py`)."""
    return s.router_bytes * rows.expert * s.hidden


def _shared_gate() -> Op:
    # [b·s/t, 1] <- [b·s/t, h]
    one = pl.lit(1, dtype=pl.Int64)
    return gemm("shared_gate", s.local_tokens, one, s.hidden).only(s.shared_expert_gate)


def _gating(bytes_: int) -> Op:
    return elementwise("shared_gating", bytes_ * s.local_tokens * s.hidden).only(s.shared_expert_gate)


def _shared_forward() -> list[Op]:
    """Return the always-on shared experts, before the router: one MLP, split over tp like the dense one."""
    ops = [*mlp_forward("shared", s.shared_ffn), _shared_gate(), _gating(GATING)]
    return [op.only(s.has_shared_experts) for op in ops]


def _shared_backward() -> list[Op]:
    gate = linear_backward(_shared_gate())
    ops = [_gating(GATING_BACKWARD), *gate, *mlp_backward("shared", s.shared_ffn)]
    return [op.only(s.has_shared_experts) for op in ops]


def _norm() -> Op:
    return norm("mlp_norm", s.local_tokens, s.hidden)


def _activation(rows: s.Rows) -> Op:
    return activation("expert_activation", rows.expert, s.expert_ffn // s.etp, experts=True)


def moe_mlp_forward(rows: s.Rows = s.BALANCED) -> list[Op]:
    """Return norm, experts and residual of a layer with experts."""
    return [_norm(), *_experts_forward(rows), residual("mlp_residual")]


def _experts_forward(rows: s.Rows) -> list[Op]:
    """Return shared experts, router, dispatch, experts and combine: Megatron's module `MoELayer`."""
    fc1, fc2 = _expert_linears(rows)
    counts_bytes = 8 * s.experts * s.ep * s.etp  # int64 tokens per expert, from every rank of the group
    return [
        *_shared_forward(),
        _router(),
        _router_topk(),
        all_gather("token_counts", "tp_ep", counts_bytes),
        _permute("permute", rows),
        _dispatch(rows.sent, rows),
        all_gather("expert_gather", "etp", _routed(rows.expert)),
        _sort("expert_sort", rows),
        fc1,
        _activation(rows),
        fc2,
        _sort("expert_unsort", rows),
        _widening("expert_widen", rows.expert),
        reduce_scatter("expert_scatter", "etp", _summed_bytes(rows)),
        _widening("expert_narrow", rows.received),
        _combine(rows.received, rows),
        _permute("unpermute", rows),
        elementwise("shared_sum", SUM * s.local_tokens * s.hidden).only(s.has_shared_experts),
    ]


def moe_mlp_backward(rows: s.Rows = s.BALANCED) -> list[Op]:
    """Return the exact mirror of `moe_mlp_forward`: permuted tokens are saved, nothing is gathered again.

    What is recomputed comes when its gradient does: norm and whole module first, the experts' activation
    before the linear that reads it, shared experts before their own gradients.
    """
    fc1, fc2 = _expert_linears(rows)
    width = s.expert_ffn // s.etp
    return [
        residual_backward("mlp_residual"),
        *again("layernorm", [_norm()]),
        *again("moe", _experts_forward(rows)),
        _permute("unpermute", rows),
        _combine(rows.sent, rows),
        _widening("expert_narrow", rows.received),
        all_gather("expert_scatter", "etp", _summed_bytes(rows)),
        _widening("expert_widen", rows.expert),
        _sort("expert_unsort", rows),
        *again("moe_act", [_activation(rows)]),
        *linear_backward(fc2),
        activation("expert_activation", rows.expert, width, experts=True, backward=True),
        *linear_backward(fc1),
        _sort("expert_sort", rows),
        reduce_scatter("expert_gather", "etp", _routed(rows.expert)),
        _dispatch(rows.received, rows),
        _permute("permute", rows),
        _router_topk(),
        *_router_backward(),
        *again("shared_experts", _shared_forward()),
        *_shared_backward(),
        norm_backward("mlp_norm", s.local_tokens, s.hidden, joins=True),
    ]
