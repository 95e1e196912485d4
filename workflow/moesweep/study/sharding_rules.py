"""The rules of Megatron-FSDP: what Megatron refuses, what is not modelled, and what would have no effect."""

import polars as pl

from moesweep.shapes.precision import fp8
from moesweep.shapes.sharding import shards_gradients, shards_parameters, uses_fsdp
from moesweep.shapes.sizes import uses_graphs
from moesweep.study.rule import CP_FITS, error, nearest_is

_c = pl.col
_is_twin = (_c("kind") == "dense") & (_c("listed") == 0)
_alone = CP_FITS & (_c("dp") * _c("cp") == 1) & ((_c("kind") == "dense") | (_c("edp") == 1))
_STRATEGY = "data_parallel_sharding_strategy"
_together = (_c("recompute") == "full") & (_c("recompute_method") == "uniform")

# fmt: off
SHARDING_RULES = (
    error("strategy_of_fsdp", _STRATEGY, ~uses_fsdp & (_c(_STRATEGY) != "optim_grads_params"),
        "data_parallel_sharding_strategy {data_parallel_sharding_strategy} says what Megatron-FSDP shards, "
        "and use_megatron_fsdp is false", nearest_is("optim_grads_params")),
    error("fsdp_alone", "use_megatron_fsdp", uses_fsdp & _alone & ~_is_twin,
        "no other rank has the same parameters: there is nothing to shard", nearest_is("false")),
    error("fsdp_needs_shards", "distributed_optimizer", uses_fsdp & ~_c("distributed_optimizer"),
        "Megatron-FSDP shards the optimizer's states in any case: Megatron wants distributed_optimizer",
        nearest_is("true")),
    error("framework_of_fsdp", "framework", uses_fsdp & (_c("framework") != "megatron-core"),
        "framework {framework} has no Megatron-FSDP", nearest_is("megatron-core")),
    error("fsdp_of_precision", "use_precision_aware_optimizer",
        uses_fsdp & _c("use_precision_aware_optimizer"),
        "a precision-aware optimizer beside Megatron-FSDP, which keeps whole master weights, is not modelled",
        nearest_is("false")),
    error("fsdp_of_fp8", "fp8", shards_parameters & fp8,
        "parameters that are sharded beside their copies in fp8 are not modelled", nearest_is("none")),
    error("fsdp_of_graphs", "cuda_graph_impl", shards_gradients & uses_graphs,
        "CUDA graphs of layers whose parameters or gradients are sharded are not modelled",
        nearest_is("none")),
    error("fsdp_of_pairs", "overlap_moe_expert_parallel_comm",
        shards_gradients & _c("overlap_moe_expert_parallel_comm"),
        "a forward pass beside a backward one, of parameters or gradients that are sharded, is not modelled",
        nearest_is("false")),
    error("fsdp_of_prediction", "mtp_num_layers",
        shards_gradients & (_c("mtp_num_layers") > 0) & (_c("pp") > 1),
        "multi-token prediction on a stage of its own, of gradients that are sharded, is not modelled",
        nearest_is(0)),
    error("fsdp_of_layers_together", "recompute_num_layers",
        shards_parameters & _together & (_c("recompute_num_layers") > 1),
        "layers that run again together are gathered more than once: with sharded parameters not modelled",
        nearest_is(1)),
)
# fmt: on
"""Rules as in moesweep.study.rules."""
