"""A second opinion on memory: what a rank holds at its fullest moment, tensor by tensor, from plain loops.

Written from docs/costs.md ("Memory") alone. Every op says what it keeps for its backward pass; recomputation
strikes out what a module makes; the schedule, walked through, says how many micro-batches are alive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from naive_fp8 import in_fp8, kept_width, quantised_sizes, remembers_the_past, weights_in_fp8
from naive_kept import Kept, attention, mask, mlp, total
from naive_layout import naive_schedule
from naive_model import (
    Layer,
    buffer_sizes,
    is_repeated,
    predicting_stage,
    repeated_layers,
    stage_chunks,
    stage_layers,
)
from naive_sharding import sharded, whole_beside_shards
from naive_sizes import (
    Workload,
    context_size,
    fc1_multiple,
    gradient_bytes,
    group_size,
    is_mla,
    own_key_value_sizes,
    own_tokens,
    qkv_width,
    query_size,
    router_width,
    scattered,
    steps_of_cp,
    tokens,
    updated_by_host,
)
from naive_trace import Program

Rows = Mapping[int, Mapping[int, int]]
"""Rows in the experts of every ep rank, by layer."""


def even_rows(w: Workload) -> int:
    """Rows in a rank's experts where every rank has as many."""
    return Program(w, 0).expert_sizes()[0]


# What a stage keeps, and what is there while it works


