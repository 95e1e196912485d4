"""The ops of one transformer layer, forward and backward (Megatron-Core; semantics in docs/trace.md)."""

from dataclasses import replace

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.trace.vocabulary import (
    Op,
    all_gather,
    all_reduce,
    all_to_all,
    elementwise,
    gemm,
    linear_backward,
    reduce_scatter,
)

# Bytes of device memory per element of the named activation (2-byte elements, 1-byte dropout masks).
NORM_FORWARD, NORM_BACKWARD = 4, 12  # read x, write y; read x and dy, write dx, add the residual's gradient
RESIDUAL_FORWARD, RESIDUAL_BACKWARD = (
    7,
    5,
)  # read x and the residual, write sum and mask; read dy and mask, write dx
SCORE_FORWARD, SCORE_BACKWARD = 9, 11  # mask, softmax, dropout of unfused attention scores
ROUTER_LOGIT = 12  # softmax and top-k: two reads and a write of one fp32 router logit

SP, PLAIN = s.sequence_parallel, s.plain_tensor_parallel


def _core_attention() -> tuple[Op, Op]:
    """Return softmax(q kT) v, forward and backward.

    Forward 2·b·s²·(query + value width)/t flops, which is 4·b·s²·h/t for equal widths; backward twice
    that. Flash attention skips the masked half and recomputes the scores in backward (5 products
    for 2; Dao 2023, arXiv:2307.08691).
    """
    width = (s.query_width + s.core_value_width) // 2 // s.tp
    product = 4 * s.sequence * s.sequence * width * s.batch
    rows = s.ELEMENT_BYTES * s.tokens
    inputs = rows * (s.query_width + s.key_width + s.kv_value_width) // s.tp
    output = rows * s.value_width // s.tp
    unfused = pl.when(s.flash).then(0).otherwise(s.scores)
    op = Op("core_attention", "attention", m=s.sequence, n=s.sequence, k=width, groups=s.batch)
    forward = replace(
        op,
        flops=pl.when(s.flash).then(product // 2).otherwise(product),
        hbm_bytes=inputs + output + SCORE_FORWARD * unfused,
    )
    backward = replace(
        op,
        flops=pl.when(s.flash).then(product * 5 // 4).otherwise(2 * product),
        hbm_bytes=2 * (inputs + output) + SCORE_BACKWARD * unfused,
    )
    return forward, backward


def _norm(name: str, width: int) -> Op:
    return elementwise(name, width * s.local_tokens * s.hidden)


def _residual(name: str, width: int) -> Op:
    return elementwise(name, width * s.local_tokens * s.hidden)


def _projections() -> list[Op]:
    """Return the GEMMs before core attention: one fused qkv, or the four of multi-latent attention."""
    return [
        gemm("qkv", s.tokens, (s.hidden + 2 * s.kv_width) // s.tp, s.hidden).only(~s.mla),
        gemm("q_down", s.local_tokens, pl.col("q_lora_rank"), s.hidden).only(s.mla),
        gemm("q_up", s.tokens, s.query_width // s.tp, pl.col("q_lora_rank")).only(s.mla),
        gemm("kv_down", s.local_tokens, s.kv_down_width, s.hidden).only(s.mla),
        gemm("kv_up", s.tokens, s.kv_up_width // s.tp, pl.col("kv_lora_rank")).only(s.mla),
    ]


def _output_projection() -> Op:
    return gemm("attention_output", s.tokens, s.hidden, s.value_width // s.tp)


def attention_forward() -> list[Op]:
    """Return norm, qkv, core attention, output projection and their tp collectives."""
    return [
        _norm("attention_norm", NORM_FORWARD),
        all_gather("attention_gather", "tp", s.activation_bytes).only(SP),
        *_projections(),
        _core_attention()[0],
        _output_projection(),
        reduce_scatter("attention_scatter", "tp", s.activation_bytes).only(SP),
        all_reduce("attention_reduce", "tp", s.activation_bytes).only(PLAIN),
        _residual("attention_residual", RESIDUAL_FORWARD),
    ]


def attention_backward() -> list[Op]:
    """Return the mirror of `attention_forward`; qkv saved its sharded input, so it is gathered again."""
    gradients = [linear_backward(projection) for projection in reversed(_projections())]
    forward, backward = _core_attention()
    return [
        _residual("attention_residual", RESIDUAL_BACKWARD),
        all_gather("attention_scatter", "tp", s.activation_bytes).only(SP),
        *linear_backward(_output_projection()),
        forward.recomputed().only(pl.col("recompute") == "selective"),
        backward,
        all_gather("attention_regather", "tp", s.activation_bytes).only(SP),
        *(dgrad for dgrad, _ in gradients),
        reduce_scatter("attention_gather", "tp", s.activation_bytes).only(SP),
        all_reduce("attention_reduce_grad", "tp", s.activation_bytes).only(PLAIN),
        *(wgrad for _, wgrad in gradients),
        _norm("attention_norm", NORM_BACKWARD),
    ]


def _activation(name: str, rows: pl.Expr, width: pl.Expr, backward: bool) -> Op:
    """Return GeLU, or SwiGLU where gated: bytes per output element, read and written.

    GeLU: x in, y out, 4; backward x and dy in, dx out, 6. SwiGLU has two inputs: 6 and 10.
    """
    bytes_ = pl.when(s.gated).then(10 if backward else 6).otherwise(6 if backward else 4)
    return elementwise(name, bytes_ * rows * width)


def _mlp(prefix: str, width: pl.Expr) -> tuple[Op, Op]:
    fc1 = gemm(f"{prefix}fc1", s.tokens, s.gate * width // s.tp, s.hidden)
    return fc1, gemm(f"{prefix}fc2", s.tokens, s.hidden, width // s.tp)


def dense_mlp_forward() -> list[Op]:
    """Return norm, fc1, activation, fc2 and their tp collectives."""
    fc1, fc2 = _mlp("", s.ffn)
    return [
        _norm("mlp_norm", NORM_FORWARD),
        all_gather("mlp_gather", "tp", s.activation_bytes).only(SP),
        fc1,
        _activation("activation", s.tokens, s.ffn // s.tp, backward=False),
        fc2,
        reduce_scatter("mlp_scatter", "tp", s.activation_bytes).only(SP),
        all_reduce("mlp_reduce", "tp", s.activation_bytes).only(PLAIN),
        _residual("mlp_residual", RESIDUAL_FORWARD),
    ]


def dense_mlp_backward() -> list[Op]:
    """Return the mirror of `dense_mlp_forward`, with fc1's sharded input gathered again."""
    fc1, fc2 = _mlp("", s.ffn)
    fc1_dgrad, fc1_wgrad = linear_backward(fc1)
    return [
        _residual("mlp_residual", RESIDUAL_BACKWARD),
        all_gather("mlp_scatter", "tp", s.activation_bytes).only(SP),
        *linear_backward(fc2),
        _activation("activation", s.tokens, s.ffn // s.tp, backward=True),
        all_gather("mlp_regather", "tp", s.activation_bytes).only(SP),
        fc1_dgrad,
        reduce_scatter("mlp_gather", "tp", s.activation_bytes).only(SP),
        all_reduce("mlp_reduce_grad", "tp", s.activation_bytes).only(PLAIN),
        fc1_wgrad,
        _norm("mlp_norm", NORM_BACKWARD),
    ]


def _router() -> Op:
    return gemm("router", s.local_tokens, s.experts, s.hidden)


def _router_topk() -> Op:
    return elementwise("router_topk", ROUTER_LOGIT * s.local_tokens * s.experts)


def _permute(name: str, rows: s.Rows) -> Op:
    """Return the move of b·s/t tokens from or to their k copies each: every copy is read and written."""
    return elementwise(name, 2 * s.ELEMENT_BYTES * s.hidden * rows.sent)


def _sort(name: str, rows: s.Rows) -> Op:
    """Return the reordering of the R expert rows by local expert: read and write."""
    return elementwise(name, 2 * s.ELEMENT_BYTES * rows.expert * s.hidden).only(s.sorts_experts)


def _expert_linears(rows: s.Rows) -> tuple[Op, Op]:
    width = s.expert_ffn // s.etp
    fc1 = gemm("expert_fc1", rows.expert, s.gate * width, s.hidden, "grouped_gemm", s.local_experts)
    return fc1, gemm("expert_fc2", rows.expert, s.hidden, width, "grouped_gemm", s.local_experts)


def _exchange(name: str, copies: pl.Expr, rows: s.Rows) -> Op:
    """Return the all_to_all over ep that sends `copies`: routed ones to their experts, or results back.

    Around it, the etp ranks that share an expert exchange theirs.
    """
    moved = copies if rows.exchanged is None else rows.exchanged
    op = all_to_all(name, "ep", s.ELEMENT_BYTES * moved * s.hidden)
    return op if rows.own is None else replace(op, own_bytes=s.ELEMENT_BYTES * rows.own * s.hidden)


def _expert_bytes(rows: s.Rows) -> pl.Expr:
    return s.ELEMENT_BYTES * rows.expert * s.hidden


def _shared_expert_forward() -> list[Op]:
    """Return the always-on shared experts: one MLP, split over tp like the dense one."""
    fc1, fc2 = _mlp("shared_", s.shared_ffn)
    ops = [
        all_gather("shared_gather", "tp", s.activation_bytes).only(SP),
        fc1,
        _activation("shared_activation", s.tokens, s.shared_ffn // s.tp, backward=False),
        fc2,
        reduce_scatter("shared_scatter", "tp", s.activation_bytes).only(SP),
    ]
    return [op.only(s.shared_ffn > 0) for op in ops]


def _shared_expert_backward() -> list[Op]:
    fc1, fc2 = _mlp("shared_", s.shared_ffn)
    fc1_dgrad, fc1_wgrad = linear_backward(fc1)
    ops = [
        all_gather("shared_scatter", "tp", s.activation_bytes).only(SP),
        *linear_backward(fc2),
        _activation("shared_activation", s.tokens, s.shared_ffn // s.tp, backward=True),
        all_gather("shared_regather", "tp", s.activation_bytes).only(SP),
        fc1_dgrad,
        reduce_scatter("shared_gather", "tp", s.activation_bytes).only(SP),
        fc1_wgrad,
    ]
    return [op.only(s.shared_ffn > 0) for op in ops]


def moe_mlp_forward(rows: s.Rows = s.BALANCED) -> list[Op]:
    """Return router, dispatch, experts and combine (Megatron `MoEAlltoAllTokenDispatcher`)."""
    fc1, fc2 = _expert_linears(rows)
    counts_bytes = 8 * s.experts * s.ep * s.etp  # int64 tokens per expert, from every rank of the group
    return [
        _norm("mlp_norm", NORM_FORWARD),
        _router(),
        _router_topk(),
        all_gather("token_counts", "tp_ep", counts_bytes),
        _permute("permute", rows),
        _exchange("moe_dispatch", rows.sent, rows),
        all_gather("expert_gather", "etp", _expert_bytes(rows)),
        _sort("expert_sort", rows),
        fc1,
        _activation("expert_activation", rows.expert, s.expert_ffn // s.etp, backward=False),
        fc2,
        _sort("expert_unsort", rows),
        reduce_scatter("expert_scatter", "etp", _expert_bytes(rows)),
        _exchange("moe_combine", rows.received, rows),
        _permute("unpermute", rows),
        *_shared_expert_forward(),
        _residual("mlp_residual", RESIDUAL_FORWARD),
    ]


def moe_mlp_backward(rows: s.Rows = s.BALANCED) -> list[Op]:
    """Return the exact mirror of `moe_mlp_forward`: permuted tokens are saved, nothing is gathered again."""
    fc1, fc2 = _expert_linears(rows)
    return [
        _residual("mlp_residual", RESIDUAL_BACKWARD),
        *_shared_expert_backward(),
        _permute("unpermute", rows),
        _exchange("moe_combine", rows.sent, rows),
        all_gather("expert_scatter", "etp", _expert_bytes(rows)),
        _sort("expert_unsort", rows),
        *linear_backward(fc2),
        _activation("expert_activation", rows.expert, s.expert_ffn // s.etp, backward=True),
        *linear_backward(fc1),
        _sort("expert_sort", rows),
        reduce_scatter("expert_gather", "etp", _expert_bytes(rows)),
        _exchange("moe_dispatch", rows.received, rows),
        _permute("permute", rows),
        _router_topk(),
        *linear_backward(_router()),
        _norm("mlp_norm", NORM_BACKWARD),
    ]


def layer_forward(kind: str, rows: s.Rows = s.BALANCED) -> list[Op]:
    """Return the forward ops of a `dense` or `moe` layer."""
    return attention_forward() + (moe_mlp_forward(rows) if kind == "moe" else dense_mlp_forward())


def layer_backward(kind: str, rows: s.Rows = s.BALANCED) -> list[Op]:
    """Return the backward ops of a layer, after the whole forward again under full recomputation."""
    again = [op.recomputed().only(pl.col("recompute") == "full") for op in layer_forward(kind, rows)]
    return again + (moe_mlp_backward(rows) if kind == "moe" else dense_mlp_backward()) + attention_backward()
