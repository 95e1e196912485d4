"""The rules of fp8 training: what a GPU multiplies, what Megatron refuses, and what would have no effect."""

import polars as pl

from moesweep.shapes.precision import delayed, fp8, mxfp8
from moesweep.shapes.sizes import repeats
from moesweep.study.rule import error, nearest_is

FP8_RATES = ("fp8_matrix_flops_per_second", "mxfp8_matrix_flops_per_second")
"""Rates of a GPU's products in fp8, 0 where it has none."""

_c = pl.col
_some, _blocks = (_c(name) > 0 for name in FP8_RATES)

# fmt: off
FP8_RULES = (
    error("fp8_of_gpu", "fp8", fp8 & ~_some,
        "the cluster's GPU multiplies no fp8: its fp8_matrix_flops_per_second is 0", nearest_is("none")),
    error("mxfp8_of_gpu", "fp8_recipe", mxfp8 & _some & ~_blocks,
        "the cluster's GPU multiplies no mxfp8, only GPUs from Blackwell on do",
        pl.lit("nearest: blockwise, tensorwise")),
    error("recipe_of_fp8", "fp8_recipe", ~fp8 & (_c("fp8_recipe") != "delayed"),
        "fp8_recipe {fp8_recipe} says how fp8 is scaled, and fp8 is none", nearest_is("delayed")),
    error("gather_of_fp8", "fp8_param_gather", ~fp8 & _c("fp8_param_gather"),
        "parameters are kept in fp8 where they are multiplied in it: Megatron refuses fp8_param_gather "
        "without fp8", nearest_is("false")),
    error("fp8_gather_needs_shards", "fp8_param_gather",
        fp8 & _c("fp8_param_gather") & ~_c("distributed_optimizer"),
        "parameters are gathered where the optimizer is distributed: Megatron refuses it replicated",
        nearest_is("false")),
    error("delayed_of_modules", "fp8_recipe", delayed & (repeats("moe_act") | repeats("layernorm")),
        "scales of the iterations before are not those of a second pass: Megatron refuses delayed scaling "
        "with moe_act or layernorm in recompute_modules", nearest_is("tensorwise")),
    error("fp8_of_fp16", "dtype", fp8 & (_c("dtype") == "fp16"),
        "fp8 beside fp16 is not modelled", nearest_is("bf16")),
    error("framework_of_fp8", "framework", fp8 & (_c("framework") != "megatron-core"),
        "framework {framework} has no linears of Transformer Engine", nearest_is("megatron-core")),
)
# fmt: on
"""Rules as in moesweep.study.rules."""
