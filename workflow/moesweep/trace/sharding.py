"""What Megatron-FSDP gathers and reduces in every micro-batch: a layer's parameters and gradients.

`_post_forward`, `_pre_backward_param_unshard` and `_process_post_backward_gradients` of Megatron-Core 0.16.1,
`megatron_fsdp.py`. Dense parameters go over the ranks that hold the same ones, experts over edp.
"""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.layer_kinds import is_predicting
from moesweep.shapes.sharding import shards_gradients, shards_parameters
from moesweep.shapes.weights import FINAL_NORM, POSITIONS, PREDICTION, TABLE, held_by_a_layer
from moesweep.trace.vocabulary import Op, all_gather, reduce_scatter


def gathered_layer(kind: str) -> list[Op]:
    """Return the gathering of a layer's parameters: before its forward pass, and before its backward pass."""
    dense, expert = held_by_a_layer(kind)
    ops = [
        all_gather("layer_gather_dense", "dp", s.ELEMENT_BYTES * dense),
        all_gather("layer_gather_expert", "edp", s.ELEMENT_BYTES * expert).only(expert > 0),
    ]
    return [op.only(shards_parameters) for op in ops]


def reduced_layer(kind: str) -> list[Op]:
    """Return the reduction of a layer's gradients; with those of what multi-token prediction has besides."""
    dense, expert = held_by_a_layer(kind)
    if is_predicting(kind):
        dense = sum((weight.held for weight in PREDICTION), dense)
    return _reduced(dense, "layer_reduce_dense", "dp") + _reduced(expert, "layer_reduce_expert", "edp")


def _reduced(parameters: pl.Expr, name: str, group_kind: str) -> list[Op]:
    there = shards_gradients & (parameters > 0)
    return [reduce_scatter(name, group_kind, s.gradient_bytes * parameters).only(there)]


def reduced_head() -> list[Op]:
    """Return the reduction of the last norm's and the head's gradients; a tied one is the table itself."""
    own_table = pl.when(s.tied & (s.pp == 1)).then(0).otherwise(TABLE.held)
    return _reduced(FINAL_NORM.held + own_table, "head_reduce_dense", "dp")


def reduced_embedding() -> list[Op]:
    """Return the reduction of the embedding's gradients, when a micro-batch's backward pass is over."""
    return _reduced(TABLE.held + POSITIONS.held, "embedding_reduce_dense", "dp")
