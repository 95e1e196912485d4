"""Rules of which layers are recomputed, and of fused kernels."""

import polars as pl

from moesweep.study.recomputation import goes_by_layers, most_layers_of_a_chunk
from moesweep.study.rule import error, nearest_is

_c = pl.col

# fmt: off
KERNEL_RULES = (
    error("layers_of_full", "recompute_num_layers", (_c("recompute") != "full") & goes_by_layers(),
        "recompute {recompute} does not go by layers, only full does, so recompute_method {recompute_method} "
        "and recompute_num_layers {recompute_num_layers} have no effect", pl.lit("leave both out")),
    error("layers_of_chunk", "recompute_num_layers",
        (_c("recompute") == "full") & (_c("recompute_num_layers") > most_layers_of_a_chunk()),
        "no chunk of pp {pp} * virtual_pipeline {virtual_pipeline} has {recompute_num_layers} layers",
        nearest_is(most_layers_of_a_chunk())),
    error("layers_of_prediction", "recompute_num_layers",
        (_c("recompute") == "full") & (_c("recompute_method") == "uniform") & (_c("mtp_num_layers") > 0)
        & (_c("recompute_num_layers") > 1),
        "Megatron recomputes layers of multi-token prediction one by one alone", nearest_is(1)),
    error("fusion_of_fp64", "moe_router_fusion", _c("moe_router_fusion") & (_c("moe_router_dtype") == "fp64"),
        "moe_router_dtype is fp64, which Transformer Engine's fused routers refuse", nearest_is("false")),
    error("fusion_of_loss", "cross_entropy_fusion_impl",
        (_c("cross_entropy_fusion_impl") != "native") & ~_c("cross_entropy_loss_fusion"),
        "cross_entropy_fusion_impl {cross_entropy_fusion_impl} says whose fused loss, and "
        "cross_entropy_loss_fusion is false", nearest_is("native")),
    error("order_of_loss", "cross_entropy_loss_fusion",
        _c("deterministic_mode") & _c("cross_entropy_loss_fusion"),
        "a fused loss adds up in no fixed order: Megatron refuses cross_entropy_loss_fusion with "
        "deterministic_mode", nearest_is("false")),
    error("order_of_linears", "tp_comm_overlap", _c("deterministic_mode") & _c("tp_comm_overlap"),
        "linears in parts add up in no fixed order: Megatron refuses tp_comm_overlap with "
        "deterministic_mode", nearest_is("false")),
    error("framework_of_order", "framework", _c("deterministic_mode") & (_c("framework") != "megatron-core"),
        "framework {framework} has no deterministic_mode", nearest_is("megatron-core")),
)
# fmt: on
"""Rules that moesweep.study.rules takes in."""
