"""Device memory of a rank: parameters' states, activations and workspace (docs/costs.md, "Memory").

Activations per layer follow Korthikanti et al. 2022 (arXiv:2205.05198), section 4, with the widths
of the feed-forward layer, grouped queries and experts written out.
"""

import polars as pl

from moesweep.cost.fold import KEY
from moesweep.cost.offloading import freed_activations
from moesweep.cost.sharding import whole_beside_shards
from moesweep.cost.workspace import LOGIT_BYTES, workspace_bytes
from moesweep.shapes import sizes as s
from moesweep.shapes.expressions import Part, exact, in_place
from moesweep.shapes.layer_kinds import DECODER, KINDS, PREDICTING, has_experts, is_kept, is_predicting
from moesweep.shapes.offloading import offloads_activations
from moesweep.shapes.placement import predicts_apart
from moesweep.shapes.precision import delayed, fp8, saved_again_bytes, saved_bytes
from moesweep.shapes.recomputed import is_recomputed
from moesweep.shapes.schedule import sets_in_flight
from moesweep.shapes.states import state_bytes
from moesweep.shapes.weights import layers_of

_local = s.tokens / s.split
"""Tokens of a micro-batch that a rank holds between its tensor-parallel regions."""

_input = 2 * _local * s.hidden
"""A layer's input."""

_mask = pl.when(s.hidden_dropout).then(1).otherwise(0)


def _attention_bytes() -> pl.Expr:
    """Return what a layer's attention makes, with both norms' inputs and both residuals' masks.

    Outside the linears, per token and hidden element: norm inputs 4, qkv input 2, masks 2. Inside,
    over tp: q, k, v and the output projection's input, 2 each at their widths. Unfused scores: softmax
    output 2, with dropout its mask 1 and its output 2. Latents and their norms' outputs, and q and k before
    norms of their own, take 2 more each. Where cp ranks exchange heads or gather keys, the kernels' own
    output is another tensor than the projection's input. Inputs of linears are kept in fp8 if they are
    multiplied in it (`saved_bytes`), by each linear of mla for itself.
    """
    raw = 2 * _latents * pl.when(s.norms_latents | _keeps_raw_latents).then(1).otherwise(0)
    outside = (4 + 2 * _mask) * s.hidden + _normed_bytes + raw + saved_bytes * _latents
    query_key = s.rank_query_width + s.rank_key_width
    heads = query_key * pl.when(s.norms_heads).then(2).otherwise(1) + s.rank_value_width
    of_output = pl.when(delayed).then(1).otherwise(2)  # quantised again from what the kernels keep
    inside = 2 * heads + of_output * s.value_width / s.tp + _of_core_attention()
    return (_local * outside + s.tokens * inside).alias("attention_bytes")


_latents = pl.when(s.mla).then(s.q_latent + s.kv_latent).otherwise(0)
_keeps_raw_latents = fp8 & s.repeats("mla_up_proj")
"""Projections that are made again are so from latents in 16 bits."""

_copies = pl.when(fp8 & s.mla).then(2).otherwise(1)
_normed_bytes = (_copies * saved_bytes * s.hidden).alias("normed_input_bytes")
"""The input of the first linears: in fp8 a copy for each."""


def _of_core_attention() -> pl.Expr:
    """Return what core attention itself keeps of a token: its scores, and an output that stands apart."""
    of_score = pl.when(s.attention_dropout).then(5).otherwise(2)
    scores = pl.when(s.flash).then(0.0).otherwise(of_score * s.heads * s.sequence / s.tp)
    stands_apart = s.exchanges_heads | s.gathers_keys | (delayed & s.flash)
    return scores + pl.when(stands_apart).then(2 * s.value_width / s.tp).otherwise(0.0)


