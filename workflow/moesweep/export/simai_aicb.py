"""SimAI text in the dialect of AICB's generator, byte for byte as the study's source files have it.

Everything odd here is AICB's (docs/exports.md lists it); the trace follows Megatron-Core instead.
Symbols: t tp, p pp, e ep, b micro-batch, s sequence, h hidden, f FFN width, E experts, k top-k,
l layers of a stage, g micro-batches, T = 2·b·s·h bytes, v vocabulary and V padded vocabulary.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moesweep.edge.problems import Problem, shown
from moesweep.export.simai_text import NONE, Block, header, row, write

_ATTENTION = "AICB counts 4·h² attention parameters and knows no other attention"
_ALIKE, _EVEN = "AICB makes all layers alike", "AICB gives every stage num_layers / pp layers"
_NOT_EXPRESSED: dict[str, tuple[Any, str]] = {
    "attention": ("mha", _ATTENTION),
    "gated_mlp": (False, "AICB counts two projections an MLP"),
    "position_embedding": ("learned", "AICB counts a table of learned positions"),
    "num_shared_experts": (0, "AICB has no shared experts"),
    "first_k_dense": (0, _ALIKE),
    "moe_layer_freq": ("1", _ALIKE),
    "mtp_num_layers": (0, _ALIKE),
    "window_size": ("none", _ATTENTION),
    "softmax_type": ("vanilla", _ATTENTION),
    "qk_layernorm": (False, _ATTENTION),
    "add_qkv_bias": (False, _ATTENTION),
    "add_bias_linear": (False, "AICB counts weights alone"),
    "num_layers_in_first_pipeline_stage": (0, _EVEN),
    "num_layers_in_last_pipeline_stage": (0, _EVEN),
    "account_for_embedding_in_pipeline_split": (False, _EVEN),
    "account_for_loss_in_pipeline_split": (False, _EVEN),
    "pipeline_model_parallel_layout": ("none", _EVEN),
    "virtual_pipeline": (1, "AICB writes the layers of a stage in that header field"),
    "recompute": ("none", "AICB's rows have no recomputation"),
    "moe_router_dtype": ("none", "AICB's exchanges carry 16 bits"),
    "fp8": ("none", "AICB's messages and sizes are of 16 bits"),
    "optimizer_cpu_offload": (False, "AICB's rows have no optimizer, neither here nor on the host"),
    "fine_grained_activation_offloading": (False, "AICB's rows know no copies to a host"),
    "use_tp_pp_dp_mapping": (False, "AICB's simulators number data-parallel ranks before stages"),
    "deterministic_mode": (False, "AICB's rows do not say how sums are made"),
    "moe_router_fusion": (False, "AICB's rows are of single kernels"),
    "moe_permute_fusion": (False, "AICB's rows are of single kernels"),
    "cross_entropy_loss_fusion": (False, "AICB writes three all_reduces of the loss"),
    "moe_router_enable_expert_bias": (False, "AICB has no biases that balance experts"),
    "moe_router_load_balancing_type": ("none", "AICB has no losses that balance experts"),
    "moe_pad_expert_input_to_capacity": (False, "AICB pads no experts"),
    "routing": ("balanced", "AICB gives every expert as many tokens"),
    "use_megatron_fsdp": (False, "AICB gathers and reduces by the distributed optimizer"),
    "distributed_optimizer": (True, "AICB always reduce-scatters gradients and gathers parameters"),
}
"""Column of a workload to the only value that AICB can express, and why."""


def inexpressible(workload: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for each property of a workload that AICB's files cannot state."""
    id_ = workload["workload"]
    wanted = [
        (column, value, reason)
        for column, (value, reason) in _NOT_EXPRESSED.items()
        if workload[column] != value
    ]
    width = workload["hidden_size"] // workload["num_attention_heads"]
    if workload["attention"] == "mha" and workload["head_dim"] != width:
        wanted.append(("head_dim", width, _ATTENTION))
    if workload["kind"] == "moe" and workload["etp"] != workload["tp"]:
        wanted.append(("etp", workload["tp"], "AICB splits experts over the tp group"))
    if workload["kind"] == "moe" and workload["tp"] > 1 and not workload["sequence_parallel"]:
        wanted.append(("sequence_parallel", True, "AICB's MoE layers are sequence parallel"))
    return [
        Problem(
            id_,
            column,
            "aicb",
            shown(workload[column]),
            f"AICB cannot express {column} {shown(workload[column])}: {reason}",
            f"only {shown(value)}, or use --flavor megatron",
            workload=id_,
        )
        for column, value, reason in wanted
    ]


def file_names(workload: Mapping[str, Any]) -> list[str]:
    """Return the source's file name, and for the workload that the source holds twice its second name too.

    The second copy of gpt_7B on 64 GPUs was generated without naming a GPU, hence `None-`.
    """
    w = workload
    moe = w["kind"] == "moe"
    stem = (
        f"{w['model']}-world_size{w['world_size']}-tp{w['tp']}-pp{w['pp']}-ep{w['ep']}"
        f"-gbs{w['global_batch_size']}-mbs{w['micro_batch_size']}-seq{w['seq_length']}"
        f"-MOE-{moe}-GEMM-{moe}-flash_attn-{w['flash_attention']}.txt"
    )
    if not moe:
        return [stem]
    return [f"A100-{stem}"] + [f"None-{stem}"] * (w["listed"] > 1)


