"""The rules of losses that balance experts."""

import polars as pl

from moesweep.shapes.sizes import has_balancing_loss
from moesweep.study.rule import error, nearest_is

_c = pl.col

# fmt: off
BALANCE_RULES = (
    error("balance_of_shared_sequences", "moe_router_load_balancing_type",
        has_balancing_loss & (_c("tp") > 1) & (_c("cp") > 1),
        "what tp {tp} and cp {cp} ranks together count for moe_router_load_balancing_type "
        "{moe_router_load_balancing_type} is not modelled", nearest_is("none")),
)
# fmt: on
"""Rules as in moesweep.study.rules. What is not modelled."""
