"""Every column of a workload, declared once: what it may be, what it means, its default, its word in the id.

A new key is one entry of COLUMNS; `python -m moesweep.study.schemas` then writes the schemas of sweeps,
models and workloads anew. What the key does to ops, bytes and memory is said where it does it.
"""

from typing import Any

import polars as pl

from moesweep.study.column import NEEDED, Derived, Key
from moesweep.study.forms import (
    EP,
    ETP,
    GLOBAL_BATCH,
    GRAPH_SCOPE,
    ID,
    LAYOUT,
    LAYOUT_TEXT,
    MARKS_OR_NONE_TEXT,
    MARKS_TEXT,
    MODULES_TEXT,
    NAME,
    OFFLOAD_MODULES,
    OFFLOADED_TEXT,
    RECOMPUTE_MODULES,
    ROUTING,
    ROUTING_TEXT,
    SCOPE_TEXT,
    STEPS_OF_CP,
    TRUTH,
    WINDOW,
    WINDOW_TEXT,
    Schema,
    as_text,
    below,
    joined,
    marks,
    modules_word,
    offload_word,
    offloaded,
    one_of,
    scoped,
    whole,
)
from moesweep.study.routing import spoken as routing_word


def _model(name: str, form: Schema, about: str, default: Any = NEEDED, **more: Any) -> Key:
    return Key(name, form, about, default, of_model=True, **more)


