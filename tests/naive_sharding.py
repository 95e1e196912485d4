"""A second opinion on Megatron-FSDP, from docs/trace.md ("In shards") and docs/costs.md ("Memory") alone."""

from __future__ import annotations

from naive_model import Layer, buffer_sizes, stage_layers
from naive_rows import Writer
from naive_sizes import (
    Workload,
    gradient_bytes,
    group_size,
    layer_norms,
    layer_tensors,
    one_expert,
    prediction_tensors,
    table,
)


def sharded(w: Workload, what: str) -> bool:
    """Whether "optim", "grads" or "params" lie in shards."""
    return bool(w["use_megatron_fsdp"] and what in w["data_parallel_sharding_strategy"])


def layer_sizes(w: Workload, layer: Layer) -> dict[str, int]:
    """Parameters of a rank in one transformer layer, by the ranks that hold the same ones."""
    dense = sum(tensor.size() for tensor in layer_tensors(w, layer.routed))
    local = w["num_experts"] // w["ep"] if layer.routed else 0
    expert = local * sum(tensor.size() for tensor in one_expert(w)) if local else 0
    if w["ep"] == 1 and w["etp"] == w["tp"]:
        return {"dp": dense + expert, "edp": 0}
    return {"dp": dense, "edp": expert}


class Sharded(Writer):
    """What travels in every micro-batch because nobody keeps all of it."""

    def gather(self, layer: Layer) -> None:
        """A layer's parameters, before it runs in either direction."""
        for kind, size in layer_sizes(self.w, layer).items() if sharded(self.w, "params") else ():
            self.spread(f"layer_gather_{kind}", "all_gather", kind, 2 * size)

    def reduce(self, layer: Layer) -> None:
        """Gradients of a layer, with those of what multi-token prediction puts around it."""
        sizes = layer_sizes(self.w, layer)
        if layer.predicts:
            sizes["dp"] += sum(tensor.size() for tensor in prediction_tensors(self.w))
        for kind, size in sizes.items() if sharded(self.w, "grads") else ():
            self.spread(f"layer_reduce_{kind}", "reduce_scatter", kind, gradient_bytes(self.w) * size)

    def spread(self, op: str, how: str, kind: str, size: int) -> None:
        """One collective over those who hold the same parameters, if there is anything."""
        if size:
            self.collect(op.replace("_dp", "_dense").replace("_edp", "_expert"), how, kind, size)

    def reduce_head(self) -> None:
        """Gradients of the last norm, and of the head's own table."""
        w, tensors = self.w, layer_norms(self.w, 1)
        if w["pp"] > 1 or not w["tied_embeddings"]:
            tensors.append(table(w))
        self.reduce_end("head", sum(tensor.size() for tensor in tensors))

    def reduce_embedding(self) -> None:
        """Gradients of the table, and of learned positions, which every rank has whole."""
        w = self.w
        positions = w["seq_length"] * w["hidden_size"] if w["position_embedding"] == "learned" else 0
        self.reduce_end("embedding", table(w).size() + positions)

    def reduce_end(self, end: str, size: int) -> None:
        """Those of one end of the model."""
        if sharded(self.w, "grads"):
            self.collect(f"{end}_reduce_dense", "reduce_scatter", "dp", gradient_bytes(self.w) * size)


def gathered_later(w: Workload, stage: int) -> list[int]:
    """Parameters of both buffers that are gathered once an iteration: where layers bring theirs, the rest."""
    sizes = list(buffer_sizes(w, stage))
    if sharded(w, "params"):
        for layer in stage_layers(w, stage):
            sizes = [size - own for size, own in zip(sizes, layer_sizes(w, layer).values(), strict=True)]
    return sizes


def shared_out(w: Workload, size: int) -> int:
    """Gradients that a rank has of some, once they are reduced."""
    return -(-size // (w["dp"] * w["cp"])) if w["use_megatron_fsdp"] else size


def whole_beside_shards(w: Workload, stage: int) -> tuple[float, float]:
    """Parameters, and gradients, that a rank holds whole for a while, layer by layer of the stage's mean."""
    held = [layer_sizes(w, layer) for layer in stage_layers(w, stage)]
    several = [kind for kind in ("dp", "edp") if group_size(w, kind) > 1]
    every = sum(of_layer[kind] for of_layer in held for kind in several)
    around = 0
    if "dp" in several:
        around = sum(buffer_sizes(w, stage)) - sum(sum(of_layer.values()) for of_layer in held)
    if not every:
        return (around if sharded(w, "params") else 0), 0
    layer = every / len(held)
    ahead = 0.0
    layers_ahead = 0
    while ahead < max(500e6, layer):
        ahead += layer
        layers_ahead += 1
    waiting, layers_waiting = layer, 0
    while waiting <= max(1e9, 2 * layer):
        waiting += layer
        layers_waiting += 1
    parameters = around + min(every, (1 + layers_ahead) * layer) if sharded(w, "params") else 0
    gradients = min(every + around, (layers_waiting + 2) * layer) if sharded(w, "grads") else 0
    return parameters, gradients
