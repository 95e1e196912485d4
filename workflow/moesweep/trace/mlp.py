"""The MLP of a layer, forward and backward: two linears around an activation, split over tp."""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.trace.elementwise import activation, norm, norm_backward, residual, residual_backward
from moesweep.trace.linears import (
    column_parallel,
    column_parallel_backward,
    row_parallel,
    row_parallel_backward,
)
from moesweep.trace.vocabulary import Op, again, gemm


def _linears(prefix: str, width: pl.Expr) -> tuple[Op, Op]:
    # [b·s, f/t] <- [b·s, h], gated 2f/t; [b·s, h] <- [b·s, f/t]
    fc1 = gemm(f"{prefix}fc1", s.tokens, s.gate * width // s.tp, s.hidden)
    return fc1, gemm(f"{prefix}fc2", s.tokens, s.hidden, width // s.tp)


def mlp_forward(base: str, width: pl.Expr) -> list[Op]:
    """Return fc1, activation and fc2 of some width with their tp collectives; `base` names these."""
    prefix = "" if base == "mlp" else f"{base}_"
    fc1, fc2 = _linears(prefix, width)
    return [
        *column_parallel(base, fc1),
        activation(f"{prefix}activation", s.tokens, width // s.tp),
        *row_parallel(base, fc2),
    ]


def mlp_backward(base: str, width: pl.Expr) -> list[Op]:
    """Return the mirror of `mlp_forward`."""
    prefix = "" if base == "mlp" else f"{base}_"
    fc1, fc2 = _linears(prefix, width)
    return [
        *row_parallel_backward(base, fc2),
        activation(f"{prefix}activation", s.tokens, width // s.tp, backward=True),
        *column_parallel_backward(base, fc1),
    ]


def _normed_mlp() -> list[Op]:
    """Return norm and MLP: one module, as Transformer Engine's first linear norms its input itself."""
    return [norm("mlp_norm", s.local_tokens, s.hidden), *mlp_forward("mlp", s.ffn)]


def dense_mlp_forward() -> list[Op]:
    """Return norm, MLP and residual of a layer without experts."""
    return [*_normed_mlp(), residual("mlp_residual")]


def dense_mlp_backward() -> list[Op]:
    """Return the mirror of `dense_mlp_forward`, after the MLP again where it is recomputed."""
    return [
        residual_backward("mlp_residual"),
        *again("mlp", _normed_mlp()),
        *mlp_backward("mlp", s.ffn),
        norm_backward("mlp_norm", s.local_tokens, s.hidden, joins=True),
    ]
