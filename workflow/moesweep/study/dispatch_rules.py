"""The rules of dispatchers: of how tokens get to their experts."""

import polars as pl

from moesweep.shapes.sizes import flex, hybrid
from moesweep.study.routing import given
from moesweep.study.rule import error, nearest_is, nearest_multiples

_c = pl.col
_sms = _c("moe_flex_dispatcher_num_sms")

# fmt: off
DISPATCH_RULES = (
    error("flex_between_ranks", "moe_token_dispatcher_type", flex & (_c("etp") * _c("ep") == 1),
        "the flex dispatcher needs an etp * ep group of several ranks: Megatron refuses it in one of 1",
        nearest_is("alltoall")),
    error("flex_of_framework", "moe_token_dispatcher_type", flex & (_c("framework") != "megatron-core"),
        "framework {framework} has no flex dispatcher", nearest_is("alltoall")),
    error("flex_of_given_routing", "routing", flex & given,
        "how many ranks a token goes to is not modelled for the flex dispatcher where routing is given",
        nearest_is("balanced")),
    error("shared_experts_of_flex", "moe_shared_expert_overlap", flex & _c("moe_shared_expert_overlap"),
        "shared experts run beside exchanges of alltoall alone: Megatron refuses them beside those of flex",
        nearest_is("false")),
    error("backend_of_flex", "moe_flex_dispatcher_backend", ~flex & hybrid,
        "moe_flex_dispatcher_backend {moe_flex_dispatcher_backend} has no effect: moe_token_dispatcher_type "
        "is {moe_token_dispatcher_type}", nearest_is("deepep")),
    error("sms_of_flex", "moe_flex_dispatcher_num_sms", ~flex & (_sms > 0),
        "moe_flex_dispatcher_num_sms {moe_flex_dispatcher_num_sms} has no effect: moe_token_dispatcher_type "
        "is {moe_token_dispatcher_type}", pl.lit("leave it out")),
    error("sms_of_deepep", "moe_flex_dispatcher_num_sms", flex & ~hybrid & (_sms % 2 == 1),
        "each channel of deepep takes two multiprocessors: {moe_flex_dispatcher_num_sms} is odd",
        nearest_multiples("moe_flex_dispatcher_num_sms", pl.lit(2))),
)
# fmt: on
"""Rules as in moesweep.study.rules. What Megatron refuses, what has no effect, what is not modelled."""
