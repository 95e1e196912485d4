"""The experts of a layer, forward and backward (Megatron-Core 0.20 `moe_layer.py`)."""

from dataclasses import replace

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.trace.dispatch import combine, combine_backward, dispatch, dispatch_backward
from moesweep.trace.elementwise import activation, norm, norm_backward, residual, residual_backward
from moesweep.trace.mlp import mlp_backward, mlp_forward
from moesweep.trace.vocabulary import Op, again, all_reduce, elementwise, gemm, linear_backward

ROUTER_LOGIT = 12  # softmax and top-k: two reads and a write of one fp32 router logit
# Of fp64: cast to fp32 (read 8, write 4), in which scores are, and a probability of 8 written; back the same.
ROUTER_LOGIT_FP64 = 28
# Beside them the groups' best are found (read), and a copy made (read, write) by a mask (write, read); one
# kernel does so on its way (Transformer Engine `fused_topk_with_score_function`).
OF_GROUPS = 20
# A loss that balances: softmax (read, write), top-k (read), its map of 4 bytes made one of 1 (write, read,
# write), it counted and scores summed (read, read). Backward: gradients of experts spread out (write, read),
# softmax (read, write), and the sum with the router's own (read two, write one).
BALANCING, BALANCING_BACKWARD = 26, 28
# Of fp64 logits cast to fp32 (read 8, write 4). Backward: cast to fp64 (read 4, write 8), and that sum of 8.
BALANCING_FP64, BALANCING_FP64_BACKWARD = 38, 52
# Of two kernels: softmax and its map of 1 (read, write three: it keeps the softmax for later), and the counts
# (read) by which scores are summed (read); backward they write and read as much.
FUSED_BALANCING = 18
COUNT_BYTES = 8
WHERE_GRADIENTS_ARE = ("balancing_loss", "balancing_loss_reduce")
"""What a pass leaves out that keeps nothing for a backward pass: it runs again (Megatron `router.py`,
`torch.is_grad_enabled`)."""
# An expert's bias: scores with it (fp32, read and write), and the map of 1 of who was chosen, counted (read).
BIAS, BIAS_FUSED = 9, 1
GATING, GATING_BACKWARD = 4, 12  # times a number a token, like BY_PROBABILITY
SUM = 6  # shared and routed experts' outputs: read two, write one


def _router() -> Op:
    """Return the product that gives logits in the router's format: of operands of 16 bits, or cast to fp64.

    Megatron `moe_utils.py`, `RouterGatingLinearFunction`.
    """
    # [b·s/t, E] <- [b·s/t, h]
    op = gemm("router", s.local_tokens, s.experts, s.hidden)
    operand = pl.when(s.fp64_router).then(s.router_bytes).otherwise(s.ELEMENT_BYTES) + s.router_cast_bytes
    return replace(op, hbm_bytes=operand * (op.m * op.k + op.k * op.n) + s.router_bytes * op.m * op.n)


def _router_backward() -> list[Op]:
    """Return both gradients, products in the router's format, as what is given to them is cast.

    Casts to fp64, and of gradients back from it, are counted: of weight and input's gradient, and of input
    and weight's.
    """
    dgrad, wgrad = linear_backward(_router())
    m, n, k = s.local_tokens, s.experts, s.hidden
    summed = 2 * s.gradient_bytes * n * k
    return [
        replace(
            dgrad, hbm_bytes=s.router_bytes * (m * n + n * k + m * k) + s.router_cast_bytes * (n + m) * k
        ),
        replace(wgrad, hbm_bytes=s.router_bytes * m * (n + k) + summed + s.router_cast_bytes * (m + n) * k),
    ]


def _router_topk(backward: bool = False) -> Op:
    apart = s.in_groups & ~s.fuses_router
    more = 0 if backward else pl.when(apart).then(OF_GROUPS).otherwise(0)
    moved = pl.when(s.fp64_router).then(ROUTER_LOGIT_FP64).otherwise(ROUTER_LOGIT)
    return elementwise("router_topk", (moved + more) * s.local_tokens * s.experts)


def _balancing_loss() -> list[Op]:
    """Return the loss that balances experts, whose tokens ranks count together: of whole numbers of 64 bits.

    A sum of truths is of these (Megatron `moe_utils.py`, `get_tokens_per_expert_and_token_count`). A loss of
    global batches adds what all ranks of a stage count to what they did before (`_apply_global_aux_loss`).
    """
    counts, over = COUNT_BYTES * s.experts * s.balanced_sequences, "balancing_loss_reduce"
    plain = pl.when(s.fp64_router).then(BALANCING_FP64).otherwise(BALANCING)
    moved = pl.when(s.fuses_router).then(FUSED_BALANCING).otherwise(plain)
    ops = [
        elementwise("balancing_loss", moved * s.local_tokens * s.experts),
        all_reduce(over, "tp", counts).only((s.cp == 1) & ~s.counts_globally),
        all_reduce(over, "cp", counts).only((s.tp == 1) & ~s.counts_globally),
        all_reduce(over, "tp_cp", counts).only((s.tp > 1) & (s.cp > 1) & ~s.counts_globally),
        all_reduce(over, "tp_cp_dp", counts).only(s.counts_globally),
    ]
    return [op.only(s.has_balancing_loss) for op in ops]


def _expert_bias() -> Op:
    """Return adding biases to scores, unless fused routers do that, and counting the chosen experts."""
    moved = pl.when(s.fuses_router).then(BIAS_FUSED).otherwise(BIAS)
    return elementwise("expert_bias", moved * s.local_tokens * s.experts).only(s.biases_experts)


def _balancing_loss_backward() -> Op:
    moved = pl.when(s.fp64_router).then(BALANCING_FP64_BACKWARD).otherwise(BALANCING_BACKWARD)
    return elementwise("balancing_loss", moved * s.local_tokens * s.experts).only(s.has_balancing_loss)


def _expert_linears(rows: s.Rows) -> tuple[Op, Op]:
    """Return the grouped GEMMs of the E/e local experts, over their R rows in all."""
    width = s.expert_ffn // s.etp
    # [R, f/etp] <- [R, h], gated 2f/etp; [R, h] <- [R, f/etp]
    fc1 = gemm("expert_fc1", rows.expert, s.gate * width, s.hidden, "grouped_gemm", s.local_experts)
    return fc1, gemm("expert_fc2", rows.expert, s.hidden, width, "grouped_gemm", s.local_experts)


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
    return [
        *_shared_forward(),
        _router(),
        _router_topk(),
        *_balancing_loss(),
        _expert_bias(),
        *dispatch(rows),
        fc1,
        _activation(rows),
        fc2,
        *combine(rows),
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
        *combine_backward(rows),
        *again("moe_act", [_activation(rows)]),
        *linear_backward(fc2),
        activation("expert_activation", rows.expert, width, experts=True, backward=True),
        *linear_backward(fc1),
        *dispatch_backward(rows),
        _router_topk(backward=True),
        _balancing_loss_backward(),
        *_router_backward(),
        *again("shared_experts", _shared_forward()),
        *_shared_backward(),
        norm_backward("mlp_norm", s.local_tokens, s.hidden, joins=True),
    ]
