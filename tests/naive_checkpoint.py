"""Parameters of a checkpoint by its config.json, tensor by tensor as transformers has them.

A second count beside moesweep.shapes.weights, and beside the importer: it knows none of our keys.
"""

from typing import Any


def counted(config: dict[str, Any]) -> tuple[int, int, int]:
    """Return parameters, active ones, and those of prediction modules without their copies of the tables."""
    c = config.get("text_config", config)
    kind = config.get("architectures", ["LlamaForCausalLM"])[0]
    hidden, layers = c["hidden_size"], c["num_hidden_layers"]
    experts = c.get("n_routed_experts") or c.get("num_experts") or c.get("num_local_experts") or 0
    width = c.get("moe_intermediate_size") or c["intermediate_size"]
    dense_width = c.get("intermediate_size_mlp") or c["intermediate_size"]
    oss = kind == "GptOssForCausalLM"
    expert = 3 * hidden * width + (2 * width + hidden if oss else 0)
    beside = experts * hidden + (experts if oss else 0) + _shared(c, kind, hidden, width)
    # input_layernorm and post_attention_layernorm
    common = _attention(c, kind) + 2 * hidden
    total = active = 2 * c["vocab_size"] * hidden + hidden
    for layer in range(layers):
        routed = experts > 0 and _has_experts(c, layer)
        total += common + (beside + experts * expert if routed else 3 * hidden * dense_width)
        active += common + (
            beside + c["num_experts_per_tok"] * expert if routed else 3 * hidden * dense_width
        )
    # enorm, hnorm, eh_proj, shared_head.norm, and a layer
    module = 3 * hidden + 2 * hidden * hidden + common + beside + experts * expert
    return total, active, (c.get("num_nextn_predict_layers") or 0) * module


def _shared(c: dict[str, Any], kind: str, hidden: int, width: int) -> int:
    if kind == "Qwen2MoeForCausalLM":
        return 3 * hidden * c["shared_expert_intermediate_size"] + hidden
    number = 1 if kind.startswith("Llama4") else c.get("n_shared_experts") or 0
    return number * 3 * hidden * width


def _has_experts(c: dict[str, Any], layer: int) -> bool:
    if "interleave_moe_layer_step" in c:
        return (layer + 1) % c["interleave_moe_layer_step"] == 0
    return layer >= c.get("first_k_dense_replace", 0)


def _attention(c: dict[str, Any], kind: str) -> int:
    hidden, heads = c["hidden_size"], c["num_attention_heads"]
    if "kv_lora_rank" in c:
        return _latent(c, hidden, heads)
    d, groups = c.get("head_dim") or hidden // heads, c["num_key_value_heads"]
    size = 2 * hidden * heads * d + 2 * hidden * groups * d
    if kind.startswith("Qwen2") or c.get("attention_bias"):
        size += (heads + 2 * groups) * d
    if kind == "GptOssForCausalLM":
        size += hidden + heads  # o_proj's bias, sinks
    if kind.startswith("Qwen3") or (kind == "Glm4MoeForCausalLM" and c["use_qk_norm"]):
        size += 2 * d
    if kind == "OlmoeForCausalLM":
        size += (heads + groups) * d
    return size


def _latent(c: dict[str, Any], hidden: int, heads: int) -> int:
    rank, kv, rope = c.get("q_lora_rank"), c["kv_lora_rank"], c["qk_rope_head_dim"]
    q_width = heads * (c["qk_nope_head_dim"] + rope)
    q = hidden * rank + rank + rank * q_width if rank else hidden * q_width
    kv_up = kv * heads * (c["qk_nope_head_dim"] + c["v_head_dim"])
    return q + hidden * (kv + rope) + kv + kv_up + heads * c["v_head_dim"] * hidden
