"""What fp8 training multiplies, keeps and sends in 8 bits, as polars expressions over a workload's columns.

Transformer Engine's linears quantise their input, weight and the gradient of their output; each in the
direction in which its products read it, and once more transposed. Everything else stays in 16 bits: core
attention, norms, activations, routers, the head, sums over tp, exchanges of tokens.
Sources: Megatron-Core 0.19 (`fp8_utils.py`, `transformer_config.py`, `attention.py`, `shared_experts.py`,
`param_and_grad_buffer.py`, `optimizer_config.py`); Transformer Engine (`module/linear.py`, `distributed.py`).
"""

import polars as pl

from moesweep.shapes.sizes import ELEMENT_BYTES

UNQUANTISED = ("router", "shared_gate", "logits", "mtp_logits")
"""Linears that are none of Transformer Engine's."""

UNQUANTISED_OPS = tuple(f"{op}{end}" for op in UNQUANTISED for end in ("", "_dgrad", "_wgrad"))
"""Their products: forward, of the gradients of the input and of the weight."""

_recipe = pl.col("fp8_recipe")
fp8 = pl.col("fp8") != "none"
delayed = fp8 & (_recipe == "delayed")
"""Scales follow from the iterations before: quantised is while a tensor is made, and nothing else is kept."""

mxfp8 = fp8 & (_recipe == "mxfp8")
_in_blocks = fp8 & _recipe.is_in(["blockwise", "mxfp8"])
gathers_fp8 = fp8 & pl.col("fp8_param_gather")
"""Parameters of linears are kept in fp8 alone, their master weights aside."""

SCALED_ELEMENTS = 32
"""Elements a byte of scales: one of 1 byte for each 32 (mxfp8), one of 4 bytes for each 128 (blockwise)."""

_scales = pl.when(_in_blocks).then(1 / SCALED_ELEMENTS).otherwise(0.0)

saved_bytes = pl.when(fp8).then(1.0 + _scales).otherwise(ELEMENT_BYTES).alias("saved_bytes")
"""What an element of a linear's input takes that is kept for its weight's gradient: the transposed copy."""

saved_again_bytes = pl.when(delayed).then(1.0).otherwise(0.0).alias("saved_again_bytes")
"""The same of an input that something else keeps in 16 bits: recipes but delayed quantise that one again."""

operand_bytes = pl.when(fp8).then(1).otherwise(ELEMENT_BYTES)
"""What a product reads of an element of either operand; scales are left out."""

_pass = 2 + 1 + 1  # read, write, write transposed
quantised_bytes = (
    pl.when(fp8 & (_recipe == "tensorwise")).then(_pass + 2).when(fp8).then(_pass).otherwise(0)
).alias("quantised_bytes")
"""What quantising moves an element; a scale of the tensor's own largest element takes a reading before."""

weight_quantised_bytes = (
    pl.when(gathers_fp8 & ~mxfp8).then(2).otherwise(quantised_bytes).alias("weight_quantised_bytes")
)
"""The same of a weight, once an iteration; of one that is gathered in fp8 only the transposition is left."""

_weight_scales = pl.when(mxfp8).then(1 / SCALED_ELEMENTS).otherwise(0.0)
weight_copy_bytes = (
    pl.when(fp8)
    .then(2 * (1.0 + _weight_scales) - pl.when(gathers_fp8).then(ELEMENT_BYTES).otherwise(0))
    .otherwise(0.0)
    .alias("weight_copy_bytes")
)
"""What a linear's weight takes beyond 16 bits: both copies in fp8, for which no 16 bits stay where fp8 is
gathered. Blockwise scales, of 128 by 128 elements, are left out."""

gathered_saving = pl.when(gathers_fp8 & ~mxfp8).then(1).otherwise(0)
"""Bytes by which a linear's parameter is gathered shorter. Those of mxfp8 travel in 16 bits, as its two
copies have scales of their own."""

offloads = pl.col("optimizer_cpu_offload")
"""Whether a part of the optimizer's states lives in the host's memory, and is updated there."""

keeps_remainders = pl.col("use_precision_aware_optimizer") & (~fp8 | delayed) & ~offloads
"""Whether a precision-aware optimizer keeps of a master weight what a bf16 weight lacks; else all of it.

One that is offloaded keeps fp32 weights and moments on both sides (Megatron `hybrid_optimizer.py`).
"""

HOST_DOWN_BYTES, HOST_UP_BYTES = 4, 2
"""A parameter that the host updates: its gradient of fp32 comes down, its weight of 16 bits goes up."""

offloaded_share = pl.when(offloads).then(pl.col("optimizer_offload_fraction")).otherwise(0.0)
"""Of the parameters that a rank updates those that its host does."""


def sent_bytes(bytes_: pl.Expr) -> pl.Expr:
    """Return what 16-bit inputs of linears take on their way over tp: half, and scales, in fp8."""
    elements = bytes_ // ELEMENT_BYTES
    scales = pl.when(_in_blocks).then(elements // SCALED_ELEMENTS).otherwise(0)
    return pl.when(fp8).then(elements + scales).otherwise(bytes_)
