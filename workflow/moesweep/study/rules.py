"""The rules that workloads are held to, one entry each."""

import polars as pl

from moesweep.shapes.placement import ACCOUNTED, COUNTED, LAYOUT, UNSAID
from moesweep.study.activation_rules import ACTIVATION_RULES
from moesweep.study.capacity_rules import CAPACITY_RULES
from moesweep.study.context_rules import CONTEXT_RULES
from moesweep.study.dispatch_rules import DISPATCH_RULES
from moesweep.study.fp8_rules import FP8_RULES
from moesweep.study.graph_rules import GRAPH_RULES
from moesweep.study.group_rules import GROUP_RULES
from moesweep.study.interleaving_rules import GROUPED, INTERLEAVING_RULES
from moesweep.study.kernel_rules import KERNEL_RULES
from moesweep.study.offload_rules import OFFLOAD_RULES
from moesweep.study.order_rules import ORDER_RULES
from moesweep.study.overlap_rules import OVERLAP_RULES
from moesweep.study.pipeline_layouts import layout_faults
from moesweep.study.recomputation import (
    modules_apart,
    modules_there,
    names_missing_modules,
    repeats_within_moe,
)
from moesweep.study.rule import (
    CP_FITS,
    MLA,
    PP_FITS,
    STAGE_RANKS,
    TP_FITS,
    WINDOWED,
    all_divisors,
    error,
    nearest_divisors,
    nearest_is,
    nearest_multiples,
    warning,
)
from moesweep.study.sharding_rules import SHARDING_RULES

PADDING_WARNED = 0.05
"""Share of the vocabulary above which padding is worth a warning."""

TRACE_FAILED = "traced"
"""The rule that a workload breaks whose trace failed; no expression here finds that."""

COUNTABLE_FLOPS = 2.0**62
"""Operations of one op that still fit 64-bit integers with room for a factor of 2."""


