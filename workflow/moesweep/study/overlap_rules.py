"""The rules of communication that runs beside computation."""

import polars as pl

from moesweep.shapes.sizes import repeats
from moesweep.study.rule import CP_FITS, error, nearest_is

_c = pl.col
_is_twin = (_c("kind") == "dense") & (_c("listed") == 0)
_alone = CP_FITS & (_c("dp") * _c("cp") == 1) & ((_c("kind") == "dense") | (_c("edp") == 1))
_reduces, _gathers = _c("overlap_grad_reduce"), _c("overlap_param_gather")

# fmt: off
OVERLAP_RULES = (
    error("shared_experts_beside", "moe_shared_expert_overlap",
        _c("moe_shared_expert_overlap") & ((_c("num_shared_experts") == 0) | (_c("ep") == 1)),
        "num_shared_experts {num_shared_experts} and ep {ep}: without shared experts, or without tokens to "
        "exchange, there is nothing to run beside the other", nearest_is("false")),
    error("shared_experts_again", "moe_shared_expert_overlap",
        _c("moe_shared_expert_overlap") & repeats("shared_experts"),
        "shared experts that run beside exchanges are not recomputed by themselves: Megatron refuses "
        "shared_experts in recompute_modules", nearest_is("false")),
    error("framework_of_shared_experts", "framework",
        _c("moe_shared_expert_overlap") & (_c("framework") != "megatron-core"),
        "framework {framework} runs shared experts by themselves", nearest_is("megatron-core")),
    error("messages_of_chunks", "overlap_p2p_comm", _c("overlap_p2p_comm") & (_c("virtual_pipeline") == 1),
        "stages of one chunk have nothing to run while a message travels: it needs virtual_pipeline",
        nearest_is("false")),
    error("messages_of_two_stages", "overlap_p2p_comm",
        ~_c("overlap_p2p_comm") & (_c("virtual_pipeline") > 1) & (_c("pp") == 2),
        "Megatron interleaves the chunks of pp 2 with overlap_p2p_comm only", nearest_is("true")),
    error("linears_of_sequences", "tp_comm_overlap",
        _c("tp_comm_overlap") & ((_c("tp") == 1) | ~_c("sequence_parallel")),
        "gathers and scatters beside linears are those of sequence parallelism over tp above 1",
        nearest_is("false")),
    error("framework_of_linears", "framework",
        _c("tp_comm_overlap") & (_c("framework") != "megatron-core"),
        "framework {framework} has no linears of Transformer Engine", nearest_is("megatron-core")),
    error("reduce_beside_passes", "overlap_grad_reduce", _reduces & _alone & ~_is_twin,
        "no other rank has the same parameters: there are no gradients to reduce", nearest_is("false")),
    error("framework_of_overlap", "framework", _reduces & (_c("framework") != "megatron-core"),
        "framework {framework} reduces gradients after the last backward pass", nearest_is("megatron-core")),
    error("gather_needs_shards", "overlap_param_gather", _gathers & ~_c("distributed_optimizer"),
        "parameters are gathered where the optimizer is distributed: Megatron refuses it replicated",
        nearest_is("false")),
    error("gather_needs_reduce", "overlap_param_gather", _gathers & ~_reduces,
        "parameters are gathered beside passes where gradients are reduced beside them: Megatron refuses "
        "overlap_param_gather without overlap_grad_reduce", nearest_is("false")),
)
# fmt: on
"""Rules as in moesweep.study.rules: what Megatron refuses, and what would have no effect."""
