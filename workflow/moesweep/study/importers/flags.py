"""Megatron's options, as launch scripts, ModelZoo and Megatron-Bridge say them: a model and a row.

Options of one name with ours are taken as they are; what Megatron means by leaving one out is said here.
Sources: megatron/training/arguments.py, megatron/core/transformer/transformer_config.py.
"""

from typing import Any

from moesweep.shapes.placement import ACCOUNTED, LAYOUT, layout_parts
from moesweep.shapes.schedule import GROUP
from moesweep.study.importers.beyond import read_beyond
from moesweep.study.importers.dispatchers import read_balancing, read_capacity, read_dispatcher
from moesweep.study.importers.draft import DEFAULT, Draft, Told, whole
from moesweep.study.importers.eight_bits import read_fp8
from moesweep.study.importers.graphs import read_graphs
from moesweep.study.importers.lists import number_or_list
from moesweep.study.importers.offloading import read_activations, read_offload
from moesweep.study.importers.sequences import read_sequences
from moesweep.study.importers.sharding import read_sharding
from moesweep.study.keys import KEYS
from moesweep.study.names import MEGATRON, UNMODELLED

TOKENIZERS = {"GPT2BPETokenizer": 50257, "Llama2Tokenizer": 32000}
"""Vocabularies that a tokenizer's name tells."""

_LATENT = {
    "kv_lora_rank": ("kv_lora_rank", 512),
    "qk_nope_head_dim": ("qk_head_dim", 128),
    "qk_rope_head_dim": ("qk_pos_emb_head_dim", 64),
    "v_head_dim": ("v_head_dim", 128),
}
"""Widths of latent attention: Megatron's name and default."""

_FORMATS = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}
_COPIED = ("num_layers", "hidden_size", "num_attention_heads", "moe_ffn_hidden_size", "micro_batch_size")


def read_options(draft: Draft, told: Told, switches: bool) -> None:
    """Put what Megatron's options, by their names in snake case, say into a draft.

    `switches` says that they are those of the command line, where what is off is left out.
    """
    for name, value in list(told.values.items()):
        if isinstance(value, str) and "$" in value:
            _leave_open(draft, name, told.values.pop(name))
    for key in _COPIED:
        draft.copy(told, key, key)
    _shape(draft, told, switches)
    if told.take("multi_latent_attention", False):
        _latent(draft, told)
    _attention(draft, told)
    _experts(draft, told, switches)
    _layout(draft, told)
    _beside(draft, told)
    read_graphs(draft, told)
    read_fp8(draft, told)
    read_offload(draft, told, switches)
    read_activations(draft, told)
    read_sharding(draft, told, switches)
    _training(draft, told, switches)
    for name in list(told.left()):
        key = MEGATRON.get(name, name)
        if key in KEYS:
            draft.copy(told, key, name, value=_number_format)
        elif key in UNMODELLED and told.values[name] not in (None, False):
            draft.unread[name] = told.take(name)
    read_beyond(draft, told)
    draft.leave(told, told.left())


def _leave_open(draft: Draft, name: str, text: str) -> None:
    """Note what only a run would know: an option of ours, to be said elsewhere, or one not modelled."""
    key = MEGATRON.get(name, name)
    if key in KEYS:
        draft.open[key] = (name, text)
    elif key in UNMODELLED:
        draft.unread[name] = text


def _source(draft: Draft, told: Told, name: str) -> str:
    """Where the value of an option is from that may be left out."""
    return draft.at(name) if name in told.values else f"{DEFAULT}: {name}"


def _shape(draft: Draft, told: Told, switches: bool) -> None:
    gated = bool(told.take("swiglu", False) or told.take("gated_linear_unit", False))
    draft.say("gated_mlp", gated, _source(draft, told, "swiglu" if switches else "gated_linear_unit"))
    _fused_activation(draft, told, gated)
    width = 4 * whole(draft, told, "hidden_size")
    if not draft.copy(told, "ffn_hidden_size", "ffn_hidden_size") and width > 0:
        width = width * 2 // 3 // 64 * 64 if gated else width
        draft.say("ffn_hidden_size", width, f"{DEFAULT}: 4 hidden_size")
    grouped = told.take("group_query_attention", not switches)
    if grouped and switches and "num_query_groups" not in told:
        draft.say("num_query_groups", 1, f"{DEFAULT}: num_query_groups")
    elif not (grouped and draft.copy(told, "num_query_groups", "num_query_groups")):
        draft.copy(told, "num_query_groups", "num_attention_heads")
        told.taken.add("num_query_groups")
    draft.say(
        "normalization",
        str(told.take("normalization", "LayerNorm")).lower(),
        _source(draft, told, "normalization"),
    )
    rotary = told.take("use_rotary_position_embeddings", False)
    kind = str(told.take("position_embedding_type", "learned_absolute"))
    kinds = {"learned_absolute": "learned", "yarn": "rope"}
    position = "rope" if rotary else kinds.get(kind, kind)
    draft.say("position_embedding", position, _source(draft, told, "position_embedding_type"))
    untied = told.take("untie_embeddings_and_output_weights", False)
    shared = told.take("share_embeddings_and_output_weights", not untied)
    name = "untie_embeddings_and_output_weights" if switches else "share_embeddings_and_output_weights"
    draft.say("tied_embeddings", bool(shared), _source(draft, told, name))
    linear = told.take("add_bias_linear", not told.take("disable_bias_linear", False))
    draft.say(
        "add_bias_linear",
        bool(linear),
        _source(draft, told, "disable_bias_linear" if switches else "add_bias_linear"),
    )
    if not draft.copy(told, "vocab_size", "vocab_size", "padded_vocab_size"):
        tokenizer = str(told.values.get("tokenizer_type"))
        if tokenizer in TOKENIZERS:
            draft.say("vocab_size", TOKENIZERS[tokenizer], draft.at(f"tokenizer_type {tokenizer}"))


