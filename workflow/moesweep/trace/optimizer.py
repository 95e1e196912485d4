"""What happens once an iteration: gradient reduction, Adam, parameter gathering."""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.weights import TABLE, partial_parameters, shares_embedding, stage_parameters
from moesweep.trace.vocabulary import Op, all_gather, all_reduce, reduce_scatter

# Adam on fp32 state: reads gradient, master weight, two moments; writes the last three and the bf16 weight.
ADAM_BYTES = 30


def owned_parameters() -> pl.Expr:
    """Return the parameters whose optimizer state this rank keeps: its shard, or all of them."""
    dense, expert = stage_parameters()

    def share(parameters: pl.Expr, degree: pl.Expr) -> pl.Expr:
        return pl.when(s.sharded_optimizer).then((parameters + degree - 1) // degree).otherwise(parameters)

    return share(dense, s.dp) + share(expert, s.edp)


def _gradient_reductions(name: str, group_kind: str, parameters: pl.Expr) -> list[Op]:
    # DeepSpeed's ZeRO stage 1 keeps shards of the state but reduces whole gradients.
    scattered = s.sharded_optimizer & (pl.col("framework") != "megatron-deepspeed")
    size = s.gradient_bytes * parameters
    return [
        reduce_scatter(name, group_kind, size).only(scattered & (parameters > 0)),
        all_reduce(name, group_kind, size).only(~scattered & (parameters > 0)),
    ]


def _parameter_gather(name: str, group_kind: str, parameters: pl.Expr) -> Op:
    return all_gather(name, group_kind, s.ELEMENT_BYTES * parameters).only(
        s.sharded_optimizer & (parameters > 0)
    )


def _gradient_norm(expert: pl.Expr) -> list[Op]:
    """Return the sum of squares, one fp32: over every rank's shard, or once over the holders of a copy."""
    one = pl.lit(4, dtype=pl.Int64)
    return [
        all_reduce("grad_norm", "world", one).only(s.sharded_optimizer),
        all_reduce("grad_norm_dense", "model", one).only(~s.sharded_optimizer),
        all_reduce("grad_norm_expert", "expert_model", one).only(~s.sharded_optimizer & (expert > 0)),
    ]


def optimizer_ops() -> list[Op]:
    """Return what follows the last micro-batch, in Megatron's order (`finalize_model_grads`, then `step`)."""
    dense, expert = stage_parameters()
    owned = owned_parameters()
    ops = [
        *_gradient_reductions("grad_reduce_dense", "dp", dense),
        *_gradient_reductions("grad_reduce_expert", "edp", expert),
        all_reduce("norm_grad_reduce", "tp", s.gradient_bytes * partial_parameters()).only(
            s.sequence_parallel | s.norms_heads
        ),
        all_reduce("embedding_grad_reduce", "embedding", s.gradient_bytes * TABLE.held).only(
            shares_embedding()
        ),
        *_gradient_norm(expert),
        Op("adam", "optimizer", m=dense + expert, n=owned, hbm_bytes=ADAM_BYTES * owned),
        _parameter_gather("param_gather_dense", "dp", dense),
        _parameter_gather("param_gather_expert", "edp", expert),
    ]
    return [op.times(pl.lit(1, dtype=pl.Int64)) for op in ops]