_gqa = pl.when(pl.col("num_query_groups") < pl.col("num_attention_heads"))
_kind_of_attention = _gqa.then(pl.lit("gqa")).otherwise(pl.lit("mha"))
_mla = pl.col("attention") == "mla"
_hidden, _heads = pl.col("hidden_size"), pl.col("num_attention_heads")
# Null, for validation to judge, where the hidden size is no multiple of the heads.
_whole_head = pl.when(_mla).then(0).when(_hidden % _heads == 0).then(_hidden // _heads)
_degree, _parameters = whole(1, 1 << 20), whole(0, 1 << 62)
_batch = whole(1, 1 << 36)
_rank, _head = whole(0, 1 << 20), whole(0, 1 << 16)
_width, _count = whole(0, 1 << 22), whole(0, 1 << 16)


# Without experts there is nothing to give: so twins of differently routed workloads are one.
_unrouted = pl.when(pl.col("routing") == "uncontrolled").then(pl.col("routing")).otherwise(pl.lit("balanced"))

# fmt: off
COLUMNS: tuple[Derived, ...] = (
    Derived("workload", ID, "Id of the workload."),
    Derived("kind", one_of("moe", "dense"), "Whether its layers have experts."),
    Derived("twin", {**ID, "type": ["string", "null"]},
        "Id of the dense twin; null for a dense workload and where the sweep makes no twins."),
    Key("listed", whole(1, 1000000),
        "How often the sweep lists it; 0 for a twin that is there for its MoE workloads only.",
        1, resolved=whole(0, 1 << 40)),
    Key("model", NAME, "Name of a model: config/models/<name>.yaml."),
    Key("world_size", _degree, "Number of GPUs."),
    Key("tp", _degree, "Degree of tensor parallelism.", divides="world_size"),
    Key("pp", _degree, "Degree of pipeline parallelism.", divides="world_size"),
    Key("cp", _degree, "Degree of context parallelism: ranks that share the sequences of a micro-batch.",
        1, divides="world_size"),
    Key("ep", EP, "Degree of expert parallelism. `largest`: the greatest one that divides num_experts and "
        "world_size/(tp*pp). A mapping `largest_for_tp: [8, 16]`: the same, evaluated at each tensor-"
        "parallel degree named instead of the workload's own; equal results count once.",
        1, resolved=_degree, divides="num_experts"),
    Key("etp", ETP,
        "Degree of expert-tensor parallelism; `tp`, and always without experts: the same as tp.",
        "tp", resolved=_degree, without=pl.col("tp"), divides="world_size"),
    Key("use_tp_pp_dp_mapping", TRUTH,
        "Ranks are numbered with pipeline stages before data-parallel ranks (tp-cp-pp-dp), so that a "
        "pipeline stands side by side.", False),
    Derived("dp", _degree,
        "Data-parallel size, world_size/(tp*cp*pp): batches are split over it, dense parameters replicated "
        "over it and cp."),
    Derived("edp", _degree,
        "Expert-data-parallel size, world_size/(etp*ep*pp): experts are replicated over it."),
    Key("micro_batch_size", whole(1, 1 << 16), "Sequences in one micro-batch of one data-parallel rank.",
        1, divides="global_batch_size"),
    Key("global_batch_size", GLOBAL_BATCH,
        "Sequences per iteration over all GPUs; `per_gpu: n` means n times world_size.", resolved=_batch),
    Key("seq_length", whole(1, 1 << 24), "Tokens in a sequence."),
    Derived("num_microbatches", _batch,
        "Micro-batches per iteration and data-parallel rank, global_batch_size/(micro_batch_size*dp)."),
    _model("num_layers", whole(1, 1 << 16), "Transformer layers."),
    _model("hidden_size", whole(1, 1 << 20), "Width of the residual stream."),
    _model("ffn_hidden_size", whole(1, 1 << 22), "Width of the dense MLP."),
    _model("num_attention_heads", whole(1, 1 << 16), "Query heads."),
    _model("num_query_groups", whole(1, 1 << 16),
        "Key and value heads; equal to num_attention_heads without grouping."),
    _model("head_dim", whole(1, 1 << 16),
        "Width of a head (Megatron's kv_channels); left out: hidden_size/num_attention_heads. 0 with MLA, "
        "which has widths of its own.", _whole_head, resolved=whole(0, 1 << 16)),
    _model("qk_layernorm", TRUTH, "Queries and keys are normed: each head, or with MLA the latents.", False),
    _model("qk_layernorm_across_heads", TRUTH, "Those norms go over all heads together (OLMoE).", False),
    _model("add_qkv_bias", TRUTH, "The linear of queries, keys and values has a bias.", False),
    _model("add_bias_linear", TRUTH, "All linears have a bias, experts' and router's among them.", False),
    _model("vocab_size", whole(1, 1 << 24), "Tokens of the vocabulary, before padding."),
    Derived("padded_vocab_size", whole(1, 1 << 40), "vocab_size rounded up to a multiple of 128*tp."),
    _model("gated_mlp", TRUTH, "Two input projections per MLP, one gating the other (SwiGLU)."),
    _model("bias_activation_fusion", TRUTH,
        "One kernel for SwiGLU, which keeps its input only; left out: where gated_mlp is.",
        pl.col("gated_mlp")),
    _model("hidden_dropout", below(1), "Share of activations dropped before residuals and after the "
        "embedding; 0: no masks.", 0.1),
    _model("attention_dropout", below(1), "Share of attention scores dropped; 0: no masks.", 0.1),
    _model("normalization", one_of("layernorm", "rmsnorm"), "Kind of normalisation; layernorm has a bias."),
    _model("position_embedding", one_of("learned", "rope", "none"),
        "How positions enter; learned ones are parameters of the first stage."),
    _model("tied_embeddings", TRUTH, "Input and output embedding share their weights."),
    _model("num_experts", _count, "Experts of a MoE layer; 0: a dense workload.",
        0, word="experts", without=0),
    _model("moe_router_topk", _count, "Experts each token is routed to.", 0, word="topk", without=0),
    _model("moe_router_num_groups", _count,
        "Groups of neighbouring experts, of which each token is routed to some. Left out: 0, none.",
        0, without=0),
    _model("moe_router_group_topk", _count,
        "Groups that a token's experts lie in: those whose best experts score most together.", 0, without=0),
    _model("moe_router_enable_expert_bias", TRUTH,
        "Experts are chosen by scores with a bias, updated once an iteration from the tokens that each got.",
        False, without=False),
    _model("moe_ffn_hidden_size", _width, "FFN width of one expert; 0: as wide as ffn_hidden_size.",
        0, word="ffn", without=0),
    _model("num_shared_experts", _count, "Experts every token passes through.", 0, without=0),
    _model("moe_shared_expert_gate", TRUTH, "A gate weighs what the shared experts give.", False,
        without=False),
    _model("first_k_dense", _count, "Layers at the bottom with a dense MLP.", 0, without=0),
    _model("moe_layer_freq", marks(1),
        "Which layers have experts: a number n, layers 0, n, 2n and so on; or a list of 0 and 1, one for "
        "each layer.", 1, resolved=MARKS_TEXT, text=as_text, without=pl.lit("1")),
    _model("mtp_num_layers", whole(0, 64),
        "Modules of multi-token prediction: each a layer like the last one, a projection and a loss.", 0),
    _model("attention", one_of("mha", "gqa", "mla"),
        "Kind of attention; left out: gqa where num_query_groups is below num_attention_heads, else mha.",
        _kind_of_attention),
    _model("q_lora_rank", _rank, "MLA: rank of the query compression.", 0),
    _model("kv_lora_rank", _rank, "MLA: rank of the key and value compression.", 0),
    _model("qk_nope_head_dim", _head, "MLA: width per head without rotation.", 0),
    _model("qk_rope_head_dim", _head, "MLA: width per head with rotation.", 0),
    _model("v_head_dim", _head, "MLA: width of a value head.", 0),
    _model("window_size", WINDOW,
        "Keys before a token that its query sees in windowed layers, and keys after it: [127, 0] is a window "
        "of 128 with the token itself. Left out: all of them.",
        "none", resolved=WINDOW_TEXT, text=as_text),
    _model("window_attn_skip_freq", marks(2),
        "Which layers have the window: a number n, all but every n-th; or a list of 0 and 1, one for each "
        "layer. Left out: every layer.", "none", resolved=MARKS_OR_NONE_TEXT, text=as_text),
    Derived("window_keys", whole(0, 1 << 24),
        "Keys that a query of a windowed layer sees, itself among them; 0: no layer is windowed."),
    _model("softmax_type", one_of("vanilla", "off-by-one", "learnable"),
        "Softmax of attention; learnable: each head has a sink, a parameter beside its scores.", "vanilla"),
    Derived("parameters", _parameters,
        "Parameters of the main model: vocabulary unpadded, biases and norms in, without mtp_parameters."),
    Derived("active_parameters", _parameters, "Of them those that a token passes: k of E experts."),
    Derived("mtp_parameters", _parameters, "Parameters of multi-token prediction."),
    Key("virtual_pipeline", whole(1, 1 << 16), "Model chunks per pipeline stage; 1: no interleaving.",
        1, word="vp", divides="num_layers"),
    Key("microbatch_group_size_per_vp_stage", whole(1, 1 << 36),
        "Micro-batches that pass through a chunk of a stage before its next chunk begins. Left out: pp.",
        pl.col("pp")),
    Key("num_layers_in_first_pipeline_stage", whole(1, 1 << 16),
        "Layers of the first stage; the others share what is left evenly. Left out: 0, as many as theirs.",
        0, resolved=whole(0, 1 << 16)),
    Key("num_layers_in_last_pipeline_stage", whole(1, 1 << 16), "The same of the last stage.",
        0, resolved=whole(0, 1 << 16)),
    Key("account_for_embedding_in_pipeline_split", TRUTH,
        "The embedding counts as a layer of the first part when layers are spread.", False),
    Key("account_for_loss_in_pipeline_split", TRUTH,
        "The head and its loss count as a layer of the last part.", False),
    Key("pipeline_model_parallel_layout", LAYOUT,
        "What each of the pp*virtual_pipeline parts holds, stage by stage and then chunk by chunk: E the "
        "embedding, t a layer, m one of multi-token prediction, L the loss, | between parts.",
        "none", resolved=LAYOUT_TEXT),
    Key("cp_comm_type", one_of("p2p", "a2a", "all_gather", "a2a+p2p"),
        "What attention does where cp ranks share a sequence: pass keys and values round a ring, exchange "
        "positions for heads, gather all keys and values, or exchange among neighbours and pass round rings.",
        "p2p"),
    Key("hierarchical_context_parallel_sizes", STEPS_OF_CP,
        "With cp_comm_type a2a+p2p: neighbouring cp ranks that exchange positions for heads, and ranks of a "
        "ring; their product is cp.", "none", resolved=WINDOW_TEXT, text=as_text),
    Derived("cp_a2a", whole(1, 1 << 20),
        "Ranks that exchange heads before rings pass keys and values on, with cp_comm_type a2a+p2p; else 1."),
    Key("moe_token_dispatcher_type", one_of("alltoall", "flex", unmodelled=("allgather",)),
        "How tokens get to their experts: copies by an exchange over ep, or each token once to each rank, "
        "and each node, that has any of its experts.", "alltoall", word="", without=pl.lit("alltoall")),
    Key("moe_flex_dispatcher_backend", one_of("deepep", "hybridep", unmodelled=("ncclep",)),
        "Kernels of the flex dispatcher.",
        "deepep", word="", without=pl.lit("deepep")),
    Key("moe_flex_dispatcher_num_sms", whole(1, 1024),
        "Multiprocessors that the flex dispatcher's kernels take. Left out: 0, the backend's own, 20 of "
        "deepep and 16 of hybridep.", 0, resolved=whole(0, 1024), without=0),
    Key("moe_router_load_balancing_type",
        one_of("none", "aux_loss", "seq_aux_loss", "global_aux_loss", unmodelled=("sinkhorn",)),
        "Loss that balances experts, over all tokens of the ranks that share a micro-batch, over each of its "
        "sequences, or over the global batch as far as it has come.", "none", without=pl.lit("none")),
    Key("moe_expert_capacity_factor", {"type": "number", "exclusiveMinimum": 0, "maximum": 1000},
        "Rows of an expert over its even share of token copies. Left out: 0, as many as are routed to it.",
        0.0, resolved={"type": "number", "minimum": 0, "maximum": 1000}, without=0.0),
    Key("moe_pad_expert_input_to_capacity", TRUTH,
        "Every rank sends every expert as many rows, its capacity: tokens beyond are dropped, and zeros pad "
        "what is missing.", False, without=False),
    Key("sequence_parallel", TRUTH,
        "Split activations along the sequence over tp where tensor parallelism leaves them whole.",
        True, word="sp"),
    Key("recompute", one_of("none", "selective", "full"),
        "Activations recomputed in the backward pass: none, those of some modules, or of the whole layer.",
        "none", word=""),
    Key("recompute_modules", RECOMPUTE_MODULES,
        "What selective recomputation repeats: core_attn, moe_act (the experts' activation), layernorm "
        "(norms that are modules of their own: before experts, before mla attention), mla_up_proj, mlp (of "
        "dense layers), moe, shared_experts.",
        "core_attn", resolved=MODULES_TEXT, text=joined, word=modules_word),
    Key("recompute_method", one_of("uniform", "block"),
        "What full recomputation repeats: all layers of a chunk, recompute_num_layers of them at once "
        "(uniform); or its first recompute_num_layers, one by one, and no others (block).", "uniform"),
    Key("recompute_num_layers", whole(1, 1 << 16),
        "Layers that are recomputed at once, of which the first one's input is kept; with blocks, the layers "
        "of a chunk that are recomputed.", 1),
    Key("fine_grained_activation_offloading", TRUTH,
        "What offload_modules save for their backward pass is copied to the host's memory, and back.", False),
    Key("offload_modules", OFFLOAD_MODULES,
        "Modules whose activations are offloaded: attn_norm and mlp_norm (norms that are modules of their "
        "own: before mla attention, before experts), qkv_linear, core_attn, attn_proj, expert_fc1, moe_act.",
        "none", resolved=OFFLOADED_TEXT, text=offloaded, word=offload_word),
    Key("min_offloaded_tensor_size", whole(0, 1 << 40),
        "Elements that a tensor has at least which is offloaded.", 1 << 20),
    Key("flash_attention", TRUTH, "Fused attention kernel, which never stores the scores.",
        False, word="flash"),
    Key("distributed_optimizer", TRUTH, "Optimizer state sharded over the data-parallel ranks.",
        True, word="distopt"),
    Key("dtype", one_of("bf16", "fp16", unmodelled=("fp32", "fp8", "fp4")),
        "Number format of parameters and activations.", "bf16", word=""),
    Key("use_megatron_fsdp", TRUTH,
        "Megatron-FSDP shards what data-parallel ranks hold, as data_parallel_sharding_strategy says.",
        False),
    Key("data_parallel_sharding_strategy",
        one_of("optim", "optim_grads", "optim_grads_params", unmodelled=("no_shard",)),
        "What Megatron-FSDP shards: the optimizer's states; gradients too, reduced in every micro-batch; "
        "parameters as well, gathered layer by layer, forward and backward.", "optim_grads_params"),
    Key("grad_reduce_in_fp32", TRUTH,
        "Gradients are kept and summed in fp32, not in 16 bits; left out: with bf16, but for Megatron-FSDP.",
        (pl.col("dtype") == "bf16") & ~pl.col("use_megatron_fsdp")),
    Key("use_precision_aware_optimizer", TRUTH,
        "The optimizer keeps of a master weight the 16 bits that the bf16 weight lacks, and moments in "
        "formats of their own.", False),
    Key("exp_avg_dtype", one_of("fp32", "bf16", unmodelled=("fp16", "fp8")),
        "Format of the first moment.", "fp32"),
    Key("exp_avg_sq_dtype", one_of("fp32", "bf16", unmodelled=("fp16", "fp8")),
        "Format of the second moment.", "fp32"),
    Key("optimizer_cpu_offload", TRUTH,
        "Optimizer states live in the host's memory, and the host updates their parameters.", False),
    Key("optimizer_offload_fraction", {"type": "number", "minimum": 0, "maximum": 1},
        "Share of the parameters that a rank updates which its host does, with optimizer_cpu_offload.", 1.0),
    Key("fp8", one_of("none", "e4m3", "hybrid"),
        "What linears of layers multiply in 8 bits: inputs, weights and gradients as e4m3, or gradients as "
        "e5m2 (hybrid); none: 16 bits.", "none"),
    Key("fp8_recipe", one_of("delayed", "tensorwise", "blockwise", "mxfp8", unmodelled=("custom",)),
        "What has a scale of its own in fp8: a tensor, by the iterations before (delayed) or by itself "
        "(tensorwise); 128 elements, and 128 by 128 of a weight (blockwise); 32 elements (mxfp8).",
        "delayed"),
    Key("fp8_param_gather", TRUTH,
        "Weights of linears are kept in fp8 beside their master weights, and gathered in it, but for mxfp8.",
        False),
    Key("moe_router_dtype", one_of("none", "fp32", "fp64"),
        "Format of the router's logits and probabilities, of which those of a token travel with it; none: 16 "
        "bits, and none that travel.", "none", without=pl.lit("none")),
    Key("moe_router_fusion", TRUTH,
        "One kernel takes a token's experts, by groups too, and two compute a loss that balances them.",
        False, without=False),
    Key("moe_permute_fusion", TRUTH, "One kernel moves tokens to their copies, and one sums these up.", False,
        without=False),
    Key("cross_entropy_loss_fusion", TRUTH, "Few kernels compute the loss, and few collectives.", False),
    Key("cross_entropy_fusion_impl", one_of("native", "te"),
        "Whose fused loss: Megatron's own, or Transformer Engine's.", "native"),
    Key("moe_shared_expert_overlap", TRUTH,
        "Shared experts run beside the exchanges of tokens, not before them.", False, without=False),
    Key("overlap_moe_expert_parallel_comm", TRUTH,
        "A micro-batch's forward pass runs beside another one's backward pass, layer by layer: exchanges of "
        "tokens of the one beside kernels of the other.", False, without=False),
    Key("delay_wgrad_compute", TRUTH,
        "Weight gradients of experts and attention wait for an exchange of tokens to run beside: with "
        "overlap_moe_expert_parallel_comm.", False, without=False),
    Key("overlap_p2p_comm", TRUTH,
        "Messages of an interleaved pipeline travel while the next chunk runs; left out: where there is one.",
        pl.col("virtual_pipeline") > 1),
    Key("tp_comm_overlap", TRUTH,
        "Gathers and scatters of tp ranks run in parts beside the linear that they belong to.", False),
    Key("overlap_grad_reduce", TRUTH,
        "Gradients are reduced bucket by bucket, beside the last micro-batch's backward passes.", False),
    Key("overlap_param_gather", TRUTH,
        "Updated parameters are gathered bucket by bucket, beside the next iteration's first forward passes.",
        False),
    Key("framework", one_of("megatron-core", "megatron-lm", "megatron-deepspeed"),
        "Training framework, for what it does at the host and between stages.", "megatron-core"),
    Key("cuda_graph_impl", one_of("none", "local", "transformer_engine"),
        "Whose CUDA graphs hold kernels of layers, so that the host launches a graph and not each kernel.",
        "none"),
    Key("cuda_graph_scope", GRAPH_SCOPE,
        "What of a layer they hold: attn, mlp (of dense layers), moe, or of the experts' module what comes "
        "before the exchange, moe_router and moe_preprocess. Left out: the whole layer.",
        "layer", resolved=SCOPE_TEXT, text=scoped),
    Key("blocking_launches", TRUTH, "Kernel launches wait for the kernel (CUDA_LAUNCH_BLOCKING=1).", False),
    Key("deterministic_mode", TRUTH,
        "Kernels and collectives that add up in one order every time: attention's backward in turns, rings "
        "alone.", False),
    Key("routing", ROUTING,
        "How the router spreads tokens over experts: balanced; as a loss (aux_loss) or a bias of its logits "
        "(bias) evens them, or nothing (uncontrolled); or one of zipf, lognormal and table, such as "
        "{zipf: 1.2, seed: 7, capacity_factor: 1.25}.",
        "balanced", resolved=ROUTING_TEXT, word=routing_word, without=_unrouted),
)
# fmt: on
"""Every column of results/workloads.parquet, in order."""

SCHEMA: dict[str, pl.DataType] = {column.name: column.dtype for column in COLUMNS}
"""Types of the columns."""

KEYS: dict[str, Key] = {column.name: column for column in COLUMNS if isinstance(column, Key)}
"""What a sweep may give, by name."""

IN_BASE = frozenset(
    ("listed", "model", "world_size", "tp", "pp", "ep", "global_batch_size", "micro_batch_size", "seq_length")
)
"""Keys that the fixed part of an id says; `listed` says nothing about a workload."""

_FIRST = (
    *("cp", "etp", "virtual_pipeline", "num_experts", "moe_router_topk", "moe_ffn_hidden_size"),
    *("recompute", "recompute_modules", "flash_attention", "sequence_parallel", "distributed_optimizer"),
    *("dtype", "moe_token_dispatcher_type", "moe_flex_dispatcher_backend"),
)
_LAST = ("routing",)
WORDED: tuple[Key, ...] = tuple(
    KEYS[name]
    for name in (*_FIRST, *(name for name in KEYS if name not in (*_FIRST, *_LAST)), *_LAST)
    if name in KEYS and name not in IN_BASE
)
"""Keys that may have a word in an id, in the order of their words."""