_c = pl.col
_moe = _c("kind") == "moe"
_pipeline_ranks = pl.max_horizontal(_c("world_size") // _c("tp"), 1)
_etp_fits = _moe & TP_FITS & (STAGE_RANKS % _c("etp") == 0)
# Where etp does not fit, the experts alone say which ep would.
_expert_ranks = pl.when(_etp_fits).then(STAGE_RANKS // _c("etp")).otherwise(0)
_legal_ep = nearest_divisors("ep", _expert_ranks, _c("num_experts"))
_batch_unit = _c("micro_batch_size") * _c("dp")
_chunks = _c("pp") * _c("virtual_pipeline")
# Chunks that a stage's layers can be cut into: one, where not even stages have as many layers each.
_chunks_of_stage = pl.when(_c("num_layers") % _c("pp") == 0).then(_c("num_layers") // _c("pp")).otherwise(1)
_interleaved = _c("virtual_pipeline") > 1
_fewer_groups = _c("num_query_groups") < _c("num_attention_heads")
_heads, _groups = _c("num_attention_heads"), _c("num_query_groups")
_grouped = ~MLA & _fewer_groups
# More tp ranks than query groups, a multiple: each gathers qkv and keeps the keys of one group.
_more_ranks = (_c("tp") > _groups) & (_c("tp") % _groups == 0)
_kv_width, _qkv_width = _groups * _c("head_dim"), (_heads + 2 * _groups) * _c("head_dim")
_cut_widths = (_qkv_width % _c("tp") != 0) | (~_more_ranks & (_kv_width % _c("tp") != 0))
_some_dense = ~_moe | (_c("first_k_dense") > 0) | (_c("moe_layer_freq") != "1")
_shared_width = _c("num_shared_experts") * _c("moe_ffn_hidden_size")
_latent_keys = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_laid_out = _c(LAYOUT) != UNSAID
_counts = pl.sum_horizontal(COUNTED)
_others = _c("pp") - pl.sum_horizontal(_c(name) > 0 for name in COUNTED)
_rest = _c("num_layers") - _counts
_shared_evenly = pl.when(_others > 0).then((_rest % _others == 0) & (_rest >= _others)).otherwise(_rest == 0)
_in_chunks = pl.all_horizontal(
    *(_c(name) % _c("virtual_pipeline") == 0 for name in COUNTED),
    _rest % (pl.max_horizontal(_others, 1) * _c("virtual_pipeline")) == 0,
)
_accounted = _c("num_layers") + pl.sum_horizontal(ACCOUNTED)
_ways_to_place = pl.sum_horizontal(_counts > 0, pl.any_horizontal(ACCOUNTED), _laid_out)
_placed = _ways_to_place > 0
_aware = _c("use_precision_aware_optimizer")
_padding = _c("padded_vocab_size") - _c("vocab_size")
_least_mla_width = pl.min_horizontal("kv_lora_rank", "qk_nope_head_dim", "v_head_dim")
# The largest products of one micro-batch: an unsharded MLP or head, and attention scores.
_widest = pl.max_horizontal(
    2.0 * _c("ffn_hidden_size"),
    2.0 * _c("moe_ffn_hidden_size") * _c("moe_router_topk"),
    1.0 * _c("padded_vocab_size"),
    5.0 * _c("seq_length"),
)
_width = pl.max_horizontal("hidden_size", _heads * _c("head_dim").fill_null(0))
_flops = 2.0 * _c("micro_batch_size") * _c("seq_length") * _width * _widest


_NONE = r"^\[[0,]*\]$"
"""A list that marks no layer."""


def _of_other_length(key: str) -> pl.Expr:
    """Whether a list of 0 and 1 has another length than the model has layers."""
    return _c(key).str.starts_with("[") & (
        _c(key).str.count_matches(",", literal=True) + 1 != _c("num_layers")
    )


def nearest_counts(key: str) -> pl.Expr:
    """As text, the nearest layers of the first or last stage that leave a rest which the others can share."""
    (other,) = (name for name in COUNTED if name != key)

    def nearest(row: dict[str, int]) -> str:
        """Return them for one combination of layers, stages and chunks."""
        others, chunks = row["pp"] - 1 - (row["other"] > 0), row["virtual_pipeline"]
        unit = max(others, 1) * chunks
        most = row["num_layers"] - row["other"] - others * chunks
        given = row["value"]
        legal = [
            n for n in range(chunks, most + 1, chunks) if (row["num_layers"] - row["other"] - n) % unit == 0
        ]
        if not others:
            legal = [n for n in legal if n == most]
        around = [n for n in legal if n < given][-1:] + [n for n in legal if n > given][:1]
        return "nearest: " + ", ".join(map(str, around)) if around else ""

    columns = ("pp", "virtual_pipeline", "num_layers")
    fields = pl.struct(*columns, pl.col(key).alias("value"), pl.col(other).alias("other"))
    return fields.map_elements(nearest, return_dtype=pl.String)


_accounted_of_chunk = (
    pl.when(_accounted % _c("virtual_pipeline") == 0).then(_accounted // _c("virtual_pipeline")).otherwise(1)
)
_UNEVEN = (
    "num_layers_in_first_pipeline_stage {num_layers_in_first_pipeline_stage} and num_layers_in_last_pipeline_"
    "stage {num_layers_in_last_pipeline_stage} of num_layers {num_layers} leave the other stages of pp {pp}, "
    "in virtual_pipeline {virtual_pipeline} chunks each, no even share"
)

# Name, key, where it is broken, what to say, the nearest legal values.
# fmt: off
RULES = (
    error("world_by_pp", "pp", ~PP_FITS,
        "pp {pp} does not divide world_size {world_size}", nearest_divisors("pp", _c("world_size"))),
    error("world_by_tp", "tp", PP_FITS & ~TP_FITS,
        "tp {tp} * pp {pp} does not divide world_size {world_size}", nearest_divisors("tp", STAGE_RANKS)),
    error("world_by_etp", "etp", _moe & TP_FITS & ~_etp_fits,
        "etp {etp} * pp {pp} does not divide world_size {world_size}", nearest_divisors("etp", STAGE_RANKS)),
    error("ep_within_dp", "ep", _etp_fits & (_c("etp") * _c("ep") > STAGE_RANKS),
        "ep {ep} with etp {etp} needs more ranks than the tp {tp} * cp {cp} * dp {dp} of a stage", _legal_ep),
    error("world_by_ep", "ep",
        _etp_fits & (_c("etp") * _c("ep") <= STAGE_RANKS) & (STAGE_RANKS % (_c("etp") * _c("ep")) != 0),
        "etp {etp} * ep {ep} * pp {pp} does not divide world_size {world_size}", _legal_ep),
    error("experts_by_ep", "ep", _moe & (_c("num_experts") % _c("ep") != 0),
        "ep {ep} does not divide num_experts {num_experts}", _legal_ep),
    error("dense_ep", "ep", ~_moe & (_c("ep") != 1),
        "ep {ep} for a workload without experts", nearest_is(1)),
    error("topk_of_experts", "moe_router_topk",
        _moe & ~_c("moe_router_topk").is_between(1, _c("num_experts")),
        "a token cannot be routed to {moe_router_topk} of {num_experts} experts",
        nearest_is(_c("moe_router_topk").clip(1, _c("num_experts")))),
    error("global_batch", "global_batch_size", CP_FITS & (_c("global_batch_size") % _batch_unit != 0),
        "{global_batch_size} is not a multiple of micro_batch_size {micro_batch_size} * dp {dp}",
        nearest_multiples("global_batch_size", _batch_unit)),
    error("sequence_by_tp", "seq_length", _c("sequence_parallel") & (_c("seq_length") % _c("tp") != 0),
        "sequence parallelism splits seq_length {seq_length} over tp {tp}, which does not divide it",
        nearest_multiples("seq_length", _c("tp"))),
    *CONTEXT_RULES,
    *ORDER_RULES,
    error("moe_needs_sequence_parallel", "sequence_parallel",
        _moe & (_c("tp") > 1) & ~_c("sequence_parallel"),
        "a MoE workload with tp {tp} needs sequence parallelism", nearest_is("true")),
    error("hidden_by_tp", "tp", _c("hidden_size") % _c("tp") != 0,
        "tp {tp} does not divide hidden_size {hidden_size}",
        nearest_divisors("tp", _c("hidden_size"), STAGE_RANKS)),
    error("hidden_by_heads", "num_attention_heads",
        ~MLA & _c("head_dim").is_null(),
        "num_attention_heads {num_attention_heads} does not divide hidden_size {hidden_size}, and there is "
        "no head_dim", nearest_divisors("num_attention_heads", _c("hidden_size"))),
    error("heads_by_groups", "num_query_groups", _c("num_attention_heads") % _c("num_query_groups") != 0,
        "num_query_groups {num_query_groups} does not divide num_attention_heads {num_attention_heads}",
        nearest_divisors("num_query_groups", _c("num_attention_heads"))),
    error("attention_by_groups", "attention",
        ((_c("attention") == "mha") & _fewer_groups) | ((_c("attention") == "gqa") & ~_fewer_groups),
        "{num_query_groups} query groups of {num_attention_heads} heads are no {attention}",
        nearest_is(pl.when(_fewer_groups).then(pl.lit("gqa")).otherwise(pl.lit("mha")))),
    error("keys_by_tp", "tp", ~MLA & (_c("hidden_size") % _c("tp") == 0) & _cut_widths,
        "tp {tp} does not divide the width of the queries and keys of {num_query_groups} query groups",
        nearest_divisors("tp", _kv_width, _qkv_width, STAGE_RANKS)),
    error("ffn_by_tp", "tp", _some_dense & (_c("ffn_hidden_size") % _c("tp") != 0),
        "tp {tp} does not divide ffn_hidden_size {ffn_hidden_size}",
        nearest_divisors("tp", _c("ffn_hidden_size"), STAGE_RANKS)),
    error("expert_ffn_by_tp", "tp",
        _moe & (_c("etp") == _c("tp")) & (_c("moe_ffn_hidden_size") % _c("tp") != 0),
        "tp {tp} does not divide moe_ffn_hidden_size {moe_ffn_hidden_size}",
        nearest_divisors("tp", _c("moe_ffn_hidden_size"), STAGE_RANKS)),
    error("expert_ffn_by_etp", "etp",
        _moe & (_c("etp") != _c("tp")) & (_c("moe_ffn_hidden_size") % _c("etp") != 0),
        "etp {etp} does not divide moe_ffn_hidden_size {moe_ffn_hidden_size}",
        nearest_divisors("etp", _c("moe_ffn_hidden_size"), STAGE_RANKS)),
    error("shared_ffn_by_tp", "tp", _moe & (_shared_width % _c("tp") != 0),
        "tp {tp} does not divide the width of {num_shared_experts} shared experts",
        nearest_divisors("tp", _shared_width, STAGE_RANKS)),
    error("layer_per_stage", "pp", ~_laid_out & (_c("pp") > _c("num_layers")),
        "pp {pp} is more than num_layers {num_layers}",
        nearest_divisors("pp", _pipeline_ranks, most=_c("num_layers"))),
    error("dense_layers", "first_k_dense", _moe & (_c("first_k_dense") >= _c("num_layers")),
        "first_k_dense {first_k_dense} leaves none of num_layers {num_layers} any of the {num_experts} "
        "experts", nearest_is(_c("num_layers") - 1)),
    error("interleaving_needs_stages", "virtual_pipeline", _interleaved & (_c("pp") == 1),
        "virtual_pipeline {virtual_pipeline} with pp 1: there is nothing to interleave", nearest_is(1)),
    error("interleaving_by_layers", "virtual_pipeline",
        _interleaved & ~_placed & (_c("pp") > 1) & (_c("num_layers") % _chunks != 0),
        "pp {pp} * virtual_pipeline {virtual_pipeline} does not divide num_layers {num_layers}",
        nearest_divisors("virtual_pipeline", _chunks_of_stage)),
    error("placement_needs_stages", "pp", _placed & (_c("pp") == 1),
        "pp 1 leaves nothing to place: num_layers_in_..., account_for_... and pipeline_model_parallel_layout "
        "have no effect", pl.lit("leave them out")),
    error("placed_twice", LAYOUT, _ways_to_place > 1,
        "num_layers_in_..._pipeline_stage, account_for_..._in_pipeline_split and "
        "pipeline_model_parallel_layout exclude one another", pl.lit("leave all but one out")),
    error("first_stage", COUNTED[0],
        (_c("pp") > 1) & (_c(COUNTED[0]) > 0) & ~(_shared_evenly & _in_chunks), _UNEVEN,
        nearest_counts(COUNTED[0])),
    error("last_stage", COUNTED[1],
        (_c("pp") > 1) & (_c(COUNTED[0]) == 0) & (_c(COUNTED[1]) > 0) & ~(_shared_evenly & _in_chunks),
        _UNEVEN, nearest_counts(COUNTED[1])),
    error("accounted_layers", "pp",
        pl.any_horizontal(ACCOUNTED) & (_accounted % _chunks != 0),
        "pp {pp} * virtual_pipeline {virtual_pipeline} does not divide num_layers {num_layers} and what else "
        "counts as a layer", nearest_divisors("pp", _accounted_of_chunk, _pipeline_ranks)),
    error("layout", LAYOUT, _laid_out & (layout_faults() != ""),
        "the layout does not place the {num_layers} layers", layout_faults()),
    error("interleaving_by_microbatches", "global_batch_size",
        _interleaved & CP_FITS & ~GROUPED & (_c("num_microbatches") % _c("pp") != 0),
        "pp {pp} does not divide num_microbatches {num_microbatches}, as interleaving needs",
        nearest_multiples("global_batch_size", _batch_unit * _c("pp"))),
    error("mla_widths", "attention", MLA & (_least_mla_width < 1),
        "mla attention needs kv_lora_rank, qk_nope_head_dim and v_head_dim above 0", pl.lit("")),
    error("keys_of_mla", "attention", ~MLA & (pl.max_horizontal(_latent_keys) > 0),
        "attention {attention} has no q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim or "
        "v_head_dim: the width of its heads is head_dim", nearest_is("mla")),
    error("head_dim_of_mla", "head_dim", MLA & (_c("head_dim") > 0),
        "mla attention has no head_dim, but qk_nope_head_dim, qk_rope_head_dim and v_head_dim",
        pl.lit("leave it out")),
    error("qkv_bias_of_mla", "add_qkv_bias", MLA & _c("add_qkv_bias"),
        "mla attention has no linear of queries, keys and values together", nearest_is("false")),
    error("norms_across_heads", "qk_layernorm_across_heads",
        _c("qk_layernorm_across_heads") & (MLA | ~_c("qk_layernorm")),
        "across heads go norms of queries and keys alone: qk_layernorm without mla attention",
        nearest_is("false")),
    error("bias_by_etp", "add_bias_linear", _moe & _c("add_bias_linear") & (_c("etp") > 1),
        "experts of etp {etp} have no biases: Megatron refuses them", nearest_is("false")),
    error("bias_of_shared_experts", "add_bias_linear",
        _moe & _c("add_bias_linear") & (_c("num_shared_experts") > 0),
        "shared experts have no biases: Megatron refuses them", nearest_is("false")),
    error("gate_of_shared_experts", "moe_shared_expert_gate",
        _moe & _c("moe_shared_expert_gate") & (_c("num_shared_experts") == 0),
        "there are no shared experts to weigh", nearest_is("false")),
    error("fusion_of_gelu", "bias_activation_fusion", _c("bias_activation_fusion") & ~_c("gated_mlp"),
        "GELU is not fused with anything that is modelled: gated_mlp is false", nearest_is("false")),
    error("experts_said_twice", "first_k_dense",
        (_c("first_k_dense") > 0) & (_c("moe_layer_freq") != "1"),
        "moe_layer_freq {moe_layer_freq} says which layers have experts", nearest_is(0)),
    error("moe_layers_by_layers", "moe_layer_freq", _of_other_length("moe_layer_freq"),
        "the list has another length than num_layers {num_layers}", nearest_is(1)),
    error("no_moe_layer", "moe_layer_freq",
        _moe & _c("moe_layer_freq").str.contains(_NONE),
        "no layer has any of the {num_experts} experts", nearest_is(1)),
    error("window_ahead", "window_size", WINDOWED & ~_c("window_size").str.ends_with(",0]"),
        "a causal mask hides the keys after a token", pl.format("nearest: {},0]",
            _c("window_size").str.extract(r"^(\[\d+),"))),
    error("window_of_mla", "window_size", WINDOWED & MLA,
        "windows of mla attention are not modelled", pl.lit("leave it out")),
    error("window_of_prediction", "window_size", WINDOWED & (_c("mtp_num_layers") > 0),
        "windows beside multi-token prediction are not modelled", pl.lit("leave one of them out")),
    error("positions_of_prediction", "position_embedding",
        (_c("mtp_num_layers") > 0) & (_c("position_embedding") == "learned"),
        "multi-token prediction beside learned positions: Megatron refuses it", nearest_is("rope")),
    error("windows_by_layers", "window_attn_skip_freq", _of_other_length("window_attn_skip_freq"),
        "the list has another length than num_layers {num_layers}", pl.lit("leave it out")),
    error("no_windowed_layer", "window_attn_skip_freq",
        WINDOWED & _c("window_attn_skip_freq").str.contains(_NONE),
        "no layer has the window {window_size}", pl.lit("leave it and window_size out")),
    error("skips_without_window", "window_attn_skip_freq",
        ~WINDOWED & (_c("window_attn_skip_freq") != "none"),
        "there is no window_size to skip", pl.lit("leave it out")),
    error("sinks_of_mla", "softmax_type", MLA & (_c("softmax_type") != "vanilla"),
        "softmax_type {softmax_type} of mla attention is not modelled", nearest_is("vanilla")),
    error("modules_of_selective", "recompute_modules",
        (_c("recompute") != "selective") & ~_c("recompute_modules").is_in(["core_attn", "none"]),
        "recompute {recompute} does not go by modules, only selective does", nearest_is("core_attn")),
    error("modules_of_model", "recompute_modules", names_missing_modules(),
        "the model lacks some of the modules {recompute_modules}", nearest_is(modules_there())),
    error("modules_within_moe", "recompute_modules", repeats_within_moe(),
        "moe repeats the activation of experts and the shared experts already", nearest_is(modules_apart())),
    *CAPACITY_RULES,
    *DISPATCH_RULES,
    *GROUP_RULES,
    *GRAPH_RULES,
    *INTERLEAVING_RULES,
    *KERNEL_RULES,
    error("precision_needs_shards", "use_precision_aware_optimizer",
        _aware & ~_c("distributed_optimizer"),
        "a precision-aware optimizer is a distributed one: Megatron refuses it replicated",
        nearest_is("false")),
    error("precision_of_fp16", "use_precision_aware_optimizer", _aware & (_c("dtype") == "fp16"),
        "a precision-aware optimizer of fp16 parameters is not modelled", nearest_is("false")),
    error("precision_of_moments", "use_precision_aware_optimizer",
        ~_aware & ((_c("exp_avg_dtype") != "fp32") | (_c("exp_avg_sq_dtype") != "fp32")),
        "exp_avg_dtype {exp_avg_dtype} and exp_avg_sq_dtype {exp_avg_sq_dtype} are those of a precision-"
        "aware optimizer", nearest_is("true")),
    *OFFLOAD_RULES,
    *ACTIVATION_RULES,
    *FP8_RULES,
    *OVERLAP_RULES,
    *SHARDING_RULES,
    error("countable", "seq_length", _flops >= COUNTABLE_FLOPS,
        "a micro-batch of {micro_batch_size} * {seq_length} tokens has more operations than can be counted",
        pl.lit("use a smaller seq_length or micro_batch_size")),
    warning("heads_by_tp", "tp", _c("num_attention_heads") % _c("tp") != 0,
        "tp {tp} splits {num_attention_heads} attention heads into fractions, which Megatron refuses",
        nearest_divisors("tp", _c("num_attention_heads"), STAGE_RANKS)),
    warning("groups_by_tp", "tp",
        _grouped & (_groups % _c("tp") != 0) & ~_more_ranks,
        "tp {tp} splits {num_query_groups} query groups into fractions, which Megatron refuses",
        nearest_divisors("tp", _groups, STAGE_RANKS)),
    warning("layers_by_pp", "pp",
        ~_interleaved & ~_placed & (_c("pp") <= _c("num_layers")) & (_c("num_layers") % _c("pp") != 0),
        "pp {pp} does not divide num_layers {num_layers}: Megatron wants placement keys for that, such as "
        "num_layers_in_first_pipeline_stage",
        nearest_divisors("pp", _c("num_layers"), _pipeline_ranks)),
    warning("tp_within_node", "tp", _c("gpus_per_node") % _c("tp") != 0,
        "tp {tp} does not divide the {gpus_per_node} GPUs of a node: tensor parallelism crosses nodes",
        nearest_divisors("tp", _c("gpus_per_node"), STAGE_RANKS)),
    warning("memory", "pp", _c("least_state_gib") > _c("usable_gib"),
        "weights, gradients and optimizer states take {least_state_gib} GiB; a GPU has {usable_gib} GiB",
        pl.format("pp * tp of about {} would hold them",
            (_c("pp") * _c("tp") * _c("least_state_gib") / _c("usable_gib")).ceil().clip(0, 2**53)
                .cast(pl.Int64)),
        ("ep", all_divisors(_expert_ranks, _c("num_experts")))),
    warning("vocabulary_padding", "tp", _padding > PADDING_WARNED * _c("vocab_size"),
        "vocab_size {vocab_size} is padded to {padded_vocab_size}, a multiple of 128 * tp {tp}",
        pl.format("vocab_size {} would be used in full", _c("padded_vocab_size"))),
)
# fmt: on
"""Every rule. A new one is one entry above and one case in the tests."""