def _fused_activation(draft: Draft, told: Told, gated: bool) -> None:
    """Whether one kernel computes SwiGLU: a configuration's own name, or what a command line switches off."""
    name = "no_bias_swiglu_fusion" if gated else "no_bias_gelu_fusion"
    off = told.take(name, False)
    if not gated:
        told.taken.add("bias_activation_fusion")
        draft.idle += [name] if off else []
    elif off:
        draft.say("bias_activation_fusion", False, draft.at(name))


def _latent(draft: Draft, told: Told) -> None:
    draft.say("attention", "mla", draft.at("multi_latent_attention"))
    draft.copy(told, "num_query_groups", "num_attention_heads")
    draft.copy(told, "q_lora_rank", "q_lora_rank")
    for key, (name, default) in _LATENT.items():
        if not draft.copy(told, key, name):
            draft.say(key, default, f"{DEFAULT}: {name}")
    # Widths of heads are those above.
    told.taken.add("kv_channels")


def _attention(draft: Draft, told: Told) -> None:
    for name in ("window_size", "window_attn_skip_freq"):
        draft.copy(told, name, name, value=number_or_list)
    backend = str(told.take("attention_backend", "auto")).rpartition(".")[2]
    draft.say(
        "flash_attention", backend not in ("unfused", "local"), _source(draft, told, "attention_backend")
    )
    told.taken.add("use_flash_attn")


_OF_EXPERTS = (
    *("moe_permute_fusion", "moe_router_fusion", "moe_router_dtype"),
    *("overlap_moe_expert_parallel_comm", "delay_wgrad_compute", "moe_router_enable_expert_bias"),
)
"""Options that have no effect without experts."""


