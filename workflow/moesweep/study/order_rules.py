"""The rules of the order in which ranks are numbered."""

import polars as pl

from moesweep.shapes.parallelism import STAGES_BESIDE
from moesweep.shapes.sharding import uses_fsdp
from moesweep.study.rule import CP_FITS, error, nearest_is

_c = pl.col
_beside, _experts = _c(STAGES_BESIDE), _c("etp") * _c("ep")
_in_stage = _c("tp") * _c("cp")

# fmt: off
ORDER_RULES = (
    error("order_of_one", STAGES_BESIDE, _beside & CP_FITS & ((_c("pp") == 1) | (_c("dp") == 1)),
        "pp {pp} and dp {dp}: one of them has no order, and it has no effect", nearest_is("false")),
    error("order_of_experts", STAGES_BESIDE,
        _beside & CP_FITS & (_c("kind") == "moe") & (_c("pp") > 1) & (_experts != _in_stage),
        "etp {etp} * ep {ep} is not tp {tp} * cp {cp}: with stages before data-parallel ranks Megatron wants "
        "as many of these for experts as for attention", nearest_is("false")),
    error("order_of_fsdp", STAGES_BESIDE, _beside & uses_fsdp,
        "Megatron-FSDP knows data-parallel ranks before stages alone: it refuses use_tp_pp_dp_mapping",
        nearest_is("false")),
    error("framework_of_rank_order", "framework", _beside & (_c("framework") != "megatron-core"),
        "framework {framework} numbers data-parallel ranks before stages", nearest_is("megatron-core")),
)
# fmt: on
"""Rules that moesweep.study.rules takes in. Sources: megatron/core/parallel_state.py (what orders that do not
end with pp must have), megatron/bridge/training/config.py (Megatron-FSDP)."""
