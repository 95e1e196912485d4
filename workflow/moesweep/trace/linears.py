"""Linears that are split over tp, with the collectives around them (Megatron `tensor_parallel/layers.py`)."""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.precision import UNQUANTISED_OPS, sent_bytes
from moesweep.trace.vocabulary import ALWAYS, Op, all_gather, all_reduce, linear_backward, reduce_scatter

SP, PLAIN = s.sequence_parallel, s.plain_tensor_parallel


def column_parallel(base: str, linear: Op, input_bytes: pl.Expr = s.activation_bytes) -> list[Op]:
    """Return the forward of y[rows, n/t] <- x[rows, k], whose input of `input_bytes` is gathered.

    In fp8 it is quantised before.
    """
    return _where(linear, [all_gather(f"{base}_gather", "tp", _sent(linear, input_bytes)).only(SP), linear])


def column_parallel_backward(base: str, linear: Op, input_bytes: pl.Expr = s.activation_bytes) -> list[Op]:
    """Return the mirror of `column_parallel`; only the rank's own part of the input was saved.

    So it is gathered again beside the data gradient, which is then summed over tp.
    """
    dgrad, wgrad = linear_backward(linear)
    ops = [
        all_gather(f"{base}_regather", "tp", _sent(linear, input_bytes)).only(SP),
        dgrad,
        reduce_scatter(f"{base}_gather", "tp", input_bytes).only(SP),
        all_reduce(f"{base}_reduce_grad", "tp", input_bytes).only(PLAIN),
        wgrad,
    ]
    return _where(linear, ops)


def row_parallel(base: str, linear: Op) -> list[Op]:
    """Return the forward of y[rows, n] <- x[rows, k/t], whose output is summed over tp."""
    return [
        linear,
        reduce_scatter(f"{base}_scatter", "tp", s.activation_bytes).only(SP),
        all_reduce(f"{base}_reduce", "tp", s.activation_bytes).only(PLAIN),
    ]


def row_parallel_backward(base: str, linear: Op) -> list[Op]:
    """Return the mirror of `row_parallel`: the gradient of the output is gathered, in fp8 quantised."""
    gathered = _sent(linear, s.activation_bytes)
    return [all_gather(f"{base}_scatter", "tp", gathered).only(SP), *linear_backward(linear)]


def _sent(linear: Op, bytes_: pl.Expr) -> pl.Expr:
    """Return what 16-bit inputs of a linear's products take on their way."""
    return bytes_ if linear.name in UNQUANTISED_OPS else sent_bytes(bytes_)


def _where(linear: Op, ops: list[Op]) -> list[Op]:
    """Return ops that are there where their linear is."""
    if linear.when is ALWAYS:
        return ops
    return [op if op.when is linear.when else op.only(linear.when) for op in ops]