def _experts(draft: Draft, told: Told, switches: bool) -> None:
    if not draft.copy(told, "num_experts", "num_experts", "num_moe_experts"):
        for name in _OF_EXPERTS:
            draft.idle += [] if told.take(name) is None else [name]
        return
    if told.values.get("moe_router_dtype") not in (None, *KEYS["moe_router_dtype"].form["enum"]):
        draft.unread["moe_router_dtype"] = told.take("moe_router_dtype")
    if not draft.copy(told, "moe_router_topk", "moe_router_topk"):
        draft.say("moe_router_topk", 2, f"{DEFAULT}: moe_router_topk")
    shared = whole(draft, told, "moe_shared_expert_intermediate_size")
    width = draft.model.get("moe_ffn_hidden_size", draft.model.get("ffn_hidden_size", (0, "")))[0]
    if isinstance(width, int) and shared > 0 and width > 0 and shared % width == 0:
        source = draft.at("moe_shared_expert_intermediate_size over the width of an expert")
        draft.say("num_shared_experts", shared // width, source)
    elif shared:
        draft.unread["moe_shared_expert_intermediate_size"] = shared
    _expert_layers(draft, told)
    read_dispatcher(draft, told, switches)
    read_capacity(draft, told)
    read_balancing(draft, told, switches)


def _expert_layers(draft: Draft, told: Told) -> None:
    """Which layers have experts: a number, or a list, which may be written as Python does."""
    source = _source(draft, told, "moe_layer_freq")
    marks = number_or_list(told.take("moe_layer_freq", 1))
    # A list of another length is left to be refused, as Megatron does.
    of_all = isinstance(marks, list) and len(marks) == draft.model.get("num_layers", (0, ""))[0]
    if of_all and 1 in marks and all(mark == 1 for mark in marks[marks.index(1) :]):
        if marks[0] == 0:
            draft.say("first_k_dense", marks.index(1), source)
    elif marks != 1:
        draft.say("moe_layer_freq", marks, source)


def _number_format(said: Any) -> Any:
    """A number format by its short name (Megatron-Bridge writes PyTorch's); anything else as it is."""
    return _FORMATS.get(said, said) if isinstance(said, str) else said


def _layout(draft: Draft, told: Told) -> None:
    for key, name in (("tp", "tensor"), ("pp", "pipeline"), ("ep", "expert")):
        if not draft.copy(told, key, f"{name}_model_parallel_size"):
            draft.say(key, 1, f"{DEFAULT}: {name}_model_parallel_size")
    draft.copy(told, "etp", "expert_tensor_parallel_size")
    read_sequences(draft, told)
    _chunks(draft, told)
    _groups(draft, told)
    parallel = told.take("sequence_parallel", False)
    draft.say("sequence_parallel", bool(parallel), _source(draft, told, "sequence_parallel"))


def _chunks(draft: Draft, told: Told) -> None:
    """How many chunks a stage has: as said, as a layout's parts make (`arguments.py`), or by their size."""
    names = ("virtual_pipeline_model_parallel_size", "num_virtual_stages_per_pipeline_rank")
    each = whole(draft, told, "num_layers_per_virtual_pipeline_stage")
    stages = draft.row["pp"][0]
    if draft.copy(told, "virtual_pipeline", *names) or not isinstance(stages, int) or stages < 1:
        return
    parts = _parts(told.values.get(LAYOUT))
    if parts > stages and parts % stages == 0:
        draft.say("virtual_pipeline", parts // stages, draft.at(LAYOUT))
    elif each > 0:
        # The embedding and the loss, where they count as layers (`arguments.py`).
        ends = sum(bool(told.values.get(name)) for name in ACCOUNTED)
        per_stage = (whole(draft, told, "num_layers") + ends) // stages
        source = draft.at("num_layers_per_virtual_pipeline_stage")
        draft.say("virtual_pipeline", max(per_stage // each, 1), source)


def _groups(draft: Draft, told: Told) -> None:
    """How many micro-batches pass through a chunk; where there is but one, that has no effect."""
    names = (GROUP, "microbatch_group_size_per_virtual_pipeline_stage")
    if draft.row.get("virtual_pipeline", (1, ""))[0] != 1:
        draft.copy(told, GROUP, *names)
    else:
        draft.idle += [name for name in names if told.take(name) is not None]


def _parts(layout: Any) -> int:
    """How many parts a layout has, 0 if it is none."""
    try:
        return len(layout_parts(layout)) if isinstance(layout, str) else 0
    except ValueError:
        return 0


def _beside(draft: Draft, told: Told) -> None:
    """What runs beside something else, but for what has no effect without chunks or without tp."""
    stays = told.take("no_overlap_p2p_communication", False)
    beside = told.take("overlap_p2p_comm", False if stays else None)
    if beside is not None and draft.row.get("virtual_pipeline", (1, ""))[0] != 1:
        draft.say("overlap_p2p_comm", bool(beside), draft.at("overlap_p2p_comm"))
    if told.values.get("tp_comm_overlap") and draft.row["tp"][0] == 1:
        told.taken.add("tp_comm_overlap")
        draft.idle.append("tp_comm_overlap")


def _training(draft: Draft, told: Told, switches: bool) -> None:
    draft.copy(told, "world_size", "world_size")
    draft.copy(told, "global_batch_size", "global_batch_size")
    draft.copy(told, "seq_length", "seq_length", "sequence_length")
    half, brain = told.take("fp16", False), told.take("bf16", False)
    if half or brain:
        draft.say("dtype", "fp16" if half else "bf16", draft.at("fp16" if half else "bf16"))
    elif switches:
        draft.unread["params_dtype"] = f"fp32, {DEFAULT} without bf16 or fp16"
    if told.take("grad_reduce_in_bf16", False):
        draft.say("grad_reduce_in_fp32", False, draft.at("grad_reduce_in_bf16"))
    sharded = told.take("use_distributed_optimizer", False)
    draft.say("distributed_optimizer", bool(sharded), _source(draft, told, "use_distributed_optimizer"))
    again = "selective" if told.take("recompute_activations", False) else "none"
    draft.say(
        "recompute", told.take("recompute_granularity", again), _source(draft, told, "recompute_granularity")
    )
    _modules(draft, told)
    if not told.values.get("cross_entropy_loss_fusion"):
        draft.idle += [] if told.take("cross_entropy_fusion_impl") is None else ["cross_entropy_fusion_impl"]
    if draft.row["recompute"][0] != "full":
        for name in ("recompute_method", "recompute_num_layers"):
            draft.idle += [] if told.take(name) is None else [name]


def _modules(draft: Draft, told: Told) -> None:
    """What selective recomputation repeats; `moe_layer_recompute`, an older name, adds the whole of moe."""
    named, whole_moe = told.take("recompute_modules"), bool(told.take("moe_layer_recompute", False))
    if whole_moe and draft.row["recompute"][0] == "none":
        draft.say("recompute", "selective", draft.at("moe_layer_recompute"))
    if draft.row["recompute"][0] != "selective":
        draft.idle += [] if named is None else ["recompute_modules"]
        return
    modules = named if isinstance(named, list) else str(named or "core_attn").split()
    if whole_moe and "moe" not in modules:
        modules = [*modules, "moe"]
    if whole_moe or named is not None:
        name = "recompute_modules" if named is not None else "moe_layer_recompute"
        draft.say("recompute_modules", modules, draft.at(name))
