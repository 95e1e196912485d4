"""The rules of CUDA graphs: of what the host may launch at once."""

import polars as pl

from moesweep.shapes.layer_kinds import number_of_moe_layers
from moesweep.shapes.sizes import SCOPES, graphs, graphs_layers, padded, repeats, uses_graphs
from moesweep.study.rule import error, nearest_is

_c = pl.col
_is_twin = (_c("kind") == "dense") & (_c("listed") == 0)
_experts = number_of_moe_layers() > 0
_dense = number_of_moe_layers() < _c("num_layers")
_within_moe = graphs("moe_router") | graphs("moe_preprocess")
_there = {"attn": pl.lit(True), "mlp": _dense} | dict.fromkeys(SCOPES[2:], _experts)
_missing = pl.any_horizontal(graphs(part) & ~there for part, there in _there.items())


def _parts(kept: dict[str, pl.Expr]) -> pl.Expr:
    """Return as text the parts that graphs hold, of some of them; attn where none is left."""
    named = [pl.when(graphs(part) & keeps).then(pl.lit(part)) for part, keeps in kept.items()]
    return pl.concat_str(*named, separator="+", ignore_nulls=True).replace("", "attn")


# fmt: off
GRAPH_RULES = (
    error("scope_of_graphs", "cuda_graph_scope", ~uses_graphs & ~graphs_layers,
        "cuda_graph_scope {cuda_graph_scope} says what CUDA graphs hold, and cuda_graph_impl is none",
        nearest_is("layer")),
    error("scope_of_model", "cuda_graph_scope", uses_graphs & ~graphs_layers & ~_is_twin & _missing,
        "the model lacks some of the parts {cuda_graph_scope}", nearest_is(_parts(_there))),
    error("scope_within_moe", "cuda_graph_scope",
        uses_graphs & ~graphs_layers & _experts & graphs("moe") & _within_moe,
        "moe holds its router and what precedes the exchange already: Megatron refuses both",
        nearest_is(_parts({part: _there[part] for part in SCOPES[:3]}))),
    error("scope_before_exchange", "cuda_graph_scope",
        uses_graphs & ~graphs_layers & _experts & graphs("moe_preprocess") & ~graphs("moe_router"),
        "moe_preprocess follows the router: Megatron refuses it without moe_router",
        nearest_is(_c("cuda_graph_scope").str.replace("moe_preprocess", "moe_router", literal=True))),
    error("graphs_of_routed_rows", "cuda_graph_scope",
        uses_graphs & _experts & graphs("moe") & ~padded,
        "the host reads how many rows experts get, so no graph holds them: Megatron wants "
        "moe_pad_expert_input_to_capacity for that",
        nearest_is(pl.when(_dense).then(pl.lit("attn+mlp")).otherwise(pl.lit("attn")))),
    error("graphs_of_full", "cuda_graph_impl", uses_graphs & (_c("recompute") == "full"),
        "layers that are recomputed as a whole are in no graphs of layers: Megatron refuses recompute full",
        nearest_is("none")),
    error("graphs_of_modules", "cuda_graph_impl", uses_graphs & repeats("moe") & graphs("moe_router"),
        "a module that is recomputed holds more than a graph does: Megatron refuses moe in recompute_modules",
        nearest_is("none")),
    error("graphs_of_framework", "cuda_graph_impl", uses_graphs & (_c("framework") != "megatron-core"),
        "framework {framework} has no CUDA graphs of layers", nearest_is("none")),
)
# fmt: on
"""Rules as in moesweep.study.rules: what Megatron refuses, and what would have no effect."""
