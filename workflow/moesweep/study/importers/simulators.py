"""Inputs of other simulators: SimuMax's and Calculon's JSON, and the headers of AICB's workloads for SimAI.

Sources: SimuMax's configs/models and configs/strategy, Calculon's models and examples, and AICB's
workload_generator.
"""

import re
from typing import Any

from moesweep.study.importers.draft import Draft, Told, whole

_SIMUMAX_MODEL = {
    "num_layers": "layer_num",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "head_num",
    "num_query_groups": "kv_head_num",
    "vocab_size": "vocab_size",
    "num_experts": "expert_num",
    "moe_router_topk": "topk",
    "moe_ffn_hidden_size": "moe_ffn_hidden_size",
    "first_k_dense": "dense_layers",
    "qk_layernorm": "qk_layernorm",
    "moe_pad_expert_input_to_capacity": "moe_pad_expert_input_to_capacity",
    "moe_expert_capacity_factor": "capacity",
}
_OF_EXPERTS = {"expert_num", "topk", "moe_ffn_hidden_size", "dense_layers", "capacity"}
_SIMUMAX_LATENT = {
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_head_dim",
    "qk_rope_head_dim": "qk_pos_emb_head_dim",
    "v_head_dim": "v_head_dim",
}
_SIMUMAX_IDLE = ("model_name", "group_linear_mode", "mem_factor", "padded_vocab_size")
_SIMUMAX_ROW = {
    "world_size": "world_size",
    "tp": "tp_size",
    "pp": "pp_size",
    "ep": "ep_size",
    "etp": "etp_size",
    "cp": "cp_size",
    "micro_batch_size": "micro_batch_size",
    "seq_length": "seq_len",
    "sequence_parallel": "enable_sequence_parallel",
    "virtual_pipeline": "interleaving_size",
    "dtype": "dtype",
    "flash_attention": "use_flash_sdp",
    "num_layers_in_first_pipeline_stage": "num_layers_in_first_pipeline_stage",
    "num_layers_in_last_pipeline_stage": "num_layers_in_last_pipeline_stage",
    "grad_reduce_in_fp32": "use_fp32_accum_grad",
}
_GRANULARITY = {"full_block": "full", "selective_recompute": "selective"}

_CALCULON_MODEL = {
    "num_layers": "num_blocks",
    "hidden_size": "hidden",
    "ffn_hidden_size": "feedforward",
    "num_attention_heads": "attn_heads",
    "head_dim": "attn_size",
    "seq_length": "seq_size",
}
_CALCULON_ROW = {
    "world_size": "num_procs",
    "tp": "tensor_par",
    "pp": "pipeline_par",
    "global_batch_size": "batch_size",
    "micro_batch_size": "microbatch_size",
    "virtual_pipeline": "pipeline_interleaving",
    "distributed_optimizer": "optimizer_sharding",
}
_CALCULON_IDLE = (
    *(
        "name",
        "training",
        "tensor_par_net",
        "pipeline_par_net",
        "data_par_net",
        "fused_activation",
        "data_par",
    ),
)
_DTYPES = {"float16": "fp16", "bfloat16": "bf16"}

_AICB = re.compile(r"\s*HYBRID_TRANSFORMER(_FWD_IN_BCKWD)?\s")
_PAIR = re.compile(r"([A-Za-z_]+):?\s+(-?[0-9]+(?:\.[0-9]+)?)(?=\s|$)")
_AICB_ROW = {"world_size": "all_gpus", "tp": "model_parallel_NPU_group", "pp": "pp", "ep": "ep"}
_AICB_IDLE = ("checkpoints", "checkpoint_initiates", "pp_comm", "vpp")
_MAX_HEADER_CHARACTERS = 1000


def is_simumax_model(data: Any) -> bool:
    """Whether JSON data are a model of SimuMax."""
    return isinstance(data, dict) and {"layer_num", "head_num"} <= data.keys()


