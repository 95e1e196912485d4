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
    repeated,
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


def part_sizes(w: Workload) -> list[int]:
    """How many of the decoder's layers each chunk of each stage has, in the order of the layers.

    Left-over layers go to the middle, unless something says where.
    """
    pp, parts, layers_ = w["pp"], w["pp"] * w["virtual_pipeline"], w["num_layers"]
    text = w["pipeline_model_parallel_layout"]
    if text != "none":
        return [part.count("t") for part in written_out(text).split("|")]
    of_stage = {
        stage: w[f"num_layers_in_{end}_pipeline_stage"]
        for stage, end in ((0, "first"), (pp - 1, "last"))
        if w[f"num_layers_in_{end}_pipeline_stage"]
    }
    if of_stage:
        left = [stage for stage in range(pp) if stage not in of_stage]
        of_stage |= {stage: (layers_ - sum(of_stage.values())) // len(left) for stage in left}
        return [of_stage[part % pp] // w["virtual_pipeline"] for part in range(parts)]
    pretended = [f"account_for_{end}_in_pipeline_split" for end in ("embedding", "loss")]
    if any(w[key] for key in pretended):
        sizes = [(layers_ + sum(w[key] for key in pretended)) // parts] * parts
        for place, key in zip((0, -1), pretended, strict=True):
            sizes[place] -= w[key]
        return sizes
    share, left_over = divmod(layers_, parts)
    favoured = range((parts - left_over) // 2, (parts - left_over) // 2 + left_over)
    return [share + (part in favoured) for part in range(parts)]


def written_out(text: str) -> str:
    """A layout with all repetitions written out, read from left to right."""
    out, unit, place = "", "", 0
    while place < len(text):
        letter = text[place]
        if letter == "(":
            end = text.index(")", place)
            unit, place = written_out(text[place + 1 : end]), end + 1
        elif letter == ",":
            place += 1
            continue
        else:
            unit, place = letter, place + 1
        count = 1
        if text[place : place + 1] == "*":
            digits = ""
            place += 1
            while text[place : place + 1].isdigit():
                digits += text[place]
                place += 1
            count = int(digits)
        out += unit.replace(",", "") * count
    return out


def stage_chunks(w: Workload, stage: int) -> list[list[Layer]]:
    """The decoder's layers of each of a stage's chunks."""
    every = layers(w)
    found: list[list[Layer]] = []
    first = 0
    for part, count in enumerate(part_sizes(w)):
        if part % w["pp"] == stage:
            found.append(every[first : first + count])
        first += count
    return found


def predicting_stage(w: Workload) -> int:
    """The stage of multi-token prediction: the last one, unless a layout has its letter somewhere else."""
    parts = written_out(w["pipeline_model_parallel_layout"]).split("|")
    return next((at % w["pp"] for at, part in enumerate(parts) if "m" in part), w["pp"] - 1)


def stage_layers(w: Workload, stage: int) -> list[Layer]:
    """A stage's layers, chunk after chunk; MTP at the end."""
    behind = layers(w)[w["num_layers"] :] if stage == predicting_stage(w) else []
    return [layer for chunk in stage_chunks(w, stage) for layer in chunk] + behind


def repeated_layers(w: Workload, stage: int) -> list[list[Layer]]:
    """The decoder's layers of a stage that full recomputation runs once more, those that run together in one.

    Layers that it leaves alone stand by themselves here too.
    """
    size = w["recompute_num_layers"]
    if w["recompute"] != "full" or w["recompute_method"] == "block":
        size = 1
    return [
        chunk[first : first + size]
        for chunk in stage_chunks(w, stage)
        for first in range(0, len(chunk), size)
    ]


def is_repeated(w: Workload, stage: int, layer: Layer) -> bool:
    """Whether full recomputation runs a layer once more: all, or the first few of each chunk."""
    if w["recompute"] != "full" or w["recompute_method"] == "uniform":
        return bool(w["recompute"] == "full")
    return any(layer in chunk[: w["recompute_num_layers"]] for chunk in stage_chunks(w, stage))


def has_loss_here(w: Workload, stage: int, number: int, phase: str) -> bool:
    """Whether a loss is worked out: not in a forward pass that keeps nothing, as it comes again."""
    (layer,) = (each for each in stage_layers(w, stage) if each.number == number)
    again = repeated(w, "moe") or is_repeated(w, stage, layer)
    return w["moe_router_load_balancing_type"] != "none" and not (phase == "forward" and again)


def counted_over(w: Workload) -> tuple[str, int]:
    """The communicator over which a loss counts tokens, "" for none, and the bytes of its counts.

    Those of who has parts of the same tokens, for each sequence if the loss is of sequences; or of a stage.
    """
    lots = w["micro_batch_size"] if w["moe_router_load_balancing_type"] == "seq_aux_loss" else 1
    sharing = {(True, False): "tp", (False, True): "cp", (True, True): "tp_cp"}
    kind = sharing.get((w["tp"] > 1, w["cp"] > 1), "")
    return "tp_cp_dp" if "global" in w["moe_router_load_balancing_type"] else kind, 8 * lots * w[
        "num_experts"
    ]


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
