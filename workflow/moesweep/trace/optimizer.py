"""What happens once an iteration: gradient reduction, Adam, parameter gathering; parameters per rank."""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.trace.vocabulary import Op, all_gather, all_reduce, reduce_scatter

# Adam on fp32 state: reads gradient, master weight, two moments; writes the last three and the bf16 weight.
ADAM_BYTES = 30


def _attention_parameters() -> pl.Expr:
    """Return the tp-sharded attention parameters of one layer."""
    plain = 2 * s.hidden * (s.hidden + s.kv_width) // s.tp
    latent = (
        pl.col("q_lora_rank") * s.query_width
        + pl.col("kv_lora_rank") * s.kv_up_width
        + s.value_width * s.hidden
    ) // s.tp
    return pl.when(s.mla).then(latent).otherwise(plain)


def _mlp_parameters(width: pl.Expr, degree: pl.Expr) -> pl.Expr:
    return (s.gate + 1) * s.hidden * width // degree


_NORM_WIDTH = pl.when(pl.col("normalization") == "rmsnorm").then(1).otherwise(2) * s.hidden
_layers = pl.col("dense_layers") + pl.col("moe_layers")


def replicated_parameters() -> pl.Expr:
    """Return the parameters of a stage that all tp ranks hold: norms, routers, latent down-projections."""
    down = s.hidden * (pl.col("q_lora_rank") + s.kv_down_width)
    return (
        _layers * (2 * _NORM_WIDTH + pl.when(s.mla).then(down).otherwise(0))
        + pl.col("moe_layers") * s.experts * s.hidden
        + pl.when(pl.col("is_last")).then(_NORM_WIDTH).otherwise(0)
    )


def stage_parameters() -> tuple[pl.Expr, pl.Expr]:
    """Return one rank's parameters in a stage: in the dense buffer, and in the expert buffer.

    Columns: `dense_layers`, `moe_layers`, `is_first`, `is_last` of the stage and the workload's own.
    Experts that every dp rank holds whole (ep = 1, etp = tp) share the dense buffer.
    """
    moe_layers = pl.col("moe_layers")
    table = s.vocabulary * s.hidden
    positions = pl.when(s.learned_positions).then(s.sequence * s.hidden).otherwise(0)
    has_head = pl.col("is_last") & (~s.tied | (s.pp > 1))
    dense = (
        _layers * _attention_parameters()
        + pl.col("dense_layers") * _mlp_parameters(s.ffn, s.tp)
        + moe_layers * _mlp_parameters(s.shared_ffn, s.tp)
        + replicated_parameters()
        + pl.when(pl.col("is_first")).then(table + positions).otherwise(0)
        + pl.when(has_head).then(table).otherwise(0)
    )
    experts = moe_layers * s.local_experts * _mlp_parameters(s.expert_ffn, s.etp)
    joined = s.expert_in_dense_buffer
    return dense + pl.when(joined).then(experts).otherwise(0), pl.when(joined).then(0).otherwise(experts)


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
    both_ends = (pl.col("is_first") | pl.col("is_last")) & s.tied
    ops = [
        *_gradient_reductions("grad_reduce_dense", "dp", dense),
        *_gradient_reductions("grad_reduce_expert", "edp", expert),
        all_reduce("norm_grad_reduce", "tp", s.gradient_bytes * replicated_parameters()).only(
            s.sequence_parallel
        ),
        all_reduce("embedding_grad_reduce", "embedding", s.gradient_bytes * s.vocabulary * s.hidden).only(
            both_ends
        ),
        *_gradient_norm(expert),
        Op("adam", "optimizer", m=dense + expert, n=owned, hbm_bytes=ADAM_BYTES * owned),
        _parameter_gather("param_gather_dense", "dp", dense),
        _parameter_gather("param_gather_expert", "edp", expert),
    ]
    return [op.times(pl.lit(1, dtype=pl.Int64)) for op in ops]