def read_simumax_model(data: dict[str, Any], file: str) -> Draft:
    """Return the model that a file of SimuMax describes; its MLPs have RMSNorm and rotary positions."""
    draft, told = Draft(file, "SimuMax model"), Told(data)
    latent = told.take("attention_type") == "mla"
    if latent:
        draft.say("attention", "mla", draft.at("attention_type"))
        names = _SIMUMAX_LATENT
    else:
        names = {} if _even_heads(draft, told) else {"head_dim": "head_size"}
    if told.take("model_type") == "dense":
        told.taken |= _OF_EXPERTS
    for key, name in (_SIMUMAX_MODEL | names).items():
        if name not in told.taken:
            draft.copy(told, key, name)
    told.taken |= {"head_size"} if latent else set()
    draft.copy(told, "gated_mlp", "use_swiglu")
    if not draft.copy(told, "tied_embeddings", "tied_embeddings", "tie_word_embeddings"):
        draft.say("tied_embeddings", False, f"{draft.form}: an output layer of its own")
    draft.say("normalization", "rmsnorm", f"{draft.form}: RMSNorm")
    draft.say("position_embedding", "rope", f"{draft.form}: rotary positions")
    shared, width = (whole(draft, told, f"moe{name}") for name in _SHARED)
    if shared > 0 and width > 0 and shared % width == 0:
        draft.say("num_shared_experts", shared // width, draft.at(f"moe{_SHARED[0]} over moe{_SHARED[1]}"))
    elif shared:
        draft.unread[f"moe{_SHARED[0]}"] = shared
    draft.leave(told, _SIMUMAX_IDLE)
    return draft


_SHARED = ("_shared_expert_intermediate_size", "_ffn_hidden_size")


def _even_heads(draft: Draft, told: Told) -> bool:
    """Whether heads share out the hidden size, which then says their width."""
    hidden, heads, width = (told.values.get(name) for name in ("hidden_size", "head_num", "head_size"))
    even = isinstance(heads, int) and isinstance(width, int) and heads * width == hidden
    if even or width is None:
        told.taken.add("head_size")
    return even or width is None


def is_simumax_strategy(data: Any) -> bool:
    """Whether JSON data are a strategy of SimuMax."""
    return isinstance(data, dict) and {"tp_size", "pp_size"} <= data.keys()


def read_simumax_strategy(data: dict[str, Any], file: str) -> Draft:
    """Return the row that a strategy of SimuMax describes; the global batch follows from micro-batches."""
    draft, told = Draft(file, "SimuMax strategy"), Told(data)
    sizes = {name: whole(draft, told, name, 1) for name in ("world_size", "tp_size", "pp_size", "cp_size")}
    micro, number = whole(draft, told, "micro_batch_size", 1), whole(draft, told, "micro_batch_num")
    for key, name in _SIMUMAX_ROW.items():
        if not (key == "cp" and sizes["cp_size"] == 1):
            draft.copy(told, key, name)
    shards = sizes["tp_size"] * sizes["pp_size"] * sizes["cp_size"]
    if number and shards > 0:
        batch = micro * number * (sizes["world_size"] // shards)
        draft.say(
            "global_batch_size", batch, draft.at("micro_batch_num * micro_batch_size * data-parallel size")
        )
    draft.say("distributed_optimizer", whole(draft, told, "zero_state") > 0, draft.at("zero_state"))
    again, which = told.take("enable_recompute", False), told.take("recompute_granularity")
    if not again:
        draft.say("recompute", "none", draft.at("enable_recompute"))
    elif str(which) in _GRANULARITY:
        draft.say("recompute", _GRANULARITY[str(which)], draft.at("recompute_granularity"))
    elif which is not None:
        draft.unread["recompute_granularity"] = which
    if told.take("enable_dropout") is False:
        for key in ("hidden_dropout", "attention_dropout"):
            draft.say(key, 0, draft.at("enable_dropout"))
    if told.values.get("moe_dispatcher_policy") == "all2all":
        told.taken.add("moe_dispatcher_policy")
    draft.leave(told, _SIMUMAX_IDLE)
    return draft


def is_calculon(data: Any) -> bool:
    """Whether JSON data are a model or an execution of Calculon."""
    return isinstance(data, dict) and bool({"num_blocks", "tensor_par"} & data.keys())


def read_calculon(data: dict[str, Any], file: str) -> Draft:
    """Return the model, or the row, that a file of Calculon describes: GPT's blocks, without a vocabulary."""
    draft, told = Draft(file, "Calculon file"), Told(data)
    for key, name in (_CALCULON_MODEL | _CALCULON_ROW).items():
        draft.copy(told, key, name)
    if "num_blocks" in data:
        draft.copy(told, "num_query_groups", "attn_heads")
        for key, value in (
            ("gated_mlp", False),
            ("normalization", "layernorm"),
            ("position_embedding", "learned"),
            ("tied_embeddings", True),
        ):
            draft.say(key, value, f"{draft.form}: blocks of a GPT")
    if "tensor_par" in data:
        again = told.take("activation_recompute", "none")
        draft.say(
            "recompute", {"attn_only": "selective"}.get(str(again), again), draft.at("activation_recompute")
        )
        draft.copy(told, "dtype", "datatype", value=lambda name: _DTYPES.get(str(name), name))
        kind = told.take("tensor_par_comm_type", "ar")
        draft.say("sequence_parallel", kind in ("rs_ag", "p2p_rs_ag"), draft.at("tensor_par_comm_type"))
    if told.values.get("attention_type") == "multihead":
        told.taken.add("attention_type")
    draft.leave(told, (*_CALCULON_IDLE, *(name for name, value in data.items() if value == "none")))
    return draft


def is_aicb(text: str) -> bool:
    """Whether a text is a workload for SimAI."""
    return _AICB.match(text) is not None


def read_aicb(text: str, file: str) -> Draft:
    """Return what the header of a workload for SimAI says of a row: sizes, and micro-batches a rank."""
    draft = Draft(file, "SimAI workload")
    header = text.lstrip().split("\n", 1)[0][:_MAX_HEADER_CHARACTERS]
    found = {name: float(value) if "." in value else int(value[:20]) for name, value in _PAIR.findall(header)}
    told = Told(found)
    for key, name in _AICB_ROW.items():
        draft.copy(told, key, name)
    world, tp, pp, number = (
        whole(draft, told, name) for name in ("all_gpus", "model_parallel_NPU_group", "pp", "ga")
    )
    if world > 0 and tp > 0 and pp > 0 and number > 0:
        source = draft.at("ga * all_gpus / (model_parallel_NPU_group * pp)")
        draft.say("micro_batch_size", 1, "SimAI workload: its header does not say it")
        draft.say("global_batch_size", number * (world // (tp * pp)), source)
    draft.leave(told, _AICB_IDLE)
    return draft
