"""The attention of a layer, forward and backward: grouped queries, or multi-latent (DeepSeek-V2).

Megatron-Core 0.20 `transformer/attention.py` and `multi_latent_attention.py`; semantics in docs/trace.md.
"""

from dataclasses import replace

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.trace.context import moved_backward, moved_forward, shared_backward, shared_forward
from moesweep.trace.elementwise import norm, norm_backward, residual, residual_backward
from moesweep.trace.linears import (
    SP,
    column_parallel,
    column_parallel_backward,
    row_parallel,
    row_parallel_backward,
)
from moesweep.trace.vocabulary import Op, again, all_gather, gemm, linear_backward, reduce_scatter

# Bytes of device memory per unfused score: the softmax with its mask reads and writes 2; in backward it reads
# its output and a gradient and writes one. Dropout reads 2, writes 2 and a mask of 1, either way.
SOFTMAX_FORWARD, SOFTMAX_BACKWARD, SCORE_DROPOUT = 4, 6, 5


def core_attention(windowed: bool) -> tuple[Op, Op]:
    """Return softmax(q kT) v, forward and backward.

    Forward 2·b·s·keys·(query + value width)/t flops, which is 4·b·s²·a·d/t for equal widths and all keys;
    backward twice that. Flash attention computes the s²/2 pairs that a causal mask leaves, or s·w of a window
    of w keys, and recomputes the scores in backward (5 products for 2; Dao 2023, arXiv:2307.08691). Unfused
    attention computes and keeps whole matrices. Of cp ranks each has 1/c of the queries, or of the heads.
    """
    width = (s.query_width + s.core_value_width) // 2 // s.tp // s.heads_split
    rows = s.own_sequence * s.heads_split
    keys = s.window if windowed else s.sequence
    halves = pl.min_horizontal(2 * keys, s.sequence) if windowed else keys
    flash = 2 * s.batch * rows * halves * width
    whole = 4 * s.batch * rows * s.sequence * width
    unfused = pl.when(s.flash).then(0).otherwise(s.scores)
    dropout = pl.when(s.attention_dropout).then(SCORE_DROPOUT).otherwise(0)
    op = Op("core_attention", "attention", m=rows, n=keys, k=width, groups=s.batch)
    forward = replace(
        op,
        flops=pl.when(s.flash).then(flash).otherwise(whole),
        hbm_bytes=moved_forward() + (SOFTMAX_FORWARD + dropout) * unfused,
    )
    backward = replace(
        op,
        flops=pl.when(s.flash).then(flash * 5 // 2).otherwise(2 * whole),
        hbm_bytes=moved_backward() + (SOFTMAX_BACKWARD + dropout) * unfused,
    )
    return forward, backward


def _qkv() -> Op:
    # [b·s, (a + 2g)·d/t] <- [b·s, h]
    return gemm("qkv", s.tokens, s.qkv_width // s.tp, s.hidden).only(~s.mla)


def _whole_qkv() -> pl.Expr:
    """Return the bytes of qkv of all ranks together: 2·b·s·(a + 2g)·d."""
    return s.ELEMENT_BYTES * s.tokens * s.qkv_width


def _head_norms(backward: bool = False) -> list[Op]:
    """Return the norms of queries and keys, over all tokens: of each of the rank's own heads.

    Or across all heads (OLMoE): then what each rank has is gathered, normed by all, and cut again; in
    backward the gradients are.
    """
    make = norm_backward if backward else norm
    ops = []
    for name, own, every in (
        ("q_norm", s.rank_query_width, s.query_width),
        ("k_norm", s.rank_key_width, s.kv_width),
    ):
        width = pl.when(s.norms_across).then(every).otherwise(own)
        ops += [
            all_gather(f"{name}_gather", "tp", _wide(every)).only(s.norms_across),
            make(name, s.tokens, width).only(s.norms_heads),
        ]
    return ops


def _latent_norm(name: str, width: pl.Expr, backward: bool = False) -> Op:
    """Return the norm of a latent, over the rank's own tokens."""
    make = norm_backward if backward else norm
    return make(name, s.local_tokens, width).only(s.norms_latents & (width > 0))


def _latent_linears() -> dict[str, Op]:
    """Return the linears of multi-latent attention before its core, by name.

    Those that compress run on b·s/t tokens, whole on every tp rank; the others are split over heads.
    """
    return {
        # [b·s/t, q_lora] <- [b·s/t, h]
        "q_down": gemm("q_down", s.local_tokens, s.q_latent, s.hidden).only(s.compresses_queries),
        # [b·s, a·(nope + rope)/t] <- [b·s, q_lora]
        "q_up": gemm("q_up", s.tokens, s.query_width // s.tp, s.q_latent).only(s.compresses_queries),
        # [b·s, a·(nope + rope)/t] <- [b·s, h], where queries are not compressed
        "q_proj": gemm("q_proj", s.tokens, s.query_width // s.tp, s.hidden).only(
            s.mla & ~s.compresses_queries
        ),
        # [b·s/t, kv_lora + rope] <- [b·s/t, h]
        "kv_down": gemm("kv_down", s.local_tokens, s.kv_down_width, s.hidden).only(s.mla),
        # [b·s, a·(nope + v)/t] <- [b·s, kv_lora]
        "kv_up": gemm("kv_up", s.tokens, s.kv_up_width // s.tp, s.kv_latent).only(s.mla),
    }


def _wide(width: pl.Expr) -> pl.Expr:
    """Return the bytes of all tokens at a width."""
    return s.ELEMENT_BYTES * s.tokens * width


def _rope_key_bytes() -> pl.Expr:
    return _wide(pl.col("qk_rope_head_dim"))


def _output() -> Op:
    # [b·s, h] <- [b·s, a·d/t]
    return gemm("attention_output", s.tokens, s.hidden, s.value_width // s.tp)


def _latent_forward() -> list[Op]:
    """Return what multi-latent attention does before its core: not the input is gathered, but its latents."""
    linear = _latent_linears()
    return [
        linear["q_down"],
        linear["kv_down"],
        all_gather("rope_key_gather", "tp", _rope_key_bytes()).only(SP & s.mla),
        *_up_projections(),
    ]


def _up_projections() -> list[Op]:
    """Return how latents become heads: their norms, which are part of the linears, gathers and linears."""
    linear = _latent_linears()
    return [
        _latent_norm("q_latent_norm", s.q_latent),
        *column_parallel("q_latent", linear["q_up"], _wide(s.q_latent)),
        *column_parallel("q", linear["q_proj"]),
        _latent_norm("kv_latent_norm", s.kv_latent),
        *column_parallel("kv_latent", linear["kv_up"], _wide(s.kv_latent)),
    ]


def _latent_backward() -> list[Op]:
    linear = _latent_linears()
    return [
        *column_parallel_backward("kv_latent", linear["kv_up"], _wide(s.kv_latent)),
        _latent_norm("kv_latent_norm", s.kv_latent, backward=True),
        *column_parallel_backward("q", linear["q_proj"]),
        *column_parallel_backward("q_latent", linear["q_up"], _wide(s.q_latent)),
        _latent_norm("q_latent_norm", s.q_latent, backward=True),
        reduce_scatter("rope_key_gather", "tp", _rope_key_bytes()).only(SP & s.mla),
        *linear_backward(linear["kv_down"]),
        *linear_backward(linear["q_down"]),
    ]


def _attention_norm() -> Op:
    return norm("attention_norm", s.local_tokens, s.hidden)


def attention_forward(windowed: bool) -> list[Op]:
    """Return norm, projections, core attention, output projection and their tp collectives."""
    return [
        _attention_norm(),
        *column_parallel("attention", _qkv()),
        all_gather("qkv_gather", "tp", _whole_qkv()).only(s.gathers_qkv),
        *_head_norms(),
        *_latent_forward(),
        *shared_forward(core_attention(windowed)[0]),
        *row_parallel("attention", _output()),
        residual("attention_residual"),
    ]


def attention_backward(windowed: bool) -> list[Op]:
    """Return the mirror of `attention_forward`, after what of it is recomputed.

    Megatron repeats a norm of mla attention, which is a module of its own, when the gradient of attention's
    output is there, and the latents' projections when that of its core's is.
    """
    forward, backward = core_attention(windowed)
    return [
        residual_backward("attention_residual"),
        *again("layernorm", [_attention_norm().only(s.mla)]),
        *row_parallel_backward("attention", _output()),
        *again("mla_up_proj", _up_projections()),
        *again("core_attn", shared_forward(forward)),
        *shared_backward(backward),
        *_latent_backward(),
        *_head_norms(backward=True),
        reduce_scatter("qkv_gather", "tp", _whole_qkv()).only(s.gathers_qkv),
        *column_parallel_backward("attention", _qkv()),
        norm_backward("attention_norm", s.local_tokens, s.hidden, joins=True),
    ]
