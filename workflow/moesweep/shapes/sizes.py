"""The quantities of one rank's share of the work, as polars expressions over a workload's columns.

Symbols in comments: b micro-batch, s sequence, h hidden, a heads, V padded vocabulary, t tp, c cp, e ep,
E experts, k top-k. A bf16 or fp16 element is 2 bytes.
"""

from dataclasses import dataclass

import polars as pl

from moesweep.shapes.communication import GROUP_KINDS

ELEMENT_BYTES = 2

tp, pp, cp, ep, etp = (pl.col(name) for name in ("tp", "pp", "cp", "ep", "etp"))
dp, edp, world = (pl.col(name) for name in ("dp", "edp", "world_size"))
replicas = dp * cp
"""Ranks that hold the same dense parameters."""
batch = pl.col("micro_batch_size")
sequence = pl.col("seq_length")
hidden = pl.col("hidden_size")
heads = pl.col("num_attention_heads")
experts = pl.col("num_experts")
topk = pl.col("moe_router_topk")
expert_groups, taken_groups = pl.col("moe_router_num_groups"), pl.col("moe_router_group_topk")
in_groups = expert_groups > 0
"""Whether a token's experts lie in some groups of all."""

_balancing = pl.col("moe_router_load_balancing_type")
has_balancing_loss = _balancing != "none"
counts_globally = _balancing == "global_aux_loss"
"""Whether a loss counts the tokens of all ranks of a stage, and of the micro-batches before."""
biases_experts = pl.col("moe_router_enable_expert_bias")
"""Whether experts are chosen by scores with a bias, which follows how many tokens they got."""
balanced_sequences = pl.when(_balancing == "seq_aux_loss").then(batch).otherwise(1)
"""For how many lots of tokens a loss counts what experts get: for each sequence of its own, or all as one."""

microbatches = pl.col("num_microbatches")
chunks = pl.col("virtual_pipeline")

gated = pl.col("gated_mlp")
fused_activation = pl.col("bias_activation_fusion")
hidden_dropout = pl.col("hidden_dropout") > 0
attention_dropout = pl.col("attention_dropout") > 0
linear_bias = pl.col("add_bias_linear")
query_key_norms = pl.col("qk_layernorm")
mla = pl.col("attention") == "mla"
norms_heads, norms_latents = query_key_norms & ~mla, query_key_norms & mla
norms_across = norms_heads & pl.col("qk_layernorm_across_heads")
qkv_bias = (linear_bias | pl.col("add_qkv_bias")) & ~mla
flash = pl.col("flash_attention")
learned_positions = pl.col("position_embedding") == "learned"
tied = pl.col("tied_embeddings")
sharded_optimizer = pl.col("distributed_optimizer")
sequence_parallel = pl.col("sequence_parallel") & (tp > 1)
plain_tensor_parallel = ~pl.col("sequence_parallel") & (tp > 1)

