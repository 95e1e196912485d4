"""The naive trace's model: which layer is what, which stage holds which, all parameters, from plain loops."""

from __future__ import annotations

import json
from dataclasses import dataclass

from naive_sizes import (
    Tensor,
    Workload,
    layer_norms,
    layer_tensors,
    one_expert,
    prediction_tensors,
    table,
)


@dataclass(frozen=True)
class Layer:
    """One layer: its number, whether it has experts, whether it sees a window only, whether it is of MTP."""

    number: int
    routed: bool
    windowed: bool
    predicts: bool = False


def layers(w: Workload) -> list[Layer]:
    """All layers, those of multi-token prediction behind the decoder's and like its last."""
    decoder = [
        Layer(number, has_experts(w, number), has_window(w, number)) for number in range(w["num_layers"])
    ]
    behind = range(w["num_layers"], w["num_layers"] + w["mtp_num_layers"])
    return decoder + [Layer(number, decoder[-1].routed, False, True) for number in behind]


def has_experts(w: Workload, number: int) -> bool:
    """Layers 0, n, 2n ... of a number n, or those that a list marks; none before first_k_dense."""
    if w["kind"] == "dense" or number < w["first_k_dense"]:
        return False
    pattern = json.loads(w["moe_layer_freq"])
    return bool(pattern[number]) if isinstance(pattern, list) else number % pattern == 0


def window(w: Workload) -> int:
    """Keys that a windowed layer sees: so many before a token, and itself; all if that is no fewer."""
    if w["window_size"] == "none":
        return int(w["seq_length"])
    before, _ = json.loads(w["window_size"])
    return min(before + 1, w["seq_length"])


def has_window(w: Workload, number: int) -> bool:
    """Every n-th layer, counted from 1, sees everything; or those that a list does not mark."""
    if window(w) == w["seq_length"]:
        return False
    if w["window_attn_skip_freq"] == "none":
        return True
    pattern = json.loads(w["window_attn_skip_freq"])
    return bool(pattern[number]) if isinstance(pattern, list) else (number + 1) % pattern > 0


def stage_layers(w: Workload, stage: int) -> list[Layer]:
    """A stage's layers, chunk after chunk; left-over layers go to the middle, MTP to the end."""
    every, parts = layers(w), w["pp"] * w["virtual_pipeline"]
    share, left_over = divmod(w["num_layers"], parts)
    favoured = range((parts - left_over) // 2, (parts - left_over) // 2 + left_over)
    found: list[Layer] = []
    first = 0
    for part in range(parts):
        count = share + 1 if part in favoured else share
        if part % w["pp"] == stage:
            found += every[first : first + count]
        first += count
    return found + (every[w["num_layers"] :] if stage == w["pp"] - 1 else [])


def dense_tensors(w: Workload, stage: int) -> list[Tensor]:
    """All parameters of a rank except experts."""
    first, last, held = stage == 0, stage == w["pp"] - 1, stage_layers(w, stage)
    tensors = [tensor for layer in held for tensor in layer_tensors(w, layer.routed)]
    tables = 0
    if first:
        tables = 1
        if w["position_embedding"] == "learned":
            # Its gradient comes from the gathered sequence: the same on every tp rank, nothing to add up.
            tensors.append(Tensor((w["seq_length"], w["hidden_size"])))
    if last:
        tensors += layer_norms(w, 1)
        # The head: a table of its own, or where they are tied the one there is or a copy of it.
        tables = max(tables, 1) if w["tied_embeddings"] else tables + 1
    predicting = [layer for layer in held if layer.predicts]
    tensors += [tensor for _ in predicting for tensor in prediction_tensors(w)]
    # Multi-token prediction looks up words: in the embedding, or in a copy; a tied head's copy will do.
    if predicting and not first and not w["tied_embeddings"]:
        tables += 1
    return tensors + [table(w)] * tables


def expert_tensors(w: Workload, stage: int) -> list[Tensor]:
    """The weights of a rank's local experts."""
    local = w["num_experts"] // w["ep"] if w["kind"] == "moe" else 0
    routed = [layer for layer in stage_layers(w, stage) if layer.routed]
    return [tensor for _ in routed for _ in range(local) for tensor in one_expert(w)]


def buffer_sizes(w: Workload, stage: int) -> tuple[int, int]:
    """Parameters of a rank in the dense and in the expert gradient buffer."""
    dense = sum(tensor.size() for tensor in dense_tensors(w, stage))
    expert = sum(tensor.size() for tensor in expert_tensors(w, stage))
    # Experts that are neither spread nor cut differently are replicated over dp like everything else.
    return (dense + expert, 0) if w["ep"] == 1 and w["etp"] == w["tp"] else (dense, expert)


def summed_over_tp(w: Workload, stage: int, cut: bool) -> int:
    """Parameters whose gradients tp ranks have parts of, where sequences are cut or not."""
    tensors = dense_tensors(w, stage)
    return sum(
        tensor.size() for tensor in tensors if tensor.sees_own_heads or (cut and tensor.sees_own_tokens)
    )


def naive_parameters(w: Workload) -> tuple[int, int, int]:
    """Parameters of the main model, those that a token passes, and those of multi-token prediction."""
    main = [table(w)] * (1 if w["tied_embeddings"] else 2) + layer_norms(w, 1)
    if w["position_embedding"] == "learned":
        main.append(Tensor((w["seq_length"], w["hidden_size"])))
    every, passed, predicting = list(main), list(main), []
    for layer in layers(w):
        own = layer_tensors(w, layer.routed)
        experts = [one_expert(w)] * (w["num_experts"] if layer.routed else 0)
        if layer.predicts:
            predicting += own + prediction_tensors(w) + [x for expert in experts for x in expert]
            continue
        every += own + [x for expert in experts for x in expert]
        passed += own + [x for expert in experts[: w["moe_router_topk"]] for x in expert]
    sums = [sum(tensor.whole() for tensor in tensors) for tensors in (every, passed, predicting)]
    return sums[0], sums[1], sums[2]
