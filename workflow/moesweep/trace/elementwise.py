"""Memory-bound ops that several parts of a layer share; bytes of device memory, 2 an element, 1 a mask."""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.trace.vocabulary import Op, elementwise

NORM_FORWARD, NORM_BACKWARD = 4, 6  # read x, write y; read x and dy, write dx
JOIN = 6  # add the gradient that comes past the norm: read two, write one
RESIDUAL_FORWARD = 6  # read x and the residual, write their sum
MASK = 1
RESIDUAL_BACKWARD = 5  # read dy and the mask, write dx; without dropout dx is dy
# Activations, (forward, backward) per element of the output. GELU reads x and writes y; in backward it reads
# x and dy and writes dx. A fused SwiGLU has two inputs, and experts' probabilities cost nothing more. Unfused
# it is three kernels (silu, the linear half plus an offset, their product: 4 + 4 + 6), in backward those of
# the product, of silu, and of the two halves put together (12 + 6 + 8).
GELU, FUSED_SWIGLU, SWIGLU = (4, 6), (6, 10), (14, 26)
# Experts multiply by the router's probabilities: read and write; in backward the same for the activation, and
# for the probabilities a product (read two, write one) that a sum reads.
BY_PROBABILITY = (4, 12)


def norm(name: str, tokens: pl.Expr, width: pl.Expr) -> Op:
    """Return LayerNorm or RMSNorm of tokens of some width."""
    return elementwise(name, NORM_FORWARD * tokens * width)


def norm_backward(name: str, tokens: pl.Expr, width: pl.Expr, joins: bool = False) -> Op:
    """Return the gradient of `norm`; where a residual passes it by, the two gradients are added."""
    return elementwise(name, (NORM_BACKWARD + (JOIN if joins else 0)) * tokens * width)


def residual(name: str) -> Op:
    """Return dropout and the sum with the residual, fused."""
    mask = pl.when(s.hidden_dropout).then(MASK).otherwise(0)
    return elementwise(name, (RESIDUAL_FORWARD + mask) * s.local_tokens * s.hidden)


def residual_backward(name: str) -> Op:
    """Return the gradient of dropout; without it the gradient passes as it is."""
    return elementwise(name, RESIDUAL_BACKWARD * s.local_tokens * s.hidden).only(s.hidden_dropout)


def activation(name: str, rows: pl.Expr, width: pl.Expr, experts: bool = False, backward: bool = False) -> Op:
    """Return GELU, or SwiGLU where gated, of rows of some width; `experts` weight it by probability."""
    gelu, fused, unfused = (bytes_[backward] for bytes_ in (GELU, FUSED_SWIGLU, SWIGLU))
    weighted = BY_PROBABILITY[backward] if experts else 0
    gated = pl.when(s.fused_activation).then(fused).otherwise(unfused + weighted)
    return elementwise(name, pl.when(s.gated).then(gated).otherwise(gelu + weighted) * rows * width)
