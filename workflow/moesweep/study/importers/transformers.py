"""config.json of a checkpoint: transformers' architectures, each number with the key that it came from.

What an architecture has without saying so (norms of queries, biases, dense layers) follows its class in
transformers, named as the source.
"""

from collections.abc import Callable
from typing import Any

from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.study.importers.draft import Draft, Told, layers_of, numbers, whole
from moesweep.study.importers.windows import pair, upper_window, window

_IDLE = frozenset(
    (
        *(
            "architectures",
            "auto_map",
            "model_type",
            "transformers_version",
            "torch_dtype",
            "dtype",
            "use_cache",
        ),
        *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "rms_norm_eps", "rope_theta"),
        *("max_position_embeddings", "norm_topk_prob", "output_router_logits", "scoring_func", "topk_method"),
        *("routed_scaling_factor", "pretraining_tp", "ep_size", "max_window_layers", "use_sliding_window"),
        *("original_max_position_embeddings", "attn_implementation"),
        *("initial_context_length", "router_jitter_noise", "partial_rotary_factor", "rope_interleave"),
        *("id2label", "label2id", "_name_or_path", "is_llama_config", "for_llm_compressor", "sep_token_id"),
        *("rope_scaling", "rope_parameters", "no_rope_layers", "no_rope_layer_interval", "floor_scale"),
        *("attn_scale", "attn_temperature_tuning", "aux_loss_alpha", "layer_types", "swiglu_limit"),
    )
)
"""Keys that say nothing about ops, bytes or memory of training."""


def is_config(data: Any) -> bool:
    """Whether JSON data are a checkpoint's configuration."""
    return isinstance(data, dict) and ("architectures" in data or "model_type" in data)


def read_config(data: dict[str, Any], file: str) -> Draft:
    """Return the model that a checkpoint's configuration describes; raise BadInput if it is not known.

    Of a model that takes more than text it is that of the text, whose configuration is one of its keys.
    """
    text = data.get("text_config")
    name = of_all = _class(data)
    if of_all not in ARCHITECTURES and isinstance(text, dict):
        name = _class(text)
    if name not in ARCHITECTURES:
        said = shown(of_all or data.get("model_type"))
        advice = f"known: {', '.join(ARCHITECTURES)}"
        message = f"the architecture {said} is not known"
        raise BadInput([Problem(file, "architectures", "unknown_architecture", said, message, advice)])
    draft = Draft(file, name)
    told, beside = (Told(text), Told(data)) if isinstance(text, dict) else (Told(data), Told({}))
    beside.take("text_config")
    ARCHITECTURES[name](draft, told)
    draft.leave(told, _IDLE)
    draft.leave(beside, _IDLE)
    return draft


def _class(data: dict[str, Any]) -> str:
    """The class that a configuration names, or that of its model_type; "" if it has neither."""
    named = data.get("architectures")
    if isinstance(named, list) and named:
        return str(named[0])
    return _CLASSES.get(str(data.get("model_type")), "")


def _llama(draft: Draft, told: Told, width: str = "intermediate_size") -> None:
    """Grouped attention, gated MLP, RMSNorm and rotary positions."""
    draft.copy(told, "num_layers", "num_hidden_layers")
    draft.copy(told, "hidden_size", "hidden_size")
    draft.copy(told, "ffn_hidden_size", width)
    draft.copy(told, "num_attention_heads", "num_attention_heads")
    draft.copy(told, "num_query_groups", "num_key_value_heads", "num_attention_heads")
    draft.copy(told, "vocab_size", "vocab_size")
    draft.say("gated_mlp", True, f"{draft.form}: gate_proj and up_proj")
    if told.values.get("hidden_act") in ("silu", "swish"):
        told.taken.add("hidden_act")
    draft.say("normalization", "rmsnorm", f"{draft.form}: RMSNorm")
    draft.say("position_embedding", "rope", f"{draft.form}: rotary positions")
    if not draft.copy(told, "tied_embeddings", "tie_word_embeddings"):
        draft.say("tied_embeddings", False, f"{draft.form}: the default of tie_word_embeddings")
    if "head_dim" in told and "kv_lora_rank" not in told:
        draft.copy(told, "head_dim", "head_dim")
    draft.say("hidden_dropout", 0, f"{draft.form}: no dropout of residuals")
    if not draft.copy(told, "attention_dropout", "attention_dropout"):
        draft.say("attention_dropout", 0, f"{draft.form}: the default of attention_dropout")


