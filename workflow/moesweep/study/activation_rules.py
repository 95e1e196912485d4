"""The rules of activations in the host's memory (Megatron `transformer_config.py`, `arguments.py`)."""

from functools import reduce
from operator import or_

import polars as pl

from moesweep.shapes.layer_kinds import number_of_moe_layers
from moesweep.shapes.offloading import least_activations_on_host, offloads_activations
from moesweep.shapes.precision import fp8, offloads
from moesweep.shapes.sizes import OFFLOADED, keeps_on_host, mla, repeats, uses_graphs
from moesweep.shapes.states import least_host_bytes
from moesweep.study.rule import error, nearest_is

_c = pl.col
_OFFLOAD, _MODULES, _SIZE = (
    *("fine_grained_activation_offloading", "offload_modules"),
    "min_offloaded_tensor_size",
)
_is_twin = (_c("kind") == "dense") & (_c("listed") == 0)
_experts = number_of_moe_layers() > 0
_there = {"attn_norm": mla, "mlp_norm": _experts, "expert_fc1": _experts, "moe_act": _experts}
_missing = {module: keeps_on_host(module) & ~there & ~_is_twin for module, there in _there.items()}
_WITHIN_MOE = ("expert_fc1", "moe_act")
_within_moe = {module: keeps_on_host(module) & repeats("moe") for module in _WITHIN_MOE}
_made_again = {
    "qkv_linear": keeps_on_host("qkv_linear") & ((repeats("layernorm") & mla) | repeats("mla_up_proj")),
    "core_attn": keeps_on_host("core_attn") & (repeats("core_attn") | repeats("mla_up_proj")),
}
_on_host = least_host_bytes() + least_activations_on_host()


def _some(wrong: dict[str, pl.Expr]) -> pl.Expr:
    return reduce(or_, wrong.values())


def _without(wrong: dict[str, pl.Expr]) -> pl.Expr:
    """As text, the modules that are offloaded and not wrong, or where none is left to do without."""
    no = pl.lit(False)
    kept = [
        pl.when(keeps_on_host(module) & ~wrong.get(module, no) & ~_needs_core(module, wrong)).then(
            pl.lit(module)
        )
        for module in OFFLOADED
    ]
    text = pl.concat_str(*kept, separator="+", ignore_nulls=True)
    left_out = pl.lit(f"leave out {_OFFLOAD} and {_MODULES}")
    return pl.when(text == "").then(left_out).otherwise(pl.format("nearest: {}", text))


def _needs_core(module: str, wrong: dict[str, pl.Expr]) -> pl.Expr:
    """Return whether a module goes with core_attn, which is wrong."""
    return wrong.get("core_attn", pl.lit(False)) if module == "attn_proj" else pl.lit(False)


# fmt: off
ACTIVATION_RULES = (
    error("modules_of_offload", _MODULES, offloads_activations & (_c(_MODULES) == "none"),
        "fine_grained_activation_offloading names no module to offload, which Megatron refuses",
        nearest_is("core_attn")),
    error("offload_of_modules", _MODULES, ~offloads_activations & (_c(_MODULES) != "none"),
        "offload_modules says whose activations are offloaded, and fine_grained_activation_offloading is "
        "false", nearest_is("none")),
    error("offload_of_tensors", _SIZE, ~offloads_activations & (_c(_SIZE) != 1 << 20),
        "min_offloaded_tensor_size says what is offloaded, and fine_grained_activation_offloading is false",
        nearest_is(1 << 20)),
    error("offload_modules_exist", _MODULES, _some(_missing),
        "offload_modules names a module that no layer has: attn_norm stands before mla attention, mlp_norm, "
        "expert_fc1 and moe_act are those of experts", _without(_missing)),
    error("offload_of_projection", _MODULES, keeps_on_host("attn_proj") & ~keeps_on_host("core_attn"),
        "the input of attn_proj is what core_attn's backward reads: Megatron refuses it without core_attn",
        pl.format("nearest: {}", _c(_MODULES).str.replace("attn_proj", "core_attn+attn_proj", literal=True))),
    error("offload_of_full", "recompute", offloads_activations & (_c("recompute") == "full"),
        "recompute full keeps the inputs of layers alone, of which no module offloads any",
        pl.lit("nearest: selective, none")),
    error("offload_within_moe", _MODULES, _some(_within_moe),
        "moe is recomputed as a whole: Megatron refuses to offload parts of it", _without(_within_moe)),
    error("offload_made_again", _MODULES, _some(_made_again),
        "recompute_modules {recompute_modules} makes again what is to be offloaded: there is nothing to copy",
        _without(_made_again)),
    error("offload_of_scores", "flash_attention", keeps_on_host("core_attn") & ~_c("flash_attention"),
        "offloading core_attn without flash_attention, scores among it, is not modelled",
        nearest_is("true")),
    error("activations_of_fp8", _OFFLOAD, offloads_activations & fp8,
        "fine_grained_activation_offloading beside fp8 is not modelled", nearest_is("false")),
    error("activations_of_graphs", _OFFLOAD, offloads_activations & uses_graphs,
        "fine_grained_activation_offloading beside CUDA graphs is not modelled", nearest_is("false")),
    error("framework_of_offload", "framework", offloads_activations & (_c("framework") != "megatron-core"),
        "framework {framework} keeps activations where they are", nearest_is("megatron-core")),
    error("activations_of_host", _OFFLOAD,
        offloads_activations & (_on_host > _c("host_bytes"))
        & ~(offloads & (least_host_bytes() > _c("host_bytes"))),
        "activations and optimizer states that are offloaded need at least {least_on_host_gib} GiB of the "
        "host's memory for a GPU, a node has {host_gib}", nearest_is("false")),
)
# fmt: on
"""Rules that moesweep.study.rules takes in."""
