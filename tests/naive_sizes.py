"""The naive trace's sizes: what a workload's tensors and buffers hold, from plain loops."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

Workload = Mapping[str, Any]


@dataclass(frozen=True)
class Tensor:
    """One parameter: its full shape, over how many ranks it is cut, and whether tp sums its gradient."""

    shape: tuple[int, ...]
    shards: int = 1
    # Each tp rank sees only its own tokens, so the gradients are partial sums and must be added up.
    sees_own_tokens: bool = False
    # Each tp rank applies it to its own heads: partial sums even where all ranks see all tokens.
    sees_own_heads: bool = False
    # The vocabulary is padded for a rank, but a model has only so many words.
    unpadded: tuple[int, ...] | None = None

    def size(self) -> int:
        """Elements held by one rank."""
        return prod(self.shape) // self.shards

    def whole(self) -> int:
        """Elements of the model's own tensor."""
        return prod(self.unpadded or self.shape)


def check_what_is_assumed(w: Workload) -> None:
    """Stop at a workload that no framework runs."""
    assert w["kind"] == "dense" or w["tp"] == 1 or w["sequence_parallel"], "MoE with tp cuts sequences"
    assert w["world_size"] == w["tp"] * w["cp"] * w["dp"] * w["pp"]
    assert w["world_size"] == w["etp"] * w["ep"] * w["edp"] * w["pp"]
    assert w["virtual_pipeline"] == 1 or w["pp"] > 1


def is_mla(w: Workload) -> bool:
    """Whether keys and values come from a latent."""
    return bool(w["attention"] == "mla")


def repeated(w: Workload, module: str) -> bool:
    """Whether the backward runs a module's forward once more."""
    return w["recompute"] == "selective" and module in str(w["recompute_modules"]).split("+")


def router_width(w: Workload) -> int:
    """Bytes of the router's numbers."""
    return {"none": 2, "fp32": 4, "fp64": 8}[w["moe_router_dtype"]]


def routed_size(w: Workload) -> int:
    """Bytes of a copy of a token on its way to an expert, with its probability where that has a format."""
    return int(2 * w["hidden_size"] + {"none": 0, "fp32": 4, "fp64": 8}[w["moe_router_dtype"]])


def scattered(w: Workload) -> bool:
    """Whether activations between the tp regions are cut along the sequence."""
    return bool(w["sequence_parallel"] and w["tp"] > 1)


def activation_bytes(w: Workload) -> int:
    """T: one whole bf16 activation of a micro-batch, as far as a rank has its sequences."""
    return 2 * tokens(w) * int(w["hidden_size"])


def tokens(w: Workload) -> int:
    """Tokens of a micro-batch that a rank has: two chunks of each sequence, of two for every cp rank."""
    chunk = w["seq_length"] // (2 * w["cp"]) if w["cp"] > 1 else 0
    return int(w["micro_batch_size"] * (2 * chunk if chunk else w["seq_length"]))


def own_tokens(w: Workload) -> int:
    """Tokens that a rank has between the tp regions."""
    return tokens(w) // int(w["tp"]) if scattered(w) else tokens(w)


def head_widths(w: Workload) -> tuple[int, int]:
    """Width of a head's query (and key), and of its value."""
    if is_mla(w):
        return w["qk_nope_head_dim"] + w["qk_rope_head_dim"], w["v_head_dim"]
    return w["head_dim"], w["head_dim"]


def query_size(w: Workload) -> int:
    """Width of all queries together."""
    return int(w["num_attention_heads"] * head_widths(w)[0])


def context_size(w: Workload) -> int:
    """Width of what core attention gives: the values of all heads."""
    return int(w["num_attention_heads"] * head_widths(w)[1])


def whole_groups(w: Workload) -> bool:
    """Whether more ranks than key heads make every rank gather qkv and keep one key head whole."""
    return bool(not is_mla(w) and w["tp"] > w["num_query_groups"] and w["tp"] % w["num_query_groups"] == 0)


def own_key_value_sizes(w: Workload) -> tuple[int, int]:
    """Widths of a rank's keys and of its values."""
    if is_mla(w):
        return query_size(w) // w["tp"], context_size(w) // w["tp"]
    own = w["head_dim"] if whole_groups(w) else w["num_query_groups"] * w["head_dim"] // w["tp"]
    return own, own


def qkv_width(w: Workload) -> int:
    """Columns of the fused query, key, value weight, of all ranks together."""
    return int((w["num_attention_heads"] + 2 * w["num_query_groups"]) * w["head_dim"])


def fc1_multiple(w: Workload) -> int:
    """A gated MLP has gate and value side by side in its first weight."""
    return 2 if w["gated_mlp"] else 1


def gradient_bytes(w: Workload) -> int:
    """Gradients are summed in fp32, or as they are."""
    return 4 if w["grad_reduce_in_fp32"] else 2


def updated_by_host(w: Workload, owned: int) -> int:
    """Of the parameters that a rank updates those that its host does."""
    return int(owned * w["optimizer_offload_fraction"]) if w["optimizer_cpu_offload"] else 0


def steps_of_cp(w: Workload) -> tuple[int, int]:
    """How many cp ranks exchange positions for heads, and how many stand in a ring."""
    alone = {"p2p": (1, w["cp"]), "a2a": (w["cp"], 1), "all_gather": (1, 1)}
    if w["cp_comm_type"] in alone:
        return alone[w["cp_comm_type"]]
    exchanging, ring = json.loads(w["hierarchical_context_parallel_sizes"])
    return exchanging, ring


