"""Which modules and layers a workload can recompute: expressions over its columns, for rules."""

from functools import reduce
from operator import or_

import polars as pl

from moesweep.shapes.layer_kinds import number_of_moe_layers
from moesweep.shapes.placement import placed_by_hand
from moesweep.shapes.sizes import MODULES, mla, repeats

WITHIN_MOE = ("moe_act", "shared_experts")
"""Modules that are parts of another: moe repeats them."""


def _there() -> dict[str, pl.Expr]:
    """Return whether a workload has each module; separate norms stand before experts and mla attention."""
    moe_layers = number_of_moe_layers()
    experts = moe_layers > 0
    return {
        "core_attn": pl.lit(True),
        "moe_act": experts,
        "layernorm": experts | mla,
        "mla_up_proj": mla,
        "mlp": moe_layers < pl.col("num_layers"),
        "moe": experts,
        "shared_experts": experts & (pl.col("num_shared_experts") > 0),
    }


def names_missing_modules() -> pl.Expr:
    """Return whether a module is to be repeated that the workload lacks; a twin lacks what experts have."""
    is_twin = (pl.col("kind") == "dense") & (pl.col("listed") == 0)
    return ~is_twin & reduce(or_, (repeats(module) & ~there for module, there in _there().items()))


def modules_there() -> pl.Expr:
    """Return as text the modules that are to be repeated and that there are; core_attn where none is left."""
    return _text({module: repeats(module) & there for module, there in _there().items()})


def repeats_within_moe() -> pl.Expr:
    """Return whether moe is to be repeated and parts of it once more."""
    return repeats("moe") & reduce(or_, map(repeats, WITHIN_MOE))


def modules_apart() -> pl.Expr:
    """Return as text the modules that are to be repeated, without parts of moe."""
    return modules_besides(*WITHIN_MOE)


def modules_besides(*others: str) -> pl.Expr:
    """Return as text the modules that are to be repeated, without some; core_attn where none is left."""
    return _text({module: repeats(module) for module in MODULES if module not in others})


def goes_by_layers() -> pl.Expr:
    """Return whether something is said of which layers full recomputation repeats, or how many at once."""
    return (pl.col("recompute_method") != "uniform") | (pl.col("recompute_num_layers") != 1)


def most_layers_of_a_chunk() -> pl.Expr:
    """Return how many layers a chunk has at most; where they are placed by hand, how many there are."""
    parts = pl.col("pp") * pl.col("virtual_pipeline")
    layers = pl.col("num_layers")
    return pl.when(placed_by_hand).then(layers).otherwise((layers + parts - 1) // parts)


def _text(kept: dict[str, pl.Expr]) -> pl.Expr:
    named = [pl.when(keeps).then(pl.lit(module)) for module, keeps in kept.items()]
    return pl.concat_str(*named, separator="+", ignore_nulls=True).replace("", "core_attn")