class Stage:
    """The memory of one rank of a stage; `rows` where routing is given."""

    def __init__(self, w: Workload, stage: int, rows: Rows | None = None) -> None:
        self.w, self.stage = w, stage
        self.layers = stage_layers(w, stage)
        self.is_last = stage == w["pp"] - 1
        routed = [layer.number for layer in self.layers if layer.routed]
        even = {number: dict.fromkeys(range(w["ep"]), even_rows(w)) for number in routed}
        given = {number: (rows or even)[number] for number in routed}
        # All layers are alive together, so the rank that has most over them all is the fullest.
        sums = [sum(of_layer[rank] for of_layer in given.values()) for rank in range(w["ep"])]
        self.mean = max(sums) / len(routed) if routed else 0
        self.most = max((max(of_layer.values()) for of_layer in given.values()), default=0)

    def halves(self, layer: Layer, rows: float) -> tuple[list[Kept], list[Kept]]:
        """What both halves of a layer keep if nothing is made again."""
        return attention(self.w), mlp(self.w, layer.routed, rows)

    def whole(self, layer: Layer, rows: float) -> float:
        """All that a layer keeps if nothing is made again."""
        return sum(total(half) for half in self.halves(layer, rows))

    def input_size(self) -> int:
        """Bytes of a layer's input."""
        return 2 * own_tokens(self.w) * int(self.w["hidden_size"])

    def of_layers(self) -> float:
        """Bytes that one micro-batch keeps of all layers."""
        w = self.w
        if w["recompute"] != "full":
            tensors = [x for layer in self.layers for half in self.halves(layer, self.mean) for x in half]
            return total([tensor for tensor in tensors if not tensor.is_made_again(w)])
        units = [unit for unit in repeated_layers(w, self.stage) if is_repeated(w, self.stage, unit[0])]
        return self.input_size() * (len(units) + len(self.predicting_again())) + self.spared()

    def on_host(self) -> float:
        """Bytes that are on the host alone: of all that is alive, but for two layers like the largest."""
        of_layers = [
            total([x for half in self.halves(layer, self.mean) for x in half if x.is_on_host(self.w)])
            for layer in self.layers
        ]
        return max(0.0, self.alive() * sum(of_layers) - 2 * max(of_layers, default=0.0))

    def predicting_again(self) -> list[Layer]:
        """Layers of multi-token prediction that full recomputation repeats, each by itself: not by blocks."""
        by_blocks = self.w["recompute_method"] == "block"
        return [layer for layer in self.layers if layer.predicts and not by_blocks]

    def spared(self) -> float:
        """What layers keep that full recomputation does not repeat."""
        again = [x for unit in repeated_layers(self.w, self.stage) for x in unit]
        again = [x for x in again if is_repeated(self.w, self.stage, x)] + self.predicting_again()
        return sum(self.whole(layer, self.mean) for layer in self.layers if layer not in again)

    def at_work(self) -> float:
        """Bytes that are there while layers run again, beside what is kept of them."""
        w = self.w
        if w["recompute"] == "full":
            return self.units_at_work()
        found = [0.0]
        for layer in self.layers if w["recompute"] == "selective" else []:
            for half in self.halves(layer, self.most):
                found.append(total([x for x in half if x.is_made_again(w)]))
        return max(found)

    def units_at_work(self) -> float:
        """Of the layers that run again together: all that they make, but for the input that was kept.

        They are taken to be like the largest, though to make no more than the stage's layers do.
        """
        w, found = self.w, [0.0]
        found += [self.whole(layer, self.most) - self.input_size() for layer in self.predicting_again()]
        again = [x for unit in repeated_layers(w, self.stage) for x in unit if is_repeated(w, self.stage, x)]
        if again:
            together = len(again) if w["recompute_method"] == "uniform" else 1
            of_a_chunk = math.ceil(len(again) / w["virtual_pipeline"])
            together = min(together, of_a_chunk, w["recompute_num_layers"])
            every = [self.whole(layer, self.mean) for layer in again]
            others = min((together - 1) * max(every), sum(every) - max(every))
            found.append(max(self.whole(x, self.most) for x in again) + others - self.input_size())
        # By blocks the layers behind, which were kept whole, are done with by then.
        kept = self.spared() / len(stage_chunks(w, self.stage)) if w["recompute_method"] == "block" else 0
        return max(0.0, max(found) - kept)

    def alive(self) -> float:
        """Full sets of a stage's layers that are alive at once, by walking through the schedule."""
        w, count, most = self.w, 0, 0
        pairs = w["overlap_moe_expert_parallel_comm"]
        together = w["microbatch_group_size_per_vp_stage"]
        order = naive_schedule(w["pp"], w["num_microbatches"], w["virtual_pipeline"], pairs, together)
        for stage, _, phase, _, _ in order:
            if stage == self.stage:
                count += 1 if phase == "forward" else -1
                most = max(most, count)
        return most / int(w["virtual_pipeline"])

    def activations(self) -> float:
        """Bytes of activations at the fullest moment."""
        w, own = self.w, own_tokens(self.w)
        h, words = w["hidden_size"], w["padded_vocab_size"] / w["tp"]
        sets = self.of_layers() + (mask(w) if self.stage == 0 else 0)
        # Final norm, its input, and logits of 16 bits beside those of 32.
        head = 2 * own * h + 2 * own * h + (2 + 4) * tokens(w) * words if self.is_last else 0
        # Embedding, both inputs of the projection, the final norm's input and output; a softmax.
        ahead, softmax = (2 + 2 * kept_width(w) + 4) * own * h + mask(w), 4 * tokens(w) * words
        predicting = len([layer for layer in self.layers if layer.predicts])
        if predicting_stage(w) < w["pp"] - 1:
            # Of every micro-batch alive; the norm's output goes off, but what it was made from has come. The
            # softmax is made where the prediction arrives.
            ahead *= self.alive()
            head += 2 * own * h + softmax if self.is_last else 0
        else:
            ahead += softmax
        return self.alive() * sets - self.on_host() + self.at_work() + head + predicting * ahead

    # What the backward pass needs besides

    def linears(self) -> list[tuple[float, float]]:
        """Shape of every linear's weight as a rank holds it, over all layers."""
        w, shapes = self.w, list[tuple[float, float]]()
        h, t, gate = w["hidden_size"], w["tp"], fc1_multiple(w)
        for layer in self.layers:
            shapes.append((h, context_size(w) / t))
            shapes += self.latent_linears() if is_mla(w) else [(qkv_width(w) / t, h)]
            widths = [(w["ffn_hidden_size"], t)]
            if layer.routed:
                shared = w["num_shared_experts"] * w["moe_ffn_hidden_size"]
                widths = [(w["moe_ffn_hidden_size"], w["etp"])] + ([(shared, t)] if shared else [])
            for width, cut in widths:
                shapes += [(gate * width / cut, h), (h, width / cut)]
            if layer.predicts:
                shapes.append((h / t, 2 * h))
        return shapes

    def latent_linears(self) -> list[tuple[float, float]]:
        """Those to latents, whole on every rank, and those to heads."""
        w, t = self.w, self.w["tp"]
        h, queries, keys, a = w["hidden_size"], w["q_lora_rank"], w["kv_lora_rank"], w["num_attention_heads"]
        heads = a * (w["qk_nope_head_dim"] + w["v_head_dim"]) / t
        made = query_size(w) / t
        of_queries = [(queries, h), (made, queries)] if queries else [(made, h)]
        return [*of_queries, (keys + w["qk_rope_head_dim"], h), (heads, keys)]

    def buffers(self) -> float:
        """Weight gradients: one buffer a distinct shape; older frameworks have one at a time."""
        sizes = {shape: 2 * shape[0] * shape[1] for shape in self.linears()}
        return sum(sizes.values()) if self.w["framework"] == "megatron-core" else max(sizes.values())

    def gradients_in_a_layer(self) -> float:
        """The most that the backward of one layer holds."""
        w, h, gate = self.w, self.w["hidden_size"], fc1_multiple(self.w)
        found = [self.of_other_positions()]
        if any(not layer.routed for layer in self.layers):
            found.append(2 * tokens(w) * (h + gate * w["ffn_hidden_size"] / w["tp"]))
        if any(layer.routed for layer in self.layers):
            found.append(2 * self.most * (h + gate * w["moe_ffn_hidden_size"] / w["etp"]))
            if w["moe_router_dtype"] != "none" and w["etp"] > 1 and w["moe_token_dispatcher_type"] != "flex":
                found.append((router_width(w) + 2) * self.most * h)  # gathered as the router has it, and cast
        return max(found)

    def of_other_positions(self) -> float:
        """What attention's backward holds for, or of, the positions of other cp ranks."""
        w, query = self.w, query_size(self.w) / self.w["tp"]
        key, value = own_key_value_sizes(w)
        if w["cp"] == 1:
            return 0
        if w["cp_comm_type"] == "all_gather":
            return 2 * 2 * w["cp"] * tokens(w) * (key + value)
        exchanging, ring = steps_of_cp(w)
        blocks, with_gradients = (2, 2) if ring > 1 else (0, 0)
        exchanged = query + key + value + context_size(w) / w["tp"] if exchanging > 1 else 0
        return 2 * tokens(w) * (blocks * with_gradients * (key + value) + exchanged)

    def dispatcher_buffers(self) -> float:
        """What the flex dispatcher holds all the time."""
        w, ranks = self.w, self.w["etp"] * self.w["ep"]
        if w["moe_token_dispatcher_type"] != "flex" or not any(layer.routed for layer in self.layers):
            return 0
        if w["moe_flex_dispatcher_backend"] == "hybridep":
            return 2 * 2 * w["hidden_size"] * own_tokens(w) * ranks
        channels = (w["moe_flex_dispatcher_num_sms"] or 20) // 2
        room = 256 if ranks <= 8 else 288 if ranks <= 64 else 560 if ranks <= 128 else 720
        nodes = ranks // 8 if ranks > 8 else 0
        token = 2 * w["hidden_size"] + 2056
        return channels * token * (min(ranks, 8) * room + 2 * 128 * nodes)

    def workspace(self) -> float:
        """Buffers, and what the fullest moment has beyond the activations."""
        w, h, words = self.w, self.w["hidden_size"], self.w["padded_vocab_size"] / self.w["tp"]
        beyond = self.gradients_in_a_layer()
        if self.is_last:
            # Of logits, of the head's weight, and of its input, which is gathered where sequences are cut.
            head = 2 * tokens(w) * words + 2 * words * h + 2 * tokens(w) * h * (2 if scattered(w) else 1)
            beyond = max(0.0, max(head, beyond) - 6 * tokens(w) * words)
        return self.buffers() + beyond + self.dispatcher_buffers()

    # What parameters take

    def states(self) -> tuple[float, float, float]:
        """Weights, gradients and optimizer states."""
        w, sizes = self.w, buffer_sizes(self.w, self.stage)
        shares = [group_size(w, kind) if w["distributed_optimizer"] else 1 for kind in ("dp", "edp")]
        held, owned = sum(sizes), sum(-(-size // share) for size, share in zip(sizes, shares, strict=True))
        owned -= updated_by_host(w, owned)
        aware = w["use_precision_aware_optimizer"] and (not in_fp8(w) or remembers_the_past(w))
        aware = aware and not w["optimizer_cpu_offload"]
        quantised = sum(quantised_sizes(w, self.stage))
        copied = 4 if gradient_bytes(w) == 2 and not aware else 0
        moments = sum({"fp32": 4, "bf16": 2}[w[f"{name}_dtype"]] for name in ("exp_avg", "exp_avg_sq"))
        parameters, gradients = whole_beside_shards(w, self.stage)
        parameters += owned if sharded(w, "params") else held
        gradients += owned if sharded(w, "grads") else held
        return (
            2 * parameters + (weights_in_fp8(w, quantised) if quantised else 0),
            gradient_bytes(w) * gradients + copied * owned,
            ((2 if aware else 4) + moments) * owned,
        )


def naive_memory(w: Workload, stage: int, rows: Rows | None = None) -> dict[str, float]:
    """Every part of a rank's memory and their sum."""
    each = Stage(w, stage, rows)
    weights, gradients, optimizer = each.states()
    parts = {
        "weights_bytes": weights,
        "gradients_bytes": gradients,
        "optimizer_bytes": optimizer,
        "activations_bytes": each.activations(),
        "workspace_bytes": each.workspace(),
    }
    return parts | {"peak_memory_bytes": sum(parts.values())}
