"""Every tensor of a model, once: its size, how it is cut, and whether tp ranks must add up its gradient.

From this follow the parameters of a model and of a rank, what is reduced and gathered, and the buffers that
weight gradients need. Megatron-Core 0.20: `transformer`, `models/gpt`, `distributed/finalize_model_grads.py`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.expressions import Part
from moesweep.shapes.layer_kinds import (
    KINDS,
    PREDICTING,
    has_experts,
    number_of_moe_layers,
    predicts_with_experts,
)
from moesweep.shapes.precision import fp8

ALWAYS, ZERO = pl.lit(True), pl.lit(0, dtype=pl.Int64)


@dataclass(frozen=True)
class Weight:
    """One tensor of n by k elements, there where `when` holds; a vector has k = 1.

    cut_n cut_k   over how many ranks its rows or columns are cut
    partial       under sequence parallelism each tp rank's gradient is of its own tokens only
    linear        whether a linear layer of Transformer Engine computes its gradient, and may use fp8
    """

    n: pl.Expr
    k: pl.Expr = pl.lit(1, dtype=pl.Int64)
    cut_n: pl.Expr | None = None
    cut_k: pl.Expr | None = None
    when: pl.Expr = ALWAYS
    partial: bool = False
    linear: bool = False

    @property
    def size(self) -> pl.Expr:
        """Elements of the whole tensor."""
        return _there(self, self.n * self.k)

    @property
    def shape(self) -> tuple[pl.Expr, pl.Expr]:
        """Rows and columns that one rank holds."""
        return (
            self.n if self.cut_n is None else self.n // self.cut_n,
            self.k if self.cut_k is None else self.k // self.cut_k,
        )

    @property
    def held(self) -> pl.Expr:
        """Elements that one rank holds."""
        rows, columns = self.shape
        return _there(self, rows * columns)


def _there(weight: Weight, size: pl.Expr) -> pl.Expr:
    return size if weight.when is ALWAYS else pl.when(weight.when).then(size).otherwise(0)


def _column(n: pl.Expr, k: pl.Expr, when: pl.Expr = ALWAYS, cut: pl.Expr = s.tp) -> Weight:
    """A column-parallel linear, y[rows, n/t] <- x[rows, k]."""
    return Weight(n, k, cut_n=cut, when=when, linear=True)


def _row(n: pl.Expr, k: pl.Expr, when: pl.Expr = ALWAYS, cut: pl.Expr = s.tp) -> Weight:
    """A row-parallel linear, y[rows, n] <- x[rows, k/t]."""
    return Weight(n, k, cut_k=cut, when=when, linear=True)


def _duplicated(n: pl.Expr, k: pl.Expr, when: pl.Expr) -> Weight:
    """A linear that every tp rank has whole, over its own tokens."""
    return Weight(n, k, when=when, partial=True, linear=True)


def _own(n: pl.Expr, when: pl.Expr = ALWAYS) -> Weight:
    """A vector that every tp rank has whole and applies to its own tokens."""
    return Weight(n, when=when, partial=True)


_NORM = pl.when(pl.col("normalization") == "rmsnorm").then(1).otherwise(2)
"""Vectors of a norm: weight, and for LayerNorm a bias."""

ATTENTION = (
    _own(2 * _NORM * s.hidden),  # the layer's two norms
    _column(s.qkv_width, s.hidden, ~s.mla),
    Weight(s.qkv_width, cut_n=s.tp, when=s.qkv_bias),
    _duplicated(s.q_latent, s.hidden, s.compresses_queries),
    _column(s.query_width, s.q_latent, s.compresses_queries),
    _column(s.query_width, s.hidden, s.mla & ~s.compresses_queries),
    _duplicated(s.kv_down_width, s.hidden, s.mla),
    _column(s.kv_up_width, s.kv_latent, s.mla),
    _own(_NORM * (s.q_latent + s.kv_latent), s.norms_latents),
    Weight(s.heads, cut_n=s.tp, when=pl.col("softmax_type") == "learnable"),  # a sink a head
    _row(s.hidden, s.value_width),
    _own(s.hidden, s.linear_bias),
)
"""Of the attention of every layer, both norms of the layer among them; QUERY_KEY_NORMS aside."""

QUERY_KEY_NORMS = Weight(
    _NORM * pl.when(s.norms_across).then(s.query_width + s.kv_width).otherwise(2 * s.head_dim),
    when=s.norms_heads,
)
"""Norms of queries and keys, of each head alike or across them all: every tp rank has them whole."""

DENSE = (
    _column(s.gate * s.ffn, s.hidden),
    Weight(s.gate * s.ffn, cut_n=s.tp, when=s.linear_bias),
    _row(s.hidden, s.ffn),
    _own(s.hidden, s.linear_bias),
)
"""Of a dense MLP."""

ROUTED = (
    Weight(s.experts, s.hidden, partial=True),
    _own(s.experts, s.linear_bias),
    _column(s.gate * s.shared_ffn, s.hidden, s.has_shared_experts),
    _row(s.hidden, s.shared_ffn, s.has_shared_experts),
    _own(s.hidden, s.has_shared_experts & s.shared_expert_gate),
)
"""Of a layer with experts: router and shared experts."""

EXPERT = (
    _column(s.gate * s.expert_ffn, s.hidden, cut=s.etp),
    Weight(s.gate * s.expert_ffn, cut_n=s.etp, when=s.linear_bias),
    _row(s.hidden, s.expert_ffn, cut=s.etp),
    Weight(s.hidden, when=s.linear_bias),
)
"""Of one expert."""

PREDICTION = (
    _own(3 * _NORM * s.hidden),  # of the embedding, of the hidden state, and the final one
    _column(s.hidden, 2 * s.hidden),
)
"""Of a module of multi-token prediction, besides its layer."""

FINAL_NORM = _own(_NORM * s.hidden)
TABLE = Weight(pl.col("padded_vocab_size"), s.hidden, cut_n=s.tp)
POSITIONS = Weight(s.sequence, s.hidden, when=s.learned_positions)
"""Added to whole sequences: every tp rank has the whole gradient."""


Measure = Callable[[Iterable[Weight]], pl.Expr]


def _sum(parts: Iterable[pl.Expr]) -> pl.Expr:
    return reduce(add, parts)


def _whole(weights: Iterable[Weight]) -> pl.Expr:
    return _sum(weight.size for weight in weights)


def _held(weights: Iterable[Weight]) -> pl.Expr:
    return _sum(weight.held for weight in weights)


def _partial(weights: Iterable[Weight]) -> pl.Expr:
    return _sum((ZERO, *(weight.held for weight in weights if weight.partial)))


def _linear(weights: Iterable[Weight]) -> pl.Expr:
    return _sum((ZERO, *(weight.held for weight in weights if weight.linear)))


def layers_of(kinds: Iterable[str]) -> pl.Expr:
    """Return how many layers of some kinds a stage, or a whole model, has: of columns `<kind>_layers`."""
    return _sum((ZERO, *(pl.col(f"{kind}_layers") for kind in kinds)))


routed_layers = layers_of(kind for kind in KINDS if has_experts(kind))
"""Layers of a stage with experts, those of multi-token prediction among them."""
layers_of_a_stage = layers_of(KINDS)
_predicting = layers_of(PREDICTING)
_predicts = _predicting > 0
_first, _last = pl.col("is_first"), pl.col("is_last")


def _of_layers(measure: Measure, layers: pl.Expr, routed: pl.Expr, predicting: pl.Expr) -> pl.Expr:
    """Return what some layers have, experts aside: `routed` ones of them, and `predicting` ones."""
    return (
        layers * measure((*ATTENTION, QUERY_KEY_NORMS))
        + (layers - routed) * measure(DENSE)
        + routed * measure(ROUTED)
        + predicting * measure(PREDICTION)
    )


def parameters() -> dict[str, pl.Expr]:
    """Return `parameters active_parameters mtp_parameters` of a model, over a workload's columns.

    Biases and norms are in, padding of the vocabulary is not; what a router adds to balance its experts is no
    parameter. Of the active ones a token passes k of E experts. Those of multi-token prediction count apart.
    """
    table = pl.col("vocab_size") * s.hidden
    ends = table + pl.when(s.tied).then(0).otherwise(table) + POSITIONS.size + FINAL_NORM.size
    routed, mtp = number_of_moe_layers(), pl.col("mtp_num_layers")
    mtp_routed = mtp * pl.when(predicts_with_experts()).then(1).otherwise(0)
    decoder = _of_layers(_whole, pl.col("num_layers"), routed, ZERO) + ends
    return {
        "parameters": decoder + routed * s.experts * _whole(EXPERT),
        "active_parameters": decoder + routed * s.topk * _whole(EXPERT),
        "mtp_parameters": _of_layers(_whole, mtp, mtp_routed, mtp) + mtp_routed * s.experts * _whole(EXPERT),
    }


def stage_parameters() -> tuple[pl.Expr, pl.Expr]:
    """Return one rank's parameters in a stage: in the dense buffer, and in the expert buffer.

    Columns: `<kind>_layers`, `is_first`, `is_last` of the stage and the workload's own. Experts that every dp
    rank holds whole (ep = 1, etp = tp) share the dense buffer. Multi-token prediction looks tokens up where
    it stands: in a copy of the embedding, unless that stage has the table.
    """
    # A tied head is the table itself, or on another stage a copy of it.
    head = _last & (~s.tied | ~_first)
    copy = _predicts & ~_first & ~(_last & s.tied)
    dense = (
        _of_layers(_held, layers_of(KINDS), routed_layers, _predicting)
        + pl.when(_first).then(TABLE.held + POSITIONS.held).otherwise(0)
        + pl.when(_last).then(FINAL_NORM.held).otherwise(0)
        + pl.when(head).then(TABLE.held).otherwise(0)
        + pl.when(copy).then(TABLE.held).otherwise(0)
    )
    return _by_buffer(dense, routed_layers * s.local_experts * _held(EXPERT))


def held_in_layers() -> tuple[pl.Expr, pl.Expr]:
    """Return of both `stage_parameters` those in transformer layers: all but what stands around these."""
    dense = _of_layers(_held, layers_of(KINDS), routed_layers, ZERO)
    return _by_buffer(dense, routed_layers * s.local_experts * _held(EXPERT))


def held_by_a_layer(kind: str) -> tuple[pl.Expr, pl.Expr]:
    """Return the same of one layer of a kind."""
    routed = has_experts(kind)
    dense = _held((*ATTENTION, QUERY_KEY_NORMS, *(ROUTED if routed else DENSE)))
    return _by_buffer(dense, s.local_experts * _held(EXPERT) if routed else ZERO)


def _by_buffer(dense: pl.Expr, experts: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    joined = s.expert_in_dense_buffer
    return dense + pl.when(joined).then(experts).otherwise(0), pl.when(joined).then(0).otherwise(experts)


def quantised_parameters() -> tuple[pl.Expr, pl.Expr]:
    """Return of both `stage_parameters` those that are multiplied in fp8: linears' weights, or none."""
    dense = _of_layers(_linear, layers_of(KINDS), routed_layers, _predicting)
    buffers = _by_buffer(dense, routed_layers * s.local_experts * _linear(EXPERT))
    in_dense, in_expert = (pl.when(fp8).then(held).otherwise(0) for held in buffers)
    return in_dense, in_expert


