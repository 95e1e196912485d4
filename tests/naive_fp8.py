"""A second opinion on fp8: what is 8 bits wide, from docs/trace.md and docs/costs.md ("fp8") alone."""

from __future__ import annotations

from naive_model import stage_layers
from naive_sizes import Workload, attention_tensors, mlp_tensors, prediction_tensors


def in_fp8(w: Workload, op: str = "") -> bool:
    """Whether a linear multiplies in 8 bits: those of layers, not routers, gates and heads."""
    return w["fp8"] != "none" and op.removeprefix("mtp_") not in ("router", "shared_gate", "logits")


def blocks(w: Workload) -> bool:
    """Whether a few elements share a scale: 4 bytes for 128 of them, or 1 for 32."""
    return bool(w["fp8_recipe"] in ("blockwise", "mxfp8"))


def quantising(w: Workload) -> int:
    """Bytes moved to quantise an element: read, written, also transposed; its largest is found first."""
    return (2 if w["fp8_recipe"] == "tensorwise" else 0) + 2 + 1 + 1


def kept_width(w: Workload) -> float:
    """Bytes of an element of a linear's input on its way to the backward pass."""
    if not in_fp8(w):
        return 2
    return 1 + 4 / 128 if blocks(w) else 1


def travelling(w: Workload, op: str, elements: int) -> int:
    """Bytes of a linear's input between tp ranks."""
    if not in_fp8(w, op):
        return 2 * elements
    return elements + (elements // 32 if blocks(w) else 0)


def remembers_the_past(w: Workload) -> bool:
    """Whether scales are those of iterations before."""
    return in_fp8(w) and bool(w["fp8_recipe"] == "delayed")


def quantised_sizes(w: Workload, stage: int) -> tuple[int, int]:
    """Of a rank's dense and expert parameters the matrices of linears, where these multiply in fp8."""
    dense = expert = 0
    for layer in stage_layers(w, stage) if in_fp8(w) else []:
        matrices = [tensor for tensor in attention_tensors(w) if len(tensor.shape) == 2]
        width = w["ffn_hidden_size"]
        if layer.routed:
            width = w["num_shared_experts"] * w["moe_ffn_hidden_size"]
            own = mlp_tensors(w, w["moe_ffn_hidden_size"], w["etp"])
            expert += w["num_experts"] // w["ep"] * sum(tensor.size() for tensor in own)
        matrices += mlp_tensors(w, width, w["tp"])
        if layer.predicts:
            matrices += [tensor for tensor in prediction_tensors(w) if len(tensor.shape) == 2]
        dense += sum(tensor.size() for tensor in matrices)
    return (dense + expert, 0) if w["ep"] == 1 and w["etp"] == w["tp"] else (dense, expert)


def gathered_sizes(w: Workload, stage: int) -> tuple[int, int]:
    """Parameters of both buffers that are gathered as 1 byte: mxfp8 is made anew of gathered bf16."""
    alone = in_fp8(w) and w["fp8_param_gather"] and w["fp8_recipe"] != "mxfp8"
    return quantised_sizes(w, stage) if alone else (0, 0)


def weight_quantising(w: Workload) -> int:
    """Bytes moved for an element of a weight once an iteration: one that comes in fp8 is transposed."""
    if w["fp8_param_gather"] and w["fp8_recipe"] != "mxfp8":
        return 1 + 1
    return quantising(w)


def weights_in_fp8(w: Workload, elements: int) -> float:
    """Bytes of both copies of weights beyond those of 16 bits, which are not there if fp8 is all there is."""
    copies = 2 * elements * (1 + 1 / 32 if w["fp8_recipe"] == "mxfp8" else 1)
    return copies - (2 * elements if w["fp8_param_gather"] else 0)
