"""The rules of capacities: of experts that get as many rows, however tokens fall."""

import polars as pl

from moesweep.shapes.sizes import flex, hybrid, padded
from moesweep.study.routing import given
from moesweep.study.rule import error, nearest_is

_c = pl.col
_factor = _c("moe_expert_capacity_factor")

# fmt: off
CAPACITY_RULES = (
    error("padding_without_capacity", "moe_pad_expert_input_to_capacity", padded & (_factor == 0),
        "there is no moe_expert_capacity_factor to pad to: Megatron refuses that", nearest_is("false")),
    error("capacity_without_padding", "moe_expert_capacity_factor", ~padded & (_factor > 0),
        "a capacity that nothing is padded to is not modelled but as the capacity_factor of a drawn routing",
        pl.lit("add moe_pad_expert_input_to_capacity: true")),
    error("routing_of_padding", "routing", padded & given,
        "padded experts have as many rows however tokens fall: a given routing has no effect",
        nearest_is("balanced")),
    error("padding_of_deepep", "moe_pad_expert_input_to_capacity", padded & flex & ~hybrid,
        "moe_flex_dispatcher_backend {moe_flex_dispatcher_backend} pads no experts: Megatron refuses it",
        nearest_is("false")),
)
# fmt: on
"""Rules as in moesweep.study.rules. What Megatron refuses, what has no effect, what is not modelled."""