own_sequence = sequence // cp  # s/c: two of the 2c chunks of a sequence, one from either end
tokens = (batch * own_sequence).alias("tokens")  # b·s/c, the tokens of one micro-batch that a rank has
split = pl.when(sequence_parallel).then(tp).otherwise(1)
local_tokens = (tokens // split).alias("local_tokens")  # b·s/(c·t) under sequence parallelism
activation_bytes = (ELEMENT_BYTES * tokens * hidden).alias("activation_bytes")  # T: one full activation
vocabulary = (pl.col("padded_vocab_size") // tp).alias("vocabulary_slice")  # V/t, this rank's slice

# Widths of the attention projections, all heads together. Multi-latent attention (DeepSeek-V2,
# arXiv:2405.04434 section 2.1) has its own head sizes.
head_dim = pl.col("head_dim")  # d
groups = pl.col("num_query_groups")  # g
q_latent, kv_latent = pl.col("q_lora_rank"), pl.col("kv_lora_rank")
qk_head = pl.col("qk_nope_head_dim") + pl.col("qk_rope_head_dim")
query_width = pl.when(mla).then(heads * qk_head).otherwise(heads * head_dim)  # a·d
value_width = pl.when(mla).then(heads * pl.col("v_head_dim")).otherwise(heads * head_dim)
# Flash attention has one head size: values are padded to the width of queries.
core_value_width = pl.when(mla & flash).then(query_width).otherwise(value_width)
kv_width = groups * head_dim  # g·d
qkv_width = query_width + 2 * kv_width  # (a + 2g)·d
kv_up_width = heads * (pl.col("qk_nope_head_dim") + pl.col("v_head_dim"))
kv_down_width = kv_latent + pl.col("qk_rope_head_dim")
compresses_queries = mla & (q_latent > 0)
gathers_qkv = ~mla & (tp > groups) & (tp % groups == 0)
"""tp is a multiple of the query groups: each rank gathers all of qkv and keeps whole keys of one group."""

_rank_kv = pl.when(gathers_qkv).then(head_dim).otherwise(kv_width // tp)
rank_query_width = query_width // tp
rank_key_width = pl.when(mla).then(query_width // tp).otherwise(_rank_kv)
rank_value_width = pl.when(mla).then(value_width // tp).otherwise(_rank_kv)
window = pl.col("window_keys")
"""Keys that a query of a windowed layer sees, itself among them."""

gradient_bytes = pl.when(pl.col("grad_reduce_in_fp32")).then(4).otherwise(2)
"""What a gradient takes in memory and on the wire: Megatron sums those of bf16 in fp32 unless told."""

_moments = [
    pl.when(pl.col(f"{name}_dtype") == "fp32").then(4).otherwise(2) for name in ("exp_avg", "exp_avg_sq")
]
moment_bytes = _moments[0] + _moments[1]
"""What both moments of a parameter take."""

MODULES = ("core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts")
"""What selective recomputation may repeat (Megatron `transformer_config.py`, recompute_modules)."""


def _names(column: str, word: str) -> pl.Expr:
    """Return whether a column of words with + between has one of them."""
    return pl.format("+{}+", column).str.contains(f"+{word}+", literal=True)


def repeats(module: str) -> pl.Expr:
    """Return whether a backward pass repeats one of MODULES: recomputation is selective and names it."""
    return (pl.col("recompute") == "selective") & _names("recompute_modules", module)


OFFLOADED = ("attn_norm", "qkv_linear", "core_attn", "attn_proj", "mlp_norm", "expert_fc1", "moe_act")
"""Whose activations may go to the host (Megatron `transformer_config.py`, offload_modules)."""


def keeps_on_host(module: str) -> pl.Expr:
    """Return whether what one of OFFLOADED saves goes to the host."""
    return pl.col("fine_grained_activation_offloading") & _names("offload_modules", module)


SCOPES = ("attn", "mlp", "moe", "moe_router", "moe_preprocess")
"""What of a layer CUDA graphs may hold: attention, a dense MLP, experts, or of these what comes before tokens
are exchanged (Megatron `transformer_config.py`, cuda_graph_scope)."""

uses_graphs = pl.col("cuda_graph_impl") != "none"
graphs_layers = pl.col("cuda_graph_scope") == "layer"


def graphs(part: str) -> pl.Expr:
    """Return whether CUDA graphs hold one of SCOPES: by name, or as part of a whole layer."""
    return uses_graphs & (graphs_layers | _names("cuda_graph_scope", part))


recomputes_layers = pl.col("recompute") == "full"
in_blocks = pl.col("recompute_method") == "block"
"""Full recomputation repeats so many first layers of each chunk, and leaves the others alone."""

together = pl.when(in_blocks).then(1).otherwise(pl.col("recompute_num_layers"))
"""Layers that full recomputation repeats at once, of which it keeps the first one's input alone."""

_router_dtype = pl.col("moe_router_dtype")
widens_router = _router_dtype != "none"
fp64_router = _router_dtype == "fp64"
router_bytes = pl.when(fp64_router).then(8).when(widens_router).then(4).otherwise(ELEMENT_BYTES)
"""What a logit of the router takes, and of a sum over the etp ranks of an expert an element."""

probability_bytes = pl.when(widens_router).then(router_bytes).otherwise(0)
"""What travels with each copy of a token to its expert, where the router's format is given."""

router_cast_bytes = pl.when(fp64_router).then(ELEMENT_BYTES + 8).otherwise(0).alias("router_cast_bytes")
"""What casting an element of the router's input, weight or gradients of these to or from fp64 moves."""

fuses_router = pl.col("moe_router_fusion")
fuses_permutation = pl.col("moe_permute_fusion")
fuses_loss = pl.col("cross_entropy_loss_fusion")
loss_of_engine = fuses_loss & (pl.col("cross_entropy_fusion_impl") == "te")
"""The loss is Transformer Engine's kernel, not Megatron's own."""

scores = (batch * heads * sequence * sequence // tp).alias("scores")  # elements of the rank's score matrices

# How attention sees a sequence that cp ranks share (Transformer Engine's cp_comm_type).
_shares = cp > 1
_way = pl.col("cp_comm_type")
in_two_steps = _way == "a2a+p2p"  # an exchange among some, then rings among the others
heads_split = (
    pl.when(_way == "a2a").then(cp).otherwise(pl.col("cp_a2a"))
)  # ranks that exchange positions for heads
ring = pl.when(_way == "p2p").then(cp).when(in_two_steps).then(cp // pl.col("cp_a2a")).otherwise(1)
passes_keys = ring > 1  # keys and values go round
exchanges_heads = heads_split > 1  # sequences, or longer parts of them, of a part of the rank's heads
gathers_keys = _shares & (_way == "all_gather")

gate = pl.when(gated).then(2).otherwise(1)  # a gated MLP's first layer is twice as wide
ffn = pl.col("ffn_hidden_size")
expert_ffn = pl.col("moe_ffn_hidden_size")
shared_ffn = pl.col("num_shared_experts") * expert_ffn
has_shared_experts = pl.col("num_shared_experts") > 0
shared_expert_gate = pl.col("moe_shared_expert_gate")

local_experts = (experts // ep).alias("local_experts")  # E/e
flex = pl.col("moe_token_dispatcher_type") == "flex"
"""Tokens travel once to each rank, and once to each node, that has any of their experts."""

hybrid = pl.col("moe_flex_dispatcher_backend") == "hybridep"
_own_processors = pl.when(hybrid).then(16).otherwise(20)
_processors = pl.col("moe_flex_dispatcher_num_sms")
dispatcher_processors = pl.when(_processors > 0).then(_processors).otherwise(_own_processors)
"""Multiprocessors that the flex dispatcher's kernels take (Megatron `moe_deepep_num_sms`, …)."""
sorts_experts = local_experts > 1
padded = pl.col("moe_pad_expert_input_to_capacity")
_routed = topk * local_tokens  # k·b·s/t token copies that this rank routes
_of_an_expert = _routed / pl.max_horizontal(experts, 1) * pl.col("moe_expert_capacity_factor")
capacity = _of_an_expert.ceil().cast(pl.Int64).alias("expert_capacity")
"""Rows that a rank sends an expert where all are padded, ⌈f·k·b·s/t/E⌉ (Megatron `get_capacity`)."""

copies = pl.when(padded).then(capacity * experts).otherwise(_routed).alias("token_copies")
needed_share = (
    pl.when(padded)
    .then(pl.min_horizontal(_routed / pl.max_horizontal(capacity * experts, 1), 1.0))
    .otherwise(1.0)
    .alias("needed_share")
)
"""Share of the experts' rows that a model needs: what pads them it does not."""

expert_rows = (copies * etp).alias("expert_rows")  # R: rows in this rank's experts, balanced, all together


@dataclass(frozen=True)
class Rows:
    """Token copies of one rank in one MoE layer.

    sent      those it routes and sends to the members of its EP group, itself among them
    received  those that they send to it
    expert    rows in its experts, with those of the other etp ranks
    own       those it sends to itself, where that is not just 1/e of them
    exchanged those that an exchange moves, where that is more than its rank sends: the busiest one's
    """

    sent: pl.Expr
    received: pl.Expr
    expert: pl.Expr
    own: pl.Expr | None = None
    exchanged: pl.Expr | None = None


BALANCED = Rows(copies, copies, expert_rows)
GIVEN = Rows(pl.col("sent"), pl.col("received"), pl.col("received") * etp, pl.col("own"))
"""Rows over the columns that moesweep.trace.skewed_copies gives a layer and an ep rank."""

expert_in_dense_buffer = (ep == 1) & (etp == tp)

GROUP_SIZE: dict[str, pl.Expr] = dict(
    zip(
        GROUP_KINDS,
        (
            *(tp, etp, ep, replicas, edp, pp, etp * ep, pl.min_horizontal(pp, 2), world),
            *(tp * pp, etp * ep * pp, cp, tp * cp, tp * cp * dp),
            *(pl.col("cp_a2a"), cp // pl.col("cp_a2a")),
        ),
        strict=True,
    )
)
