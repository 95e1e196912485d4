"""The rules of communication that runs beside computation."""

import polars as pl

from moesweep.shapes.sizes import repeats
from moesweep.study.recomputation import modules_besides
from moesweep.study.rule import CP_FITS, error, nearest_is, warning

_c = pl.col
_is_twin = (_c("kind") == "dense") & (_c("listed") == 0)
_alone = CP_FITS & (_c("dp") * _c("cp") == 1) & ((_c("kind") == "dense") | (_c("edp") == 1))
_PAIRS = "overlap_moe_expert_parallel_comm"
_pairs = _c(_PAIRS)
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
    error("exchanges_beside", _PAIRS, _pairs & (_c("ep") == 1),
        "ep 1: no tokens are exchanged that could run beside anything, and Megatron refuses it",
        nearest_is("false")),
    error("pairs_of_chunks", "virtual_pipeline", _pairs & (_c("pp") > 1) & (_c("virtual_pipeline") == 1),
        "stages of one chunk run no forward pass beside a backward one: Megatron wants virtual_pipeline "
        "where pp is above 1", nearest_is(2)),
    warning("pairs_of_microbatches", _PAIRS, _pairs & (_c("pp") == 1) & (_c("num_microbatches") == 1),
        "of one micro-batch no forward pass runs beside a backward one: it has no effect",
        nearest_is("false")),
    error("pairs_of_full", "recompute", _pairs & (_c("recompute") == "full"),
        "layers that are recomputed as a whole exchange tokens once more: Megatron refuses recompute full "
        "with overlap_moe_expert_parallel_comm", pl.lit("nearest: selective, none")),
    error("pairs_of_modules", "recompute_modules", _pairs & repeats("moe"),
        "experts that are recomputed exchange tokens once more: Megatron refuses moe in recompute_modules "
        "with overlap_moe_expert_parallel_comm", nearest_is(modules_besides("moe"))),
    error("pairs_of_shared_experts", "moe_shared_expert_overlap", _pairs & _c("moe_shared_expert_overlap"),
        "exchanges run beside another micro-batch's kernels or beside shared experts: Megatron refuses both",
        nearest_is("false")),
    error("pairs_of_prediction", "mtp_num_layers", _pairs & (_c("mtp_num_layers") > 1),
        "Megatron runs one layer of multi-token prediction beside another micro-batch, not "
        "{mtp_num_layers}", nearest_is(1)),
    error("framework_of_pairs", "framework", _pairs & (_c("framework") != "megatron-core"),
        "framework {framework} runs no forward pass beside a backward one", nearest_is("megatron-core")),
    error("delay_of_pairs", "delay_wgrad_compute", _c("delay_wgrad_compute") & ~_pairs,
        "weight gradients that wait are those of overlap_moe_expert_parallel_comm: Megatron refuses "
        "delay_wgrad_compute without it", nearest_is("false")),
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