def _recomputed_attention_bytes() -> pl.Expr:
    """Return what of it selective recomputation makes again.

    core_attn: scores, and the kernels' output where it stands apart. mla_up_proj: q, k and v, 2 each at their
    widths, and the latents' norms' outputs. layernorm: with mla, where attention's norm is a module of its
    own, its output.
    """
    latents = saved_bytes * pl.when(s.norms_latents | _keeps_raw_latents).then(_latents).otherwise(0)
    heads = s.rank_query_width + s.rank_key_width + s.rank_value_width
    up = pl.when(s.repeats("mla_up_proj")).then(_local * latents + 2 * s.tokens * heads).otherwise(0)
    norm = pl.when(s.repeats("layernorm") & s.mla).then(_local * _normed_bytes).otherwise(0)
    core = pl.when(s.repeats("core_attn")).then(s.tokens * _of_core_attention()).otherwise(0.0)
    return (core + up + norm).alias("recomputed_attention_bytes")


def _of_activation(gelu: int, swiglu: int, unfused_swiglu: int) -> pl.Expr:
    """Return the bytes that an MLP keeps per element of its width: of 16 bits, and of fc2's input."""
    gated = pl.when(s.fused_activation).then(swiglu).otherwise(unfused_swiglu)
    return pl.when(s.gated).then(gated).otherwise(gelu) + saved_bytes


def _mlp_bytes(width: pl.Expr) -> pl.Expr:
    """Return fc1's output and what the activation makes of it: 4f/t a token.

    Gated 6f: both halves and fc2's input; with kernels that are not fused 4 more, silu and the linear half.
    """
    return s.tokens * _of_activation(2, 4, 8) * width / s.tp


_even_rows = pl.when(s.padded).then(s.copies).otherwise(s.topk * _local) * s.etp
"""The routed rows R of a rank, where all ranks have as many."""


def _expert_bytes(rows: pl.Expr) -> pl.Expr:
    """Return what experts keep of their R rows: the gathered input and 6 bytes of the width, R·(2h + 6f/etp).

    GELU: fc1's output, the activation and that times its probability. SwiGLU: fc1's output (4) and fc2's
    input; kernels that are not fused keep silu, linear half and product too (Megatron `experts.py`). The
    gathered rows are not divided by tp. Beside them the router's input and the shared experts.
    """
    gate = pl.when(s.shared_expert_gate).then(2).otherwise(0)
    expert_bytes = (
        rows.alias("expert_rows") * _row_bytes
        + _local * (2 + gate + _shared_input_bytes) * s.hidden
        + _mlp_bytes(s.shared_ffn)
    )
    return expert_bytes.alias("expert_bytes")


_row_bytes = saved_bytes * s.hidden + _of_activation(4, 4, 10) * s.expert_ffn / s.etp
"""What experts keep of a row."""

_shared_input_bytes = pl.when(s.has_shared_experts).then(saved_again_bytes).otherwise(0.0)
"""The input of shared experts, of an element that the router keeps as well."""


def _recomputed_expert_bytes(rows: pl.Expr) -> pl.Expr:
    """Return what of an expert layer's MLP selective recomputation does not keep.

    moe: all but the module's input. moe_act: all but fc1's output, so 4 of GELU's 6 bytes of the width, 2 of
    6 of fused SwiGLU, 8 of 12. shared_experts: what they make. layernorm: the norm's output.
    """
    of_act = _of_activation(2, 0, 6) * s.expert_ffn / s.etp
    routed = pl.when(s.repeats("moe")).then(_row_bytes).when(s.repeats("moe_act")).then(of_act).otherwise(0.0)
    gate = pl.when(s.shared_expert_gate).then(2).otherwise(0)
    inputs = _local * (gate + _shared_input_bytes) * s.hidden
    shared = pl.when(s.repeats("moe") | s.repeats("shared_experts")).then(inputs + _mlp_bytes(s.shared_ffn))
    norm = pl.when(s.repeats("layernorm")).then(2 * _local * s.hidden).otherwise(0)
    return (rows * routed + shared.otherwise(0.0) + norm).alias("recomputed_expert_bytes")


def _recomputed_mlp_bytes() -> pl.Expr:
    """Return all that a dense MLP makes, where it is repeated: its norm, a part of it, keeps the input."""
    made = saved_bytes * _local * s.hidden + _mlp_bytes(s.ffn)
    return pl.when(s.repeats("mlp")).then(made).otherwise(0).alias("recomputed_mlp_bytes")


