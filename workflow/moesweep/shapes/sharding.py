"""What Megatron-FSDP shards, and what it works with whole, as polars expressions over a workload's columns.

Strategies: `optim` shards the optimizer's states, as the distributed optimizer does; `optim_grads` gradients
too, which are reduced in every micro-batch; `optim_grads_params` parameters as well, which are gathered layer
by layer, forward and backward. A layer is what is gathered at once; embedding, head and other norms are
gathered once an iteration, and stay. Source: Megatron-Core 0.16.1, `distributed/fsdp/mcore_fsdp_adapter.py`,
`distributed/fsdp/src/megatron_fsdp/{megatron_fsdp,param_and_grad_buffer}.py`.
"""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.weights import held_in_layers, layers_of_a_stage

uses_fsdp = pl.col("use_megatron_fsdp")
_strategy = pl.col("data_parallel_sharding_strategy")
shards_parameters = uses_fsdp & (_strategy == "optim_grads_params")
shards_gradients = uses_fsdp & (_strategy != "optim")

LEAST_UNIT = 1_000_000_000
"""Elements of gradients that may wait to be reduced, or those of two layers where these are more; parameters
are gathered ahead up to half of it (`suggested_communication_unit_size`)."""

gradient_shares = pl.when(uses_fsdp).then(s.replicas).otherwise(1)
"""Over how many ranks lie the gradients that tp ranks, or both ends of a pipeline, add up after reduction."""


def states_held(parameters: pl.Expr, owned: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Return of how many parameters a rank keeps weights, and gradients, all the time: of all or its own."""
    return (
        pl.when(shards_parameters).then(owned).otherwise(parameters),
        pl.when(shards_gradients).then(owned).otherwise(parameters),
    )


def _in_sharded_layers() -> tuple[pl.Expr, pl.Expr]:
    """Return a stage's parameters in layers: those that several ranks hold, and the mean layer's of these."""
    dense, expert = held_in_layers()
    sharded = pl.when(s.replicas > 1).then(dense).otherwise(0) + pl.when(s.edp > 1).then(expert).otherwise(0)
    return sharded, pl.max_horizontal(sharded / pl.max_horizontal(layers_of_a_stage, 1), 1.0)


def _around_layers(parameters: pl.Expr) -> pl.Expr:
    """Return those of a stage's parameters that are in no layer, where several ranks hold them."""
    return pl.when(s.replicas > 1).then(parameters - sum(held_in_layers(), pl.lit(0))).otherwise(0)


def gathered_elements(parameters: pl.Expr) -> pl.Expr:
    """Return the parameters that a rank has whole beside its shards, over its stage's contents.

    All that are in no layer; of L in a layer (the stage's mean) those of the layer at work, and of as many as
    hold max(500 M, L), which are gathered ahead; no more than the stage has.
    """
    in_layers, layer = _in_sharded_layers()
    ahead = (pl.max_horizontal(pl.lit(LEAST_UNIT / 2), layer) / layer).ceil()
    whole = _around_layers(parameters) + pl.min_horizontal(in_layers, (1 + ahead) * layer)
    return pl.when(shards_parameters).then(whole).otherwise(0.0)


def waiting_elements(parameters: pl.Expr) -> pl.Expr:
    """Return the gradients that a rank has whole beside its shards, over its stage's contents.

    Those of layers that fit into max(1 G, 2 L), which may wait; of the layer that is being reduced, and of
    the one at work; no more than the stage has.
    """
    in_layers, layer = _in_sharded_layers()
    queued = (pl.max_horizontal(pl.lit(float(LEAST_UNIT)), 2 * layer) / layer).floor()
    most = in_layers + _around_layers(parameters)
    return pl.when(shards_gradients).then(pl.min_horizontal(most, (queued + 2) * layer)).otherwise(0.0)