def group_size(w: Workload, kind: str) -> int:
    """Ranks in a communicator of a kind."""
    composite = {"tp_ep": w["etp"] * w["ep"], "embedding": min(2, w["pp"]), "world": w["world_size"]}
    composite |= {"dp": w["dp"] * w["cp"]}
    composite |= {"model": w["tp"] * w["pp"], "expert_model": w["etp"] * w["ep"] * w["pp"]}
    composite |= {"tp_cp": w["tp"] * w["cp"], "tp_cp_dp": w["tp"] * w["cp"] * w["dp"]}
    composite |= dict(zip(("cp_a2a", "cp_p2p"), steps_of_cp(w), strict=True))
    return int(composite[kind] if kind in composite else w[kind])


def norm_tensors(w: Workload, width: int, **sees: bool) -> list[Tensor]:
    """Weight, and for LayerNorm a bias."""
    parts = 2 if w["normalization"] == "layernorm" else 1
    return [Tensor((width,), **sees) for _ in range(parts)]


def layer_norms(w: Workload, how_many: int) -> list[Tensor]:
    """Norms of the residual stream."""
    return [norm for _ in range(how_many) for norm in norm_tensors(w, w["hidden_size"], sees_own_tokens=True)]


def attention_tensors(w: Workload) -> list[Tensor]:
    """Projections, their biases and norms, and sinks."""
    h, t, a = w["hidden_size"], w["tp"], w["num_attention_heads"]
    tensors = [Tensor((context_size(w), h), t)]
    if w["add_bias_linear"]:
        tensors.append(Tensor((h,), sees_own_tokens=True))
    if w["softmax_type"] == "learnable":
        tensors.append(Tensor((a,), t))
    return tensors + (latent_tensors(w) if is_mla(w) else grouped_tensors(w))


def grouped_tensors(w: Workload) -> list[Tensor]:
    """qkv, its bias, and norms of single heads or of all of them together."""
    tensors = [Tensor((w["hidden_size"], qkv_width(w)), w["tp"])]
    if w["add_bias_linear"] or w["add_qkv_bias"]:
        tensors.append(Tensor((qkv_width(w),), w["tp"]))
    if w["qk_layernorm"]:
        query, key = w["head_dim"], w["head_dim"]
        if w["qk_layernorm_across_heads"]:
            query, key = query_size(w), w["num_query_groups"] * w["head_dim"]
        tensors += norm_tensors(w, query, sees_own_heads=True) + norm_tensors(w, key, sees_own_heads=True)
    return tensors


def latent_tensors(w: Workload) -> list[Tensor]:
    """What makes latents, whole on every rank, and what makes heads of them, cut."""
    h, t, a, latent = w["hidden_size"], w["tp"], w["num_attention_heads"], w["q_lora_rank"]
    key_latent, rope = w["kv_lora_rank"], w["qk_rope_head_dim"]
    tensors = [Tensor((h, key_latent + rope), sees_own_tokens=True)]
    tensors.append(Tensor((key_latent, a * (w["qk_nope_head_dim"] + w["v_head_dim"])), t))
    if latent:
        tensors += [Tensor((h, latent), sees_own_tokens=True), Tensor((latent, query_size(w)), t)]
    else:
        tensors.append(Tensor((h, query_size(w)), t))
    for width in (latent, key_latent) if w["qk_layernorm"] else ():
        tensors += norm_tensors(w, width, sees_own_tokens=True) if width else []
    return tensors


def mlp_tensors(w: Workload, f: int, shards: int) -> list[Tensor]:
    """First and second weight of a dense MLP, of one expert, or of all shared experts."""
    h = w["hidden_size"]
    return [Tensor((h, fc1_multiple(w) * f), shards), Tensor((f, h), shards)]


def dense_mlp_tensors(w: Workload) -> list[Tensor]:
    """A dense MLP with its biases."""
    f, h = w["ffn_hidden_size"], w["hidden_size"]
    biases = [Tensor((fc1_multiple(w) * f,), w["tp"]), Tensor((h,), sees_own_tokens=True)]
    return mlp_tensors(w, f, w["tp"]) + (biases if w["add_bias_linear"] else [])


def router_tensors(w: Workload) -> list[Tensor]:
    """Router and shared experts."""
    h, experts = w["hidden_size"], w["num_experts"]
    tensors = [Tensor((experts, h), sees_own_tokens=True)]
    if w["add_bias_linear"]:
        tensors.append(Tensor((experts,), sees_own_tokens=True))
    if w["num_shared_experts"]:
        tensors += mlp_tensors(w, w["num_shared_experts"] * w["moe_ffn_hidden_size"], w["tp"])
        if w["moe_shared_expert_gate"]:
            tensors.append(Tensor((1, h), sees_own_tokens=True))
    return tensors


def one_expert(w: Workload) -> list[Tensor]:
    """The weights of one expert."""
    f, h = w["moe_ffn_hidden_size"], w["hidden_size"]
    biases = [Tensor((fc1_multiple(w) * f,), w["etp"]), Tensor((h,))]
    return mlp_tensors(w, f, w["etp"]) + (biases if w["add_bias_linear"] else [])


def layer_tensors(w: Workload, routed: bool) -> list[Tensor]:
    """A transformer layer without its experts."""
    mlp = router_tensors(w) if routed else dense_mlp_tensors(w)
    return layer_norms(w, 2) + attention_tensors(w) + mlp


def prediction_tensors(w: Workload) -> list[Tensor]:
    """What multi-token prediction has besides its layer: three norms and a projection of two activations."""
    h = w["hidden_size"]
    return [*layer_norms(w, 3), Tensor((2 * h, h), w["tp"])]


def table(w: Workload) -> Tensor:
    """The embedding, or the head."""
    h = w["hidden_size"]
    return Tensor((w["padded_vocab_size"], h), w["tp"], unpadded=(w["vocab_size"], h))