def _plain(draft: Draft, told: Told) -> None:
    """Llama and Mistral: biases, where a configuration asks for them, are those of all linears."""
    _llama(draft, told)
    if told.values.get("attention_bias") is True and told.values.get("mlp_bias") is True:
        told.taken |= {"attention_bias", "mlp_bias"}
        draft.say("add_bias_linear", True, draft.at("attention_bias and mlp_bias"))
    window(draft, told)


def _qwen2(draft: Draft, told: Told) -> None:
    _llama(draft, told)
    draft.say("add_qkv_bias", True, f"{draft.form}: q_proj, k_proj and v_proj have biases")


def _dense_qwen2(draft: Draft, told: Told) -> None:
    _qwen2(draft, told)
    upper_window(draft, told)


def _qwen3(draft: Draft, told: Told) -> None:
    _llama(draft, told)
    draft.say("qk_layernorm", True, f"{draft.form}: q_norm and k_norm")


def _dense_qwen3(draft: Draft, told: Told) -> None:
    _qwen3(draft, told)
    upper_window(draft, told)


def _experts(draft: Draft, told: Told, number: str, width: str = "") -> None:
    draft.copy(told, "num_experts", number)
    draft.copy(told, "moe_router_topk", "num_experts_per_tok", "experts_per_token")
    if width:
        draft.copy(told, "moe_ffn_hidden_size", width)
    draft.copy(told, "moe_router_enable_expert_bias", "moe_router_enable_expert_bias")


def _layers_with_experts(draft: Draft, marks: list[int], source: str) -> None:
    if not all(marks):
        draft.say("moe_layer_freq", marks, draft.at(source))


def _sparse_step(draft: Draft, told: Told) -> None:
    """Qwen: layer i has experts where (i + 1) is a multiple of the step, but for those of mlp_only_layers."""
    layers, step = layers_of(draft, told, "num_hidden_layers"), whole(draft, told, "decoder_sparse_step", 1)
    dense = set(numbers(draft, told, "mlp_only_layers"))
    marks = [int((i + 1) % max(step, 1) == 0 and i not in dense) for i in layers]
    _layers_with_experts(draft, marks, "decoder_sparse_step and mlp_only_layers")


def _mixtral(draft: Draft, told: Told) -> None:
    _llama(draft, told)
    _experts(draft, told, "num_local_experts")
    window(draft, told)


