"""Which tensors modules copy to the host, one by one: written from docs/trace.md alone."""

from __future__ import annotations

from naive_model import Layer
from naive_sizes import (
    Workload,
    context_size,
    fc1_multiple,
    is_mla,
    own_key_value_sizes,
    own_tokens,
    query_size,
    repeated,
    tokens,
)


def offloads(w: Workload, module: str, elements: float) -> bool:
    """Whether a tensor of a module goes to the host: its module is named, and it is not too small."""
    on = w["fine_grained_activation_offloading"]
    return on and module in w["offload_modules"].split("+") and elements >= w["min_offloaded_tensor_size"]


def saved_by_modules(w: Workload, layer: Layer, rows: float) -> list[tuple[str, float]]:
    """Modules of a layer, with the elements of each tensor that they save."""
    own, every, h = own_tokens(w), tokens(w), w["hidden_size"]
    query, (key, value) = query_size(w) // w["tp"], own_key_value_sizes(w)
    context = every * context_size(w) // w["tp"]
    if is_mla(w):
        found = [("attn_norm", own * h), ("qkv_linear", own * h)]
        for width in (w["q_lora_rank"], w["kv_lora_rank"]):
            times = 2 if w["qk_layernorm"] else 1  # before and after a norm of its own
            found += [("qkv_linear", own * width)] * (times if width else 0)
    else:
        found = [("qkv_linear", own * h)] * 2  # with the norm inside the linear
    found += [("core_attn", every * width) for width in (query, key, value)]
    found += [("core_attn", context), ("attn_proj", context)]
    if layer.routed:
        width = w["moe_ffn_hidden_size"] // w["etp"]
        found += [("mlp_norm", own * h), ("expert_fc1", rows * h)]
        found.append(("moe_act", rows * fc1_multiple(w) * width))
        if not repeated(w, "moe_act"):
            # A GELU that probabilities weigh; silu, the other half and both together.
            pieces = 1 if not w["gated_mlp"] else 0 if w["bias_activation_fusion"] else 3
            found += [("moe_act", rows * width)] * pieces
    return found


def copied(w: Workload, layer: Layer, rows: float) -> int:
    """Bytes that a layer copies to the host after its forward pass, and back."""
    sizes = [size for module, size in saved_by_modules(w, layer, rows) if offloads(w, module, size)]
    return int(2 * sum(sizes))
