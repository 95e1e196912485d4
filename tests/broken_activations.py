"""Rules of activations on the host, and what breaks each: as moesweep's other rules in broken.py."""

from typing import Any

_LATENT: dict[str, Any] = {
    **{"attention": "mla", "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64},
    **{"v_head_dim": 128, "head_dim": 0},
}


def _offloading(modules: str, again: str = "", **changes: Any) -> dict[str, Any]:
    """Changes that keep what some modules save on the host, and make again what others do."""
    repeated = {"recompute": "selective", "recompute_modules": again} if again else {}
    on = {"fine_grained_activation_offloading": True, "flash_attention": True}
    return on | {"offload_modules": modules} | repeated | changes


# rule, what to change in SOUND, the offending value, the suggestion
OF_ACTIVATIONS: list[tuple[str, dict[str, Any], str, str]] = [
    ("modules_of_offload", {"fine_grained_activation_offloading": True}, "none", "nearest: core_attn"),
    ("offload_of_modules", {"offload_modules": "moe_act"}, "moe_act", "nearest: none"),
    ("offload_of_tensors", {"min_offloaded_tensor_size": 0}, "0", "nearest: 1048576"),
    ("offload_modules_exist", _offloading("attn_norm"), "attn_norm", "leave out"),
    (
        "offload_modules_exist",
        _offloading("core_attn+attn_proj+moe_act", num_experts=0, ep=1),
        *("core_attn+attn_proj+moe_act", "nearest: core_attn+attn_proj"),
    ),
    ("offload_of_projection", _offloading("attn_proj"), "attn_proj", "nearest: core_attn+attn_proj"),
    (
        "offload_of_projection",
        _offloading("qkv_linear+attn_proj+moe_act"),
        *("qkv_linear+attn_proj+moe_act", "nearest: qkv_linear+core_attn+attn_proj+moe_act"),
    ),
    ("offload_of_full", _offloading("core_attn", recompute="full"), "full", "nearest: selective, none"),
    (
        "offload_within_moe",
        _offloading("mlp_norm+expert_fc1", again="moe"),
        *("mlp_norm+expert_fc1", "nearest: mlp_norm"),
    ),
    (
        "offload_made_again",
        _offloading("core_attn+attn_proj+moe_act", again="core_attn"),
        *("core_attn+attn_proj+moe_act", "nearest: moe_act"),
    ),
    (
        "offload_made_again",
        _offloading("qkv_linear+mlp_norm", again="layernorm", **_LATENT),
        *("qkv_linear+mlp_norm", "nearest: mlp_norm"),
    ),
    (
        "offload_made_again",
        _offloading("core_attn", again="mla_up_proj", **_LATENT),
        *("core_attn", "leave out"),
    ),
    ("offload_of_scores", _offloading("core_attn", flash_attention=False), "false", "nearest: true"),
    ("activations_of_fp8", _offloading("core_attn", fp8="hybrid"), "true", "nearest: false"),
    ("activations_of_graphs", _offloading("core_attn", cuda_graph_impl="local"), "true", "nearest: false"),
    (
        "framework_of_offload",
        _offloading("core_attn", framework="megatron-lm"),
        *("megatron-lm", "nearest: megatron-core"),
    ),
]
