"""The rules of optimizer states in the host's memory (Megatron `arguments.py`, `hybrid_optimizer.py`)."""

import polars as pl

from moesweep.shapes.precision import offloads
from moesweep.shapes.states import least_host_bytes
from moesweep.study.rule import error, nearest_is

_c = pl.col
_OFFLOAD = "optimizer_cpu_offload"
_fp32_moments = (_c("exp_avg_dtype") == "fp32") & (_c("exp_avg_sq_dtype") == "fp32")

# fmt: off
OFFLOAD_RULES = (
    error("offload_is_aware", _OFFLOAD, offloads & ~_c("use_precision_aware_optimizer"),
        "Megatron refuses optimizer_cpu_offload without use_precision_aware_optimizer",
        nearest_is("false")),
    error("moments_of_offload", "exp_avg_dtype", offloads & ~_fp32_moments,
        "an optimizer that is offloaded keeps moments of fp32, here and on the host, whatever exp_avg_dtype "
        "{exp_avg_dtype} and exp_avg_sq_dtype {exp_avg_sq_dtype} say", pl.lit("leave both out")),
    error("offload_of_fp8_parameters", _OFFLOAD, offloads & _c("fp8_param_gather"),
        "optimizer_cpu_offload beside fp8_param_gather is not modelled, and Megatron refuses it but with the "
        "recipe delayed", nearest_is("false")),
    error("fraction_of_offload", "optimizer_offload_fraction",
        ~offloads & (_c("optimizer_offload_fraction") != 1),
        "optimizer_offload_fraction {optimizer_offload_fraction} says how much is offloaded, and "
        "optimizer_cpu_offload is false", nearest_is(1)),
    error("offload_of_host", _OFFLOAD, offloads & (least_host_bytes() > _c("host_bytes")),
        "what is offloaded needs at least {least_host_gib} GiB of the host's memory for a GPU, a node has "
        "{host_gib}", nearest_is("false")),
)
# fmt: on
"""Rules that moesweep.study.rules takes in."""