def _qwen2_moe(draft: Draft, told: Told) -> None:
    _qwen2(draft, told)
    window(draft, told)
    _experts(draft, told, "num_experts", "moe_intermediate_size")
    _sparse_step(draft, told)
    shared, width = (whole(draft, told, f"{name}_intermediate_size") for name in ("shared_expert", "moe"))
    if shared > 0 and width > 0 and shared % width == 0:
        source = draft.at("shared_expert_intermediate_size over moe_intermediate_size")
        draft.say("num_shared_experts", shared // width, source)
        draft.say("moe_shared_expert_gate", True, f"{draft.form}: shared_expert_gate")
    elif shared:
        draft.unread["shared_expert_intermediate_size"] = shared


def _qwen3_moe(draft: Draft, told: Told) -> None:
    _qwen3(draft, told)
    window(draft, told)
    _experts(draft, told, "num_experts", "moe_intermediate_size")
    _sparse_step(draft, told)


def _deepseek(draft: Draft, told: Told) -> None:
    """Latent attention, whose norms of the latents Megatron calls qk_layernorm, and shared experts."""
    _llama(draft, told)
    draft.copy(told, "num_query_groups", "num_attention_heads")
    told.take("num_key_value_heads")
    draft.say("attention", "mla", draft.at("kv_lora_rank"))
    draft.copy(told, "q_lora_rank", "q_lora_rank")
    for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        draft.copy(told, name, name)
    draft.say("qk_layernorm", True, f"{draft.form}: kv_a_layernorm and q_a_layernorm")
    told.taken |= {"head_dim", "qk_head_dim"}
    _grouped_experts(draft, told)


def _grouped_experts(draft: Draft, told: Told) -> None:
    """Experts beside shared ones, above some dense layers; routed in groups, and with prediction modules."""
    _experts(draft, told, "n_routed_experts", "moe_intermediate_size")
    draft.copy(told, "num_shared_experts", "n_shared_experts")
    first, every = whole(draft, told, "first_k_dense_replace"), whole(draft, told, "moe_layer_freq", 1)
    if every > 1:
        marks = [int(i >= first and i % every == 0) for i in layers_of(draft, told, "num_hidden_layers")]
        _layers_with_experts(draft, marks, "first_k_dense_replace and moe_layer_freq")
    elif first:
        draft.copy(told, "first_k_dense", "first_k_dense_replace")
    draft.copy(told, "mtp_num_layers", "num_nextn_predict_layers")
    if told.values.get("n_group") not in (None, 1):
        draft.copy(told, "moe_router_num_groups", "n_group")
        draft.copy(told, "moe_router_group_topk", "topk_group")
    told.taken |= {"n_group", "topk_group"}


def _glm4_moe(draft: Draft, told: Told) -> None:
    _llama(draft, told)
    if told.take("attention_bias", False) is True:
        draft.say("add_qkv_bias", True, draft.at("attention_bias"))
    draft.copy(told, "qk_layernorm", "use_qk_norm")
    _grouped_experts(draft, told)


def _olmoe(draft: Draft, told: Told) -> None:
    _llama(draft, told)
    draft.say("qk_layernorm", True, f"{draft.form}: q_norm and k_norm")
    draft.say("qk_layernorm_across_heads", True, f"{draft.form}: q_norm and k_norm over all heads")
    _experts(draft, told, "num_experts")


def _gpt_oss(draft: Draft, told: Told) -> None:
    _llama(draft, told)
    _experts(draft, told, "num_local_experts")
    if told.take("attention_bias", True) is True:
        draft.say("add_bias_linear", True, f"{draft.form}: biases of attention, router and experts")
    draft.say("softmax_type", "learnable", f"{draft.form}: sinks")
    layers, kinds = layers_of(draft, told, "num_hidden_layers"), told.take("layer_types")
    if draft.copy(told, "window_size", "sliding_window", value=pair):
        # Megatron counts layers from 1: all but every second have the window.
        marks = [int(kind == "sliding_attention") for kind in kinds] if isinstance(kinds, list) else []
        alternating = not marks or marks == [1 - i % 2 for i in layers]
        draft.say("window_attn_skip_freq", 2 if alternating else marks, draft.at("layer_types"))


def _llama4(draft: Draft, told: Told) -> None:
    """One shared expert, as wide as an expert; dense layers of a width of their own between MoE layers."""
    _llama(draft, told, "intermediate_size_mlp")
    _experts(draft, told, "num_local_experts", "intermediate_size")
    draft.say("num_shared_experts", 1, f"{draft.form}: shared_expert")
    layers = layers_of(draft, told, "num_hidden_layers")
    step, listed = whole(draft, told, "interleave_moe_layer_step", 1), set(numbers(draft, told, "moe_layers"))
    marks = [int(i in listed if listed else (i + 1) % max(step, 1) == 0) for i in layers]
    _layers_with_experts(draft, marks, "interleave_moe_layer_step")
    # Its norms of queries and keys have no parameters.
    told.taken.add("use_qk_norm")


ARCHITECTURES: dict[str, Callable[[Draft, Told], None]] = {
    "LlamaForCausalLM": _plain,
    "MistralForCausalLM": _plain,
    "MixtralForCausalLM": _mixtral,
    "Qwen2ForCausalLM": _dense_qwen2,
    "Qwen2MoeForCausalLM": _qwen2_moe,
    "Qwen3ForCausalLM": _dense_qwen3,
    "Qwen3MoeForCausalLM": _qwen3_moe,
    "DeepseekV2ForCausalLM": _deepseek,
    "DeepseekV3ForCausalLM": _deepseek,
    "KimiK2ForCausalLM": _deepseek,
    "OlmoeForCausalLM": _olmoe,
    "GptOssForCausalLM": _gpt_oss,
    "Glm4MoeForCausalLM": _glm4_moe,
    "Llama4ForCausalLM": _llama4,
    "Llama4ForConditionalGeneration": _llama4,
}
"""How the configuration of each known architecture is read."""

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "kimi_k2": "DeepseekV3ForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "llama4": "Llama4ForConditionalGeneration",
    "llama4_text": "Llama4ForCausalLM",
}
"""Architectures by model_type, where a configuration names no class."""