def _layer_bytes(moe: bool, rows: pl.Expr, again: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Return what a layer keeps for its backward pass, and what it holds more while it runs.

    Full recomputation (`again`) keeps the layer's input, and holds what else the layer makes: its first norm
    works on the very tensor that was kept. Selective recomputation keeps what it does not repeat; attention
    and MLP are repeated one after the other.
    """
    dense = (saved_bytes * _local * s.hidden + _mlp_bytes(s.ffn)).alias("mlp_bytes")
    working = _attention_bytes() + (_expert_bytes(rows) if moe else dense)
    of_attention = _recomputed_attention_bytes()
    of_mlp = _recomputed_expert_bytes(rows) if moe else _recomputed_mlp_bytes()
    kind = "moe" if moe else "dense"
    kept = pl.when(again).then(_input).otherwise(working - of_attention - of_mlp)
    held = pl.when(again).then(working - _input).otherwise(pl.max_horizontal(of_attention, of_mlp))
    return kept.alias(f"{kind}_layer_kept_bytes"), held.alias(f"{kind}_layer_working_bytes")


def kept_bytes() -> dict[str, pl.Expr]:
    """Return what a micro-batch keeps of each kind of layer, and of the embedding, for its backward pass.

    Of layers that are recomputed together it does not keep the `shared_input_bytes`, but for the first one.
    """
    layers = {
        f"{kind}_kept_bytes": _layer_bytes(has_experts(kind), _even_rows, is_recomputed(kind))[0]
        + (_module_bytes() + _with_the_loss(_softmax_bytes()) if kind in PREDICTING else 0)
        for kind in KINDS
    }
    shared = pl.when(s.recomputes_layers).then(_input).otherwise(0)
    return layers | {"embedding_kept_bytes": _embedding_bytes(), "shared_input_bytes": shared}


def _embedding_bytes() -> pl.Expr:
    """Return the mask of the embedding's dropout."""
    return _mask * _local * s.hidden


_in_flight = sets_in_flight(pl.col("stage"))

_dense, _moe = (layers_of(kind for kind in KINDS if has_experts(kind) == moe) for moe in (False, True))


def _apart(moe: bool) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Return a stage's layers with or without experts that are repeated, of them the decoder's, and others.

    Repeated are those that full recomputation, if any, repeats; the decoder's may go together. Where it goes
    by blocks, the others are the last ones of each chunk and those of multi-token prediction.
    """
    own = [kind for kind in KINDS if has_experts(kind) == moe]
    repeated = layers_of(kind for kind in own if kind in DECODER and not is_kept(kind))
    predicting = layers_of(kind for kind in own if is_predicting(kind))
    spared = layers_of(kind for kind in own if is_kept(kind))
    with_prediction = repeated + pl.when(s.in_blocks).then(0).otherwise(predicting)
    return with_prediction, repeated, spared + pl.when(s.in_blocks).then(predicting).otherwise(0)


_repeated_dense, _joined_dense, _spared_dense = _apart(moe=False)
_repeated_moe, _joined_moe, _spared_moe = _apart(moe=True)
_joined_of_a_chunk = (_joined_dense + _joined_moe + s.chunks - 1) // s.chunks


def _activation_bytes(mean_rows: pl.Expr, most_rows: pl.Expr, part: Part) -> pl.Expr:
    """Return a stage's activations at the peak: layers in flight, embedding mask, head, recomputed layer.

    `mean_rows` and `most_rows` are the expert rows of a rank, over its MoE layers.
    """
    again, never = s.recomputes_layers, pl.lit(False)
    dense_kept = part("dense kept", _layer_bytes(False, mean_rows, again)[0])
    dense_working = part("dense working", _layer_bytes(False, mean_rows, again)[1])
    moe_kept = part("moe kept", _layer_bytes(True, mean_rows, again)[0])
    moe_working = part("moe working", _layer_bytes(True, most_rows, again)[1])
    whole_dense = part("whole dense", _layer_bytes(False, mean_rows, never)[0])
    whole_moe = part("whole moe", _layer_bytes(True, mean_rows, never)[0])
    spared = (_spared_dense * whole_dense + _spared_moe * whole_moe).alias("spared_layers_bytes")
    layers = _repeated_dense * dense_kept + _repeated_moe * moe_kept + spared - _shared_inputs(part)
    working = pl.max_horizontal(
        pl.when(_repeated_dense > 0).then(dense_working).otherwise(0),
        pl.when(_repeated_moe > 0).then(moe_working).otherwise(0),
    )
    at_once = working + _others_at_work(whole_dense, whole_moe)
    # Layers that are not recomputed are done with when those before them in their chunk are.
    blocks = s.recomputes_layers & s.in_blocks
    working = pl.max_horizontal(at_once - pl.when(blocks).then(spared / s.chunks).otherwise(0.0), 0.0)
    mask = pl.when(pl.col("stage") == 0).then(part("embedding", _embedding_bytes())).otherwise(0)
    on_host = freed_activations({False: _dense, True: _moe}, _in_flight, mean_rows, part)
    return (
        _in_flight * (layers + mask)
        - pl.when(offloads_activations).then(on_host).otherwise(0.0)
        + pl.when(pl.col("recompute") == "none").then(0).otherwise(working)
        + pl.when(pl.col("stage") == s.pp - 1).then(_at_the_loss(part)).otherwise(0)
        + layers_of(PREDICTING) * _prediction_bytes(part)
    )


def recomputed_together(layers: pl.Expr) -> pl.Expr:
    """Return of how many layers of a chunk full recomputation keeps no input: all but the first of each N."""
    return pl.when(s.recomputes_layers).then(layers - (layers + s.together - 1) // s.together).otherwise(0)


def _shared_inputs(part: Part) -> pl.Expr:
    """Return the inputs of a stage's layers that are not kept, where each chunk holds as many layers."""
    several = pl.when(s.together > 1).then(s.chunks * recomputed_together(_joined_of_a_chunk)).otherwise(0)
    return (several * part("input", _input)).alias("shared_inputs_bytes")


def _others_at_work(dense: pl.Expr, moe: pl.Expr) -> pl.Expr:
    """Return what the other layers hold that are recomputed with one: all that they make, scores among it.

    min(N, layers of a chunk) - 1 like the largest, but no more than the stage has.
    """
    others = pl.min_horizontal(s.together, _joined_of_a_chunk) - 1
    largest = pl.max_horizontal(
        pl.when(_joined_dense > 0).then(dense).otherwise(0),
        pl.when(_joined_moe > 0).then(moe).otherwise(0),
    )
    rest = _joined_dense * dense + _joined_moe * moe - largest
    several = s.recomputes_layers & (s.together > 1) & (_joined_of_a_chunk > 0)
    return pl.when(several).then(pl.min_horizontal(others * largest, rest)).otherwise(0.0)


def _head_bytes() -> pl.Expr:
    """Return the final norm's input and output, and the logits when their loss is computed."""
    return (4 * _local * s.hidden + LOGIT_BYTES * s.tokens * s.vocabulary).alias("head_bytes")


def _module_bytes() -> pl.Expr:
    """Return what a module of multi-token prediction keeps besides its layer, of one micro-batch.

    The embedding with its dropout's mask (2 + 1), the projection's input (4), the final norm's input and
    output (4). Away from the loss that output is freed as it is sent, but the hidden state has arrived (2).
    """
    return (6 + 2 * saved_bytes + _mask) * _local * s.hidden


def _softmax_bytes() -> pl.Expr:
    """Return the softmax of a prediction, 4 bytes a logit, which the model's own loss meets."""
    return 4 * s.tokens * s.vocabulary


def _with_the_loss(size: pl.Expr) -> pl.Expr:
    return pl.when(predicts_apart).then(0).otherwise(size)


def _prediction_bytes(part: Part) -> pl.Expr:
    """Return what modules keep: one micro-batch's where the loss is, before it those of all in flight."""
    in_flight = pl.when(part("apart", predicts_apart)).then(_in_flight).otherwise(1)
    module, softmax = part("module", _module_bytes()), part("softmax", _with_the_loss(_softmax_bytes()))
    return (in_flight * module + softmax).alias("prediction_bytes")


def _at_the_loss(part: Part) -> pl.Expr:
    """Return what the head keeps, and of a prediction from elsewhere what has arrived, and its softmax."""
    arrived = pl.when(predicts_apart).then(2 * _local * s.hidden + _softmax_bytes()).otherwise(0)
    return part("head", _head_bytes()) + part("distant", arrived.alias("distant_prediction_bytes"))


_TELLING = ("adam", "core_attention")
"""The ops that tell what a stage holds."""


def contents_of_a_stage() -> dict[str, pl.Expr]:
    """Return a rank's parameters: held, updated, multiplied in fp8; and its layers, over its folded ops.

    The optimizer row of a program gives the parameters (m, n, k); the layers of each kind are counted from
    their core attention.
    """
    adam, layer = (pl.col("op") == op for op in _TELLING)
    layer &= pl.col("phase") == "forward"
    # Layers of one kind that are loaded differently have a number behind it.
    kind = pl.col("layer_kind").str.splitn(" ", 2).struct[0]
    return {
        "parameters": pl.col("m").filter(adam).sum(),
        "owned": pl.col("n").filter(adam).sum(),
        "quantised": pl.col("k").filter(adam).sum(),
        **{f"{each}_layers": pl.col("repeats").filter(layer & (kind == each)).sum() for each in KINDS},
    }


def bytes_of_a_stage(part: Part = in_place, sharding: bool = True) -> dict[str, pl.Expr]:
    """Return the parts of a rank's memory, over the contents of its stage and its workload.

    `part` is asked of what depends on the workload alone; `sharding` says whether gradients of any workload
    are sharded (`whole_beside_shards`).
    """
    states = state_bytes(pl.col("parameters"), pl.col("owned"), pl.col("quantised"))
    states |= whole_beside_shards(states) if sharding else {}
    own = {name: of_states.cast(pl.Float64) for name, of_states in states.items()}
    return own | _of_passes(_even_rows, _even_rows, part)


def _of_passes(mean_rows: pl.Expr, most_rows: pl.Expr, part: Part) -> dict[str, pl.Expr]:
    parts = {
        "activations_bytes": _activation_bytes(mean_rows, most_rows, part),
        "workspace_bytes": workspace_bytes(_dense > 0, _moe > 0, most_rows, part),
    }
    return {name: of_passes.cast(pl.Float64) for name, of_passes in parts.items()}


def passes_of_the_fullest(part: Part = in_place) -> dict[str, pl.Expr]:
    """Return what passes take where routing is given, over the contents of a stage and its fullest rank."""
    return _of_passes(pl.col("mean_rows"), pl.col("most_rows"), part)


def peak_bytes() -> dict[str, pl.Expr]:
    """Return the sum of the parts."""
    return {"peak_memory_bytes": pl.sum_horizontal(*bytes_of_a_stage())}


def stage_memory(
    folded: pl.DataFrame, workloads: pl.DataFrame, fullest: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return one row per stage: its contents, its workload's columns, and the bytes of its rank.

    `fullest` are the expert rows of the stages' fullest ranks (`fullest_ranks`), where they differ.
    """
    stages = (
        folded.filter(pl.col("op").is_in(_TELLING))
        .group_by(KEY[:2], maintain_order=True)
        .agg(**contents_of_a_stage())
        .join(workloads, on="workload", maintain_order="left")
        .pipe(exact)
        .with_columns(**bytes_of_a_stage())
    )
    if fullest is not None:
        uneven = passes_of_the_fullest()
        stages = (
            stages.join(fullest, on=KEY[:2], how="left", maintain_order="left")
            .with_columns(pl.coalesce(part, name).alias(name) for name, part in uneven.items())
            .drop("mean_rows", "most_rows", "computed_rows")
        )
    return stages.with_columns(**peak_bytes())


def bytes_of_the_fullest() -> dict[str, pl.Expr]:
    """Return the bytes of the rank that needs most, over the stages of a workload."""
    fullest = pl.col("peak_memory_bytes").arg_max()
    return {name: pl.col(name).get(fullest) for name in (*bytes_of_a_stage(), *peak_bytes())}


def worst_rank(stages: pl.DataFrame) -> pl.DataFrame:
    """Return the row of the stage that needs most, per workload."""
    return stages.group_by("workload", maintain_order=True).agg(**bytes_of_the_fullest())