def export(workload: Mapping[str, Any], folder: Path) -> None:
    """Write a workload's file or files into `folder`."""
    first_line, blocks = (_moe if workload["kind"] == "moe" else _dense)(workload)
    for name in file_names(workload):
        write(folder / name, first_line, blocks)


def _stage_layers(w: Mapping[str, Any]) -> int:
    """l: layers that pp does not divide are dropped."""
    return int(w["num_layers"]) // int(w["pp"])


def _activation_bytes(w: Mapping[str, Any]) -> int:
    return 2 * int(w["micro_batch_size"]) * int(w["seq_length"]) * int(w["hidden_size"])


def _header_fields(w: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [
        ("model_parallel_NPU_group", w["tp"]),
        ("ep", w["ep"]),
        ("pp", w["pp"]),
        ("vpp", _stage_layers(w)),
        ("ga", w["num_microbatches"]),
        ("all_gpus", w["world_size"]),
        ("checkpoints", 0),
        ("checkpoint_initiates", 0),
    ]


def _closing_rows(w: Mapping[str, Any]) -> list[str]:
    """Return cross entropy and optimizer, once an iteration."""
    losses = ("ALLREDUCE", 4 * w["seq_length"] * w["micro_batch_size"])
    instant = (0, 0, 0)
    return [
        *(row(f"cross_entropy{i}", losses, nanoseconds=instant) for i in range(1, 4)),
        *(row(f"optimizer{i}", ("ALLREDUCE", 4), nanoseconds=instant) for i in range(1, 5)),
    ]


def _grad_norm(parameters: int) -> str:
    return row("grad_norm", ("ALLGATHER", 2 * parameters), NONE, ("REDUCESCATTER", 4 * parameters))


def _expert_grad_norm(parameters: int) -> list[str]:
    gather, scatter = ("ALLGATHER_DP_EP", 2 * parameters), ("REDUCESCATTER_DP_EP", 4 * parameters)
    return [row("moe_grad_norm1", NONE, NONE, gather), row("moe_grad_norm2", NONE, NONE, scatter)]


def _moe_layer(w: Mapping[str, Any]) -> list[str]:
    full, topk, tp = _activation_bytes(w), w["moe_router_topk"], w["tp"]
    routed = topk * full
    everyone = ("ALLTOALL_EP", routed // tp)
    gather, scatter = ("ALLGATHER", routed), ("REDUCESCATTER", routed)
    counts = ("ALLGATHER", 2 * w["ep"] * w["num_experts"] * tp)
    return [
        row("attention_column", ("ALLGATHER", full), NONE),
        row("attention_row", ("REDUCESCATTER", full), ("NONE", full)),
        row("mlp_moelayer", counts, NONE),
        row("mlp_moelayer", everyone, everyone),
        row("mlp_moelayer", gather, scatter),
        row("mlp_moelayer", scatter, gather),
        row("mlp_moelayer", everyone, everyone),
    ]


def _moe(w: Mapping[str, Any]) -> tuple[str, list[Block]]:
    layers, full, tp, hidden = _stage_layers(w), _activation_bytes(w), w["tp"], w["hidden_size"]
    table = w["padded_vocab_size"] // tp
    experts = 2 * hidden * w["moe_ffn_hidden_size"] * (w["num_experts"] // w["ep"]) // tp
    attention = 4 * hidden * hidden // tp + 2 * hidden
    parameters = (4 * table + w["seq_length"]) * hidden + layers * (attention + experts) + hidden * table
    opening = [_grad_norm(parameters)]
    if w["ep"] != w["dp"]:
        opening += _expert_grad_norm(layers * experts)
    microbatch = [
        row("embedding_layer", ("NONE", full), ("NONE", full)),
        *(_moe_layer(w) * layers),
        row("final_column", ("ALLGATHER", full), NONE),
        row("embedding_norm", ("ALLREDUCE", 2 * w["vocab_size"] * hidden)),
    ]
    message = "0" if w["pp"] == 1 else str(full / tp)
    blocks = [Block(opening), Block(microbatch, w["num_microbatches"]), Block(_closing_rows(w))]
    return header(_header_fields(w), message), blocks


def _dense(w: Mapping[str, Any]) -> tuple[str, list[Block]]:
    """Return the older generator's form, without sequence parallelism and without vpp and pp_comm."""
    layers, full, tp, hidden = _stage_layers(w), _activation_bytes(w), w["tp"], w["hidden_size"]
    layer = 4 * hidden * hidden // tp + 2 * hidden * w["ffn_hidden_size"] // tp
    parameters = (2 * w["padded_vocab_size"] // tp + w["seq_length"]) * hidden + layers * layer
    reduce = ("ALLREDUCE", full)
    opening = [_grad_norm(parameters), row("layernorm", NONE, ("ALLREDUCE", 2 * parameters))]
    if w["dp"] != 1:
        opening += _expert_grad_norm(0)
    microbatch = [
        row("embedding_layer", reduce, reduce),
        *([row("attention_layer", reduce, reduce), row("mlp_layer", reduce, reduce)] * layers),
        row("embedding_norm", ("ALLREDUCE", 2 * w["vocab_size"] * hidden)),
    ]
    fields = [field for field in _header_fields(w) if field[0] != "vpp"]
    blocks = [Block(opening), Block(microbatch, w["num_microbatches"]), Block(_closing_rows(w))]
    return header(fields, None), blocks
