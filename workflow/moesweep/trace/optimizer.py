"""What happens once an iteration: gradient reduction, Adam, parameter gathering."""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.precision import (
    HOST_DOWN_BYTES,
    HOST_UP_BYTES,
    gathered_saving,
    keeps_remainders,
    offloaded_share,
    offloads,
    weight_quantised_bytes,
)
from moesweep.shapes.sharding import gradient_shares, shards_gradients, shards_parameters
from moesweep.shapes.weights import (
    TABLE,
    held_in_layers,
    partial_parameters,
    quantised_parameters,
    routed_layers,
    shares_embedding,
    stage_parameters,
)
from moesweep.trace.vocabulary import Op, all_gather, all_reduce, reduce_scatter

# Adam on fp32 state: reads a gradient, writes a weight of 16 bits, reads and writes master and moments. One
# that is aware of precision has the weight's other half instead of a master, so it reads the weight as well.
ADAM_GRADIENT, ADAM_WEIGHT, ADAM_MASTER = 4, 2, 8
ADAM_AWARE_WEIGHT, ADAM_REMAINDER = 4, 4
# Beside a host that updates a part, weights of 16 bits are made of fp32 ones by a pass of its own (read 4),
# and gradients of 16 bits made fp32 before (read 2, write 4).
ADAM_COPY, WIDENED_GRADIENT = 4, 6


def owned_parameters() -> pl.Expr:
    """Return the parameters whose optimizer state this rank keeps: its shard, or all of them."""
    dense, expert = stage_parameters()

    def share(parameters: pl.Expr, degree: pl.Expr) -> pl.Expr:
        return pl.when(s.sharded_optimizer).then((parameters + degree - 1) // degree).otherwise(parameters)

    return share(dense, s.replicas) + share(expert, s.edp)


def _gradient_reductions(name: str, group_kind: str, parameters: pl.Expr) -> list[Op]:
    # DeepSpeed's ZeRO stage 1 keeps shards of the state but reduces whole gradients.
    scattered = s.sharded_optimizer & (pl.col("framework") != "megatron-deepspeed")
    size = s.gradient_bytes * parameters
    return [
        reduce_scatter(name, group_kind, size).only(scattered & ~shards_gradients & (parameters > 0)),
        all_reduce(name, group_kind, size).only(~scattered & (parameters > 0)),
    ]


def _parameter_gather(name: str, group_kind: str, parameters: pl.Expr, quantised: pl.Expr) -> Op:
    size = s.ELEMENT_BYTES * parameters - gathered_saving * quantised
    return all_gather(name, group_kind, size).only(s.sharded_optimizer & (parameters > 0))


def _gathered_once(dense: pl.Expr, expert: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Return what is gathered after the step: of sharded parameters, those that are in no layer."""
    dense_layers, expert_layers = held_in_layers()
    return (
        dense - pl.when(shards_parameters).then(dense_layers).otherwise(0),
        expert - pl.when(shards_parameters).then(expert_layers).otherwise(0),
    )


def _shard(parameters: pl.Expr) -> pl.Expr:
    """Return of how many parameters a rank has gradients once Megatron-FSDP has reduced them, rounded up."""
    return (parameters + gradient_shares - 1) // gradient_shares


def _gradient_norm(expert: pl.Expr) -> list[Op]:
    """Return the sum of squares, one fp32: over every rank's shard, or once over the holders of a copy."""
    one = pl.lit(4, dtype=pl.Int64)
    return [
        all_reduce("grad_norm", "world", one).only(s.sharded_optimizer),
        all_reduce("grad_norm_dense", "model", one).only(~s.sharded_optimizer),
        all_reduce("grad_norm_expert", "expert_model", one).only(~s.sharded_optimizer & (expert > 0)),
    ]


def _adam_bytes() -> pl.Expr:
    """Return the bytes of device memory that Adam moves for a parameter: 30, aware of precision 18 to 28.

    Moments of 16 bits beside whole master weights, which fp8 asks for: 22 to 30. Beside the host 34 or 40.
    """
    plain = pl.lit(ADAM_GRADIENT + ADAM_WEIGHT + ADAM_MASTER)
    aware = s.gradient_bytes + ADAM_AWARE_WEIGHT + ADAM_REMAINDER
    beside_host = plain + ADAM_COPY + _widened_bytes()
    own = pl.when(keeps_remainders).then(aware).when(offloads).then(beside_host).otherwise(plain)
    return own + 2 * s.moment_bytes


def _widened_bytes() -> pl.Expr:
    return pl.when(s.gradient_bytes < ADAM_GRADIENT).then(WIDENED_GRADIENT).otherwise(0)


def _host_adam(offloaded: pl.Expr) -> Op:
    """Return what the host does: gradients come down in fp32, weights go up in 16 bits.

    The shape: m parameters that it updates. Its bytes are those of device memory, where gradients are read
    and weights written (Megatron
    `hybrid_optimizer.py`).
    """
    moved = (HOST_DOWN_BYTES + HOST_UP_BYTES + _widened_bytes()) * offloaded
    return Op("host_adam", "optimizer", m=offloaded, hbm_bytes=moved).only(offloaded > 0)


def optimizer_ops() -> list[Op]:
    """Return what follows the last micro-batch, in Megatron's order (`finalize_model_grads`, then `step`).

    The shape of `adam`: m parameters that the rank holds, n of which it updates, but for its host's part, k
    that it multiplies in fp8. These are quantised once an iteration, by the first micro-batch (Transformer
    Engine, `is_first_microbatch`): counted here, where what happens once stands.
    """
    dense, expert = stage_parameters()
    around, apart = _gathered_once(dense, expert)
    quantised_dense, quantised_expert = quantised_parameters()
    quantised = quantised_dense + quantised_expert
    of_rank = owned_parameters()
    offloaded = (of_rank * offloaded_share).floor().cast(pl.Int64)
    owned = of_rank - offloaded
    moved = _adam_bytes() * owned + weight_quantised_bytes * quantised
    ops = [
        *_gradient_reductions("grad_reduce_dense", "dp", dense),
        *_gradient_reductions("grad_reduce_expert", "edp", expert),
        all_reduce("norm_grad_reduce", "tp", s.gradient_bytes * _shard(partial_parameters())).only(
            (s.sequence_parallel | s.norms_heads) & (partial_parameters() > 0)
        ),
        all_reduce("embedding_grad_reduce", "embedding", s.gradient_bytes * _shard(TABLE.held)).only(
            shares_embedding()
        ),
        # What every expert got, of all layers at once (Megatron `_update_router_expert_bias`): fp32.
        all_reduce("expert_bias_reduce", "tp_cp_dp", 4 * s.experts * routed_layers).only(
            s.biases_experts & (routed_layers > 0)
        ),
        *_gradient_norm(expert),
        Op("adam", "optimizer", m=dense + expert, n=owned, k=quantised, hbm_bytes=moved),
        _host_adam(offloaded),
        _parameter_gather("param_gather_dense", "dp", around, quantised_dense),
        _parameter_gather("param_gather_expert", "edp", apart, quantised_expert),
    ]
    return [op.times(pl.lit(1, dtype=pl.Int64)) for op in ops]