def partial_parameters() -> pl.Expr:
    """Return the parameters of a stage whose gradients the tp ranks must add up, each having a part of them.

    Under sequence parallelism all that are not cut; without it the norms of queries and keys alone, as every
    rank applies them to its own heads (`_allreduce_non_tensor_model_parallel_grads`).
    """
    of_heads = layers_of(KINDS) * QUERY_KEY_NORMS.held
    of_layers = _of_layers(_partial, layers_of(KINDS), routed_layers, _predicting)
    of_tokens = of_layers + pl.when(_last).then(FINAL_NORM.held).otherwise(0)
    return of_heads + pl.when(s.sequence_parallel).then(of_tokens).otherwise(0)


def shares_embedding() -> pl.Expr:
    """Return whether a stage's table has a copy on another stage, whose gradient is added to its own."""
    tied = (_first | _last) & s.tied
    predicting = pl.col("mtp_num_layers") > 0
    return (s.pp > 1) & (tied | (predicting & (_first | _predicts)))


def gradient_shapes(part: Part) -> list[tuple[pl.Expr, pl.Expr, pl.Expr]]:
    """Return (is it there, n, k) of each linear layer's weight that a stage may have, as a rank holds it.

    `part` is asked of what depends on the workload alone.
    """
    places = (
        (layers_of(KINDS) > 0, ATTENTION),
        (layers_of(KINDS) - routed_layers > 0, DENSE),
        (routed_layers > 0, (*ROUTED, *EXPERT)),
        (_predicts, PREDICTION),
    )
    linear = [(there, weight) for there, weights in places for weight in weights if weight.linear]
    return [
        (there & part(f"has shape {place}", weight.when), *weight.shape)
        for place, (there, weight) in enumerate(linear)
    ]
