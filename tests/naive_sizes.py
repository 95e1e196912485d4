"""The naive trace's sizes: what a workload's tensors and buffers hold, from plain loops."""

from __future__ import annotations

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

    def size(self) -> int:
        """Elements held by one rank."""
        return prod(self.shape) // self.shards


def refuse_what_is_left_out(w: Workload) -> None:
    """Stop at a workload this file does not describe, rather than describe it wrongly."""
    assert w["attention"] in ("mha", "gqa"), "MLA is left out"
    assert w["num_shared_experts"] == 0, "shared experts are left out"
    assert w["first_k_dense"] == 0, "leading dense layers are left out"
    assert w["kind"] == "dense" or w["tp"] == 1 or w["sequence_parallel"], "MoE with tp cuts sequences"
    assert w["world_size"] == w["tp"] * w["dp"] * w["pp"] == w["etp"] * w["ep"] * w["edp"] * w["pp"]
    assert w["virtual_pipeline"] == 1 or w["pp"] > 1


def is_moe(w: Workload) -> bool:
    """Whether the layers hold experts."""
    return bool(w["kind"] == "moe")


def scattered(w: Workload) -> bool:
    """Whether activations between the tp regions are cut along the sequence."""
    return bool(w["sequence_parallel"] and w["tp"] > 1)


def activation_bytes(w: Workload) -> int:
    """T: one whole bf16 activation of a micro-batch."""
    return 2 * int(w["micro_batch_size"] * w["seq_length"] * w["hidden_size"])


def tokens(w: Workload) -> int:
    """Tokens of a micro-batch."""
    return int(w["micro_batch_size"] * w["seq_length"])


def key_value_size(w: Workload) -> int:
    """Width of the keys, equal to the hidden size unless query heads share them."""
    return int(w["hidden_size"] * w["num_query_groups"] // w["num_attention_heads"])


def qkv_width(w: Workload) -> int:
    """Columns of the fused query, key, value weight on one rank."""
    return int(w["hidden_size"] + 2 * key_value_size(w)) // int(w["tp"])


def fc1_multiple(w: Workload) -> int:
    """A gated MLP has gate and value side by side in its first weight."""
    return 2 if w["gated_mlp"] else 1


def gradient_bytes(w: Workload) -> int:
    """Gradients of bf16 are summed in fp32, those of fp16 as they are."""
    return 2 if w["dtype"] == "fp16" else 4


def group_size(w: Workload, kind: str) -> int:
    """Ranks in a communicator of a kind."""
    composite = {"tp_ep": w["etp"] * w["ep"], "embedding": min(2, w["pp"]), "world": w["world_size"]}
    composite |= {"model": w["tp"] * w["pp"], "expert_model": w["etp"] * w["ep"] * w["pp"]}
    return int(composite[kind] if kind in composite else w[kind])


def stage_layers(w: Workload, stage: int) -> list[int]:
    """Global numbers of a stage's layers, chunk after chunk; left-over layers go to the middle."""
    parts = w["pp"] * w["virtual_pipeline"]
    share, left_over = divmod(w["num_layers"], parts)
    favoured = range((parts - left_over) // 2, (parts - left_over) // 2 + left_over)
    layers: list[int] = []
    first = 0
    for part in range(parts):
        count = share + 1 if part in favoured else share
        if part % w["pp"] == stage:
            layers += range(first, first + count)
        first += count
    return layers


def norm_tensors(w: Workload) -> list[Tensor]:
    """Weight, and for LayerNorm a bias."""
    parts = 2 if w["normalization"] == "layernorm" else 1
    return [Tensor((w["hidden_size"],), sees_own_tokens=True) for _ in range(parts)]


def mlp_tensors(w: Workload, f: int, shards: int) -> list[Tensor]:
    """First and second weight of a dense MLP or of one expert."""
    h = w["hidden_size"]
    return [Tensor((h, fc1_multiple(w) * f), shards), Tensor((f, h), shards)]


def dense_tensors(w: Workload, stage: int) -> list[Tensor]:
    """All parameters of a rank except experts."""
    h, t, first, last = w["hidden_size"], w["tp"], stage == 0, stage == w["pp"] - 1
    table = Tensor((w["padded_vocab_size"], h), t)
    tensors: list[Tensor] = []
    if first:
        tensors.append(table)
        if w["position_embedding"] == "learned":
            # Its gradient comes from the gathered sequence: the same on every tp rank, nothing to add up.
            tensors.append(Tensor((w["seq_length"], h)))
    for _ in stage_layers(w, stage):
        tensors += norm_tensors(w) + norm_tensors(w)
        tensors += [Tensor((h, h + 2 * key_value_size(w)), t), Tensor((h, h), t)]
        if is_moe(w):
            tensors.append(Tensor((w["num_experts"], h), sees_own_tokens=True))
        else:
            tensors += mlp_tensors(w, w["ffn_hidden_size"], t)
    if last:
        tensors += norm_tensors(w)
        if not (first and w["tied_embeddings"]):
            tensors.append(table)
    return tensors


def expert_tensors(w: Workload, stage: int) -> list[Tensor]:
    """The weights of a rank's local experts."""
    tensors: list[Tensor] = []
    if is_moe(w):
        for _ in stage_layers(w, stage):
            for _ in range(w["num_experts"] // w["ep"]):
                tensors += mlp_tensors(w, w["moe_ffn_hidden_size"], w["etp"])
    return tensors


def buffer_sizes(w: Workload, stage: int) -> tuple[int, int]:
    """Parameters of a rank in the dense and in the expert gradient buffer."""
    dense = sum(tensor.size() for tensor in dense_tensors(w, stage))
    expert = sum(tensor.size() for tensor in expert_tensors(w, stage))
    # Experts that are neither spread nor cut differently are replicated over dp like everything else.
    return (dense + expert, 0) if w["ep"] == 1 and w["etp"] == w["tp"] else (dense, expert)
