"""The ops around the layers: embedding, head, pipeline messages (Megatron-Core; docs/trace.md)."""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.placement import carries
from moesweep.trace.elementwise import norm, norm_backward
from moesweep.trace.linears import SP, column_parallel, column_parallel_backward
from moesweep.trace.vocabulary import (
    Op,
    all_gather,
    all_reduce,
    elementwise,
    gemm,
    recv,
    reduce_scatter,
    send,
)

LOOKUP_FORWARD, LOOKUP_BACKWARD = 4, 6  # read and write a row; read dy, read and write the row's gradient
# No GEMM adds the table's gradient to the main gradient on its way: read it all, read and write the main one.
TABLE_BACKWARD = s.ELEMENT_BYTES + 2 * s.gradient_bytes
DROPOUT = 5  # read x, write y, 1-byte mask; the same in backward
LOGIT_FORWARD, LOGIT_BACKWARD = 36, 16  # cast to fp32, max, subtract, exp, sum, divide; then the gradient
# Megatron's fused kernels: cast with max (read 2, write 4), exp with sum, division (read and write 4 each);
# the gradient is scaled and cast in one (read 4, write 2). Transformer Engine's: max and sum in one pass
# (read 2), then the gradient at once (read 2, write 4 as an fp32 one takes), scaled and cast in backward.
FUSED_LOGIT, ENGINE_LOGIT = (22, 6), (8, 6)


def _dropout(base: str) -> Op:
    return elementwise(f"{base}_dropout", DROPOUT * s.local_tokens * s.hidden).only(s.hidden_dropout)


def lookup_forward(base: str = "embedding") -> list[Op]:
    """Return vocabulary-parallel lookup, its tp reduction and dropout; `base` begins their names.

    Learned absolute positions are added before the tokens are split, so the sum stays an
    all_reduce under sequence parallelism; otherwise it is a reduce_scatter.
    """
    scattered = SP & ~s.learned_positions
    return [
        elementwise(f"{base}_lookup", LOOKUP_FORWARD * s.tokens * s.hidden),
        all_reduce(f"{base}_reduce", "tp", s.activation_bytes).only(~scattered),
        reduce_scatter(f"{base}_reduce", "tp", s.activation_bytes).only(scattered),
        _dropout(base),
    ]


def lookup_backward(base: str = "embedding") -> list[Op]:
    """Return the gather of the split gradient, and its scatter-add into the whole table's gradient."""
    table = s.hidden * (LOOKUP_BACKWARD * s.tokens + TABLE_BACKWARD * s.vocabulary)
    return [
        _dropout(base),
        all_gather(f"{base}_gather", "tp", s.activation_bytes).only(SP),
        elementwise(f"{base}_lookup", table),
    ]


def final_norm_forward() -> list[Op]:
    """Return the norm after the decoder's last layer."""
    return [norm("final_norm", s.local_tokens, s.hidden)]


def final_norm_backward() -> list[Op]:
    """Return the mirror of `final_norm_forward`."""
    return [norm_backward("final_norm", s.local_tokens, s.hidden)]


def _logits(prefix: str) -> Op:
    # [b·s, V/t] <- [b·s, h]
    return gemm(f"{prefix}logits", s.tokens, s.vocabulary, s.hidden)


def _of_loss(plain: int, fused: int, engine: int) -> pl.Expr:
    """Return what differs between the loss of single kernels, Megatron's fused one, and the engine's."""
    return pl.when(s.loss_of_engine).then(engine).when(s.fuses_loss).then(fused).otherwise(plain)


def _loss_collectives(name: str) -> list[Op]:
    """Return what tp ranks tell each other of their slices of the vocabulary, b·s tokens of fp32 numbers.

    The largest logit, the target's, the sum of exponentials: three all_reduces; fused the last two in one;
    the engine gathers all three of every rank (Megatron `fused_cross_entropy.py`, Transformer Engine
    `triton/cross_entropy.py`).
    """
    per_token = 4 * s.tokens
    both = per_token * _of_loss(1, 2, 2)
    return [
        all_reduce(f"{name}_max", "tp", per_token).only(~s.loss_of_engine),
        all_reduce(f"{name}_target", "tp", per_token).only(~s.fuses_loss),
        all_reduce(f"{name}_sum", "tp", both).only(~s.loss_of_engine),
        all_gather(f"{name}_gather", "tp", 3 * per_token * s.tp).only(s.loss_of_engine),
    ]


def prediction_forward(prefix: str = "") -> list[Op]:
    """Return logits and vocabulary-parallel cross entropy with its collectives."""
    bytes_ = _of_loss(LOGIT_FORWARD, FUSED_LOGIT[0], ENGINE_LOGIT[0])
    return [
        *column_parallel(f"{prefix}head", _logits(prefix)),
        *_loss_collectives(f"{prefix}cross_entropy"),
        elementwise(f"{prefix}cross_entropy", bytes_ * s.tokens * s.vocabulary),
    ]


def prediction_backward(prefix: str = "") -> list[Op]:
    """Return the mirror of `prediction_forward`: nothing of the loss is summed again."""
    bytes_ = _of_loss(LOGIT_BACKWARD, FUSED_LOGIT[1], ENGINE_LOGIT[1])
    return [
        elementwise(f"{prefix}cross_entropy", bytes_ * s.tokens * s.vocabulary),
        *column_parallel_backward(f"{prefix}head", _logits(prefix)),
    ]


_scatter_gather = s.plain_tensor_parallel & (pl.col("framework") == "megatron-lm")
"""Megatron-LM sends each tp rank's slice and gathers them on arrival (Narayanan et al. 2021, section 4.1)."""


def _message_bytes() -> pl.Expr:
    """Return T/t where the activation is split over tp, for good or for the journey, else T."""
    split = s.sequence_parallel | _scatter_gather
    return s.activation_bytes // pl.when(split).then(s.tp).otherwise(1)


def pipeline_messages() -> dict[str, list[Op]]:
    """Return the four messages of a stage by name, over the stage's columns `stage` and `pp`.

    A stage exchanges v chunks per micro-batch. With v > 1 the chunks wrap around: the last stage
    sends to the first, except for the model's very first input and very last output. From multi-token
    prediction to a loss on another stage two hidden states travel: a message more (`carries`).
    """
    first, last = pl.col("stage") == 0, pl.col("stage") == s.pp - 1

    def exchanged(op: Op, at_the_end: pl.Expr, both: pl.Expr) -> Op:
        """Return the op between the stage and its neighbour, which one chunk has not at the model's end."""
        at_end, more = (pl.when(there).then(1).otherwise(0) for there in (at_the_end, both))
        return op.only(~at_the_end | (s.chunks > 1)).times(s.microbatches * (s.chunks - at_end + more))

    def arrival(name: str, at_the_end: pl.Expr, both: pl.Expr) -> list[Op]:
        gather = all_gather(f"{name}_gather", "tp", s.activation_bytes).only(_scatter_gather & (s.pp > 1))
        return [exchanged(op, at_the_end, both) for op in (recv(name, "pp", _message_bytes()), gather)]

    def departure(name: str, at_the_end: pl.Expr, both: pl.Expr) -> list[Op]:
        return [exchanged(send(name, "pp", _message_bytes()), at_the_end, both)]

    # A stage sends forward where it gets gradients from, and the other way round.
    before, after = carries["forward"], carries["backward"]
    return {
        "recv_forward": arrival("recv_forward", first, before),
        "send_forward": departure("send_forward", last, after),
        "recv_backward": arrival("recv_backward", last, after),
        "send_backward": departure("send_backward", first, before),
    }
