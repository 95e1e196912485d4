"""What of a layer's activations goes to the host's memory, as polars expressions over a workload's columns.

Fine-grained offloading copies what chosen modules save for their backward pass: down when the module's
forward is over, up before its backward begins. Tensors of few elements stay. What is kept elsewhere as well
is copied and stays: core attention's output, unless the projection behind it is offloaded too. Sources:
Megatron-Core 0.19.2 (`pipeline_parallel/fine_grained_activation_offload.py`, `transformer_layer.py`,
`attention.py`, `multi_latent_attention.py`, `moe/experts.py`), Transformer Engine's linears and attention.
"""

from dataclasses import dataclass

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.expressions import total
from moesweep.shapes.layer_kinds import number_of_moe_layers
from moesweep.shapes.placement import placed_by_hand
from moesweep.shapes.schedule import sets_in_flight

OFFLOAD, RELOAD = COPIES = ("activation_offload", "activation_reload")
"""The ops of a layer that copy its activations down, and up again."""

offloads_activations = pl.col("fine_grained_activation_offloading")
_least = pl.col("min_offloaded_tensor_size")
_yes = pl.lit(True)


@dataclass(frozen=True)
class Saved:
    """A tensor of 16 bits that a module saves: its elements, where it is saved, where its memory is freed."""

    module: str
    elements: pl.Expr
    there: pl.Expr = _yes
    freed: pl.Expr = _yes


_input = s.local_tokens * s.hidden
_output = s.tokens * (s.value_width // s.tp)
_stands_apart = s.exchanges_heads | s.gathers_keys

ATTENTION = (
    Saved("attn_norm", _input, s.mla),
    # A norm that is part of the linear saves its input and what it makes of it.
    Saved("qkv_linear", _input, ~s.mla),
    Saved("qkv_linear", _input),
    *(
        saved
        for width in (s.q_latent, s.kv_latent)
        for saved in (
            Saved("qkv_linear", s.local_tokens * width, s.mla & s.norms_latents & (width > 0)),
            Saved("qkv_linear", s.local_tokens * width, s.mla & (width > 0)),
        )
    ),
    *(
        Saved("core_attn", s.tokens * width)
        for width in (s.rank_query_width, s.rank_key_width, s.rank_value_width)
    ),
    Saved("core_attn", _output, freed=_stands_apart),
    Saved("attn_proj", _output),
)
"""What attention's modules save, in any layer."""


def _of_experts(rows: pl.Expr) -> tuple[Saved, ...]:
    """Return what the modules of a layer with experts save, of a rank's expert rows.

    Of the activation: its input; of GELU what probabilities multiply, of a SwiGLU in parts silu, the linear
    half and their product, unless the activation runs again.
    """
    width = s.expert_ffn // s.etp
    kept = ~s.repeats("moe_act")
    in_parts = kept & s.gated & ~s.fused_activation
    return (
        Saved("mlp_norm", _input),
        Saved("expert_fc1", rows * s.hidden),
        Saved("moe_act", rows * s.gate * width),
        Saved("moe_act", rows * width, kept & ~s.gated),
        *[Saved("moe_act", rows * width, in_parts)] * 3,
    )


def _bytes(tensors: tuple[Saved, ...], freed: bool) -> pl.Expr:
    return total(
        pl.when(
            s.keeps_on_host(each.module)
            & each.there
            & (each.elements >= _least)
            & (each.freed if freed else _yes)
        )
        .then(s.ELEMENT_BYTES * each.elements)
        .otherwise(0)
        for each in tensors
    )


def moved_bytes(moe: bool, rows: pl.Expr) -> pl.Expr:
    """Return what a layer copies down of a micro-batch, and up again: 2 bytes an element of what it offloads.

    `rows` are a rank's expert rows, where it has experts.
    """
    return _bytes(ATTENTION + (_of_experts(rows) if moe else ()), freed=False)


def freed_bytes(moe: bool, rows: pl.Expr) -> pl.Expr:
    """Return what of `moved_bytes` the device does not keep meanwhile."""
    return _bytes(ATTENTION + (_of_experts(rows) if moe else ()), freed=True)


def least_activations_on_host() -> pl.Expr:
    """Return what a rank's host keeps at least of activations, over a workload's columns.

    Of the layers that every first stage has, L/(pp·v) rounded down, v times, those of all micro-batches that
    are alive there, but for one, and each as small as the smallest kind. Where layers are placed by hand, of
    one micro-batch, and of L/pp layers, which some stage has.
    """
    moe_layers, layers = number_of_moe_layers(), pl.col("num_layers")
    # Without what recomputation makes again: a screen asks a rule for all points alike in what it reads.
    always = _of_experts(s.expert_rows)[:3]
    dense, moe = (_bytes(ATTENTION + more, freed=False) for more in ((), always))
    smallest = (
        pl.when(moe_layers == 0)
        .then(dense)
        .when(moe_layers == layers)
        .then(moe)
        .otherwise(pl.min_horizontal(dense, moe))
    )
    evenly = layers // (s.pp * s.chunks) * s.chunks * sets_in_flight(pl.lit(0))
    alive = pl.when(placed_by_hand).then(layers // s.pp).otherwise(evenly)
    kept = pl.max_horizontal(alive - 1, 0) * smallest.cast(pl.Float64)
    return pl.when(offloads_activations).then(kept).otherwise(0.0)
