"""The naive memory's tensors: what each half of a layer keeps for its backward pass.

Written from docs/costs.md alone. A tensor says what makes it again, and which module takes it to the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from naive_fp8 import in_fp8, kept_width, remembers_the_past
from naive_offload import offloads
from naive_sizes import (
    Workload,
    context_size,
    fc1_multiple,
    is_mla,
    own_key_value_sizes,
    own_tokens,
    query_size,
    repeated,
    steps_of_cp,
    tokens,
)


@dataclass(frozen=True)
class Kept:
    """A tensor that a forward pass keeps for the backward pass, what makes it again, what offloads it."""

    size: float
    of: tuple[str, ...] = ()
    host: str = ""

    def is_on_host(self, w: Workload) -> bool:
        """Whether the module that keeps it offloads it, 2 bytes an element."""
        return offloads(w, self.host, self.size / 2) and not self.is_made_again(w)

    def is_made_again(self, w: Workload) -> bool:
        """Whether selective recomputation makes it again."""
        return any(repeated(w, module) for module in self.of)


def total(tensors: list[Kept]) -> float:
    """Bytes of some tensors."""
    return sum(tensor.size for tensor in tensors)


# What a layer keeps


def attention(w: Workload) -> list[Kept]:
    """Attention with the norm before it and the residual behind it."""
    own, every = own_tokens(w), tokens(w)
    query, (key, value) = query_size(w) / w["tp"], own_key_value_sizes(w)
    context, small, again = context_size(w) / w["tp"], kept_width(w), ("mla_up_proj",)
    first = 2 if is_mla(w) and in_fp8(w) else 1  # linears that read the norm's output, each its own copy
    kept = [
        Kept(2 * own * w["hidden_size"], host="attn_norm" if is_mla(w) else "qkv_linear"),
        *[Kept(small * own * w["hidden_size"], ("layernorm",) if is_mla(w) else (), "qkv_linear")] * first,
        *(
            Kept(2 * every * width, ("mla_up_proj",) if is_mla(w) else (), "core_attn")
            for width in (query, key, value)
        ),
        # what the output projection reads
        Kept((1 if remembers_the_past(w) else 2) * every * context, host="attn_proj"),
        Kept(mask(w)),
    ]
    for width in (w["q_lora_rank"], w["kv_lora_rank"]) if is_mla(w) else ():
        # The latent, if a norm reads it; what the linear behind it reads, which only a norm makes anew, or
        # that linear itself where it runs again from a latent in 16 bits.
        raw = w["qk_layernorm"] or (in_fp8(w) and repeated(w, "mla_up_proj"))
        kept += [Kept(2 * own * width, host="qkv_linear")] if raw else []
        kept.append(Kept(small * own * width, again if raw else (), "qkv_linear"))
    if w["qk_layernorm"] and not is_mla(w):
        kept += [Kept(2 * every * width) for width in (query, key)]
    stays = remembers_the_past(w) and w["flash_attention"]  # the kernel reads its output again
    if stays or (w["cp"] > 1 and steps_of_cp(w)[1] < w["cp"]):
        kept.append(Kept(2 * every * context, ("core_attn",), "core_attn"))  # in the order of the kernel
    if not w["flash_attention"]:
        each = 2 + (1 + 2 if w["attention_dropout"] else 0)  # softmax; its mask, and what it leaves
        scores = every * w["seq_length"] * w["num_attention_heads"] / w["tp"]
        kept.append(Kept(each * scores, ("core_attn",)))
    return kept


def mask(w: Workload) -> int:
    """Dropout's mask of one byte an element, of a rank's own tokens."""
    return own_tokens(w) * int(w["hidden_size"]) if w["hidden_dropout"] else 0


def first_result(w: Workload) -> int:
    """Bytes of fc1's output for each element of an MLP's width."""
    return 2 * fc1_multiple(w)


def activated(w: Workload, weighted: bool) -> list[float]:
    """Bytes of each tensor that an activation makes for each element of the width, what fc2 reads first.

    A probability may weigh them besides.
    """
    last = kept_width(w)
    if not w["gated_mlp"]:
        return [last, *([2] if weighted else [])]
    if w["bias_activation_fusion"]:
        return [last]
    silu, linear_half, product = 2, 2, 2
    return [last, silu, linear_half, *([product] if weighted else [])]


def mlp(w: Workload, routed: bool, rows: float) -> list[Kept]:
    """The second half of a layer: norm, MLP or experts, residual."""
    own, h = own_tokens(w), w["hidden_size"]
    kept = [Kept(2 * own * h, host="mlp_norm" if routed else ""), Kept(mask(w))]
    if not routed:
        kept += [Kept(kept_width(w) * own * h, ("mlp",)), *inside(w, w["ffn_hidden_size"], ("mlp",))]
        return kept
    width = w["moe_ffn_hidden_size"] / w["etp"]
    kept += [
        Kept(2 * own * h, ("layernorm",)),
        Kept(kept_width(w) * rows * h, ("moe",), "expert_fc1"),
        Kept(first_result(w) * rows * width, ("moe",), "moe_act"),
    ]
    read, *others = activated(w, weighted=True)
    kept.append(Kept(read * rows * width, ("moe", "moe_act")))
    kept += [Kept(each * rows * width, ("moe", "moe_act"), "moe_act") for each in others]
    shared = ("moe", "shared_experts")
    kept += inside(w, w["num_shared_experts"] * w["moe_ffn_hidden_size"], shared)
    if w["num_shared_experts"] and remembers_the_past(w):
        kept.append(Kept(own * h, shared))  # of what the router keeps in 16 bits
    if w["moe_shared_expert_gate"]:
        kept.append(Kept(2 * own * h, shared))  # what the gate weighs
    return kept


def inside(w: Workload, width: int, of: tuple[str, ...]) -> list[Kept]:
    """Both results inside an MLP that is cut over tp."""
    elements = tokens(w) * width / w["tp"]
    return [Kept(first_result(w) * elements, of), Kept(sum(activated(w, weighted=False)) * elements, of)]
