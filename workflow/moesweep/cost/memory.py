"""Device memory of a rank: weights, gradients, optimizer state, activations (docs/costs.md, "Memory").

Activations per layer follow Korthikanti et al. 2022 (arXiv:2205.05198), section 4, with the widths
of the feed-forward layer, grouped queries and experts written out.
"""

import polars as pl

from moesweep.cost.fold import KEY
from moesweep.shapes.states import state_bytes

_batch, _sequence = pl.col("micro_batch_size"), pl.col("seq_length")
_hidden, _heads, _tp = pl.col("hidden_size"), pl.col("num_attention_heads"), pl.col("tp")
_tokens = _batch * _sequence
_split = pl.when(pl.col("sequence_parallel")).then(_tp).otherwise(1)


def _attention_bytes() -> pl.Expr:
    """Return what a layer's attention keeps, with both norms' inputs and both residuals' masks.

    Outside the linears, per token and hidden element: norm inputs 4, qkv input 2, masks 2. Inside,
    over tp: q, k, v and the output projection's input, 2 each at their widths. Unfused scores: 5 each
    (softmax output, dropout mask, dropout output) unless recomputed.
    """
    mla = pl.col("attention") == "mla"
    head = pl.col("qk_nope_head_dim") + pl.col("qk_rope_head_dim")
    query = pl.when(mla).then(_heads * head).otherwise(_hidden)
    value = pl.when(mla).then(_heads * pl.col("v_head_dim")).otherwise(_hidden)
    kv = _hidden * pl.col("num_query_groups") / _heads
    keys_values = pl.when(mla).then(query + value).otherwise(2 * kv)
    latent = pl.when(mla).then(2 * (pl.col("q_lora_rank") + pl.col("kv_lora_rank"))).otherwise(0)
    outside = (4 + 2 + 2) * _hidden + latent
    inside = 2 * query + 2 * keys_values + 2 * value
    kept = ~pl.col("flash_attention") & (pl.col("recompute") == "none")
    scores = pl.when(kept).then(5 * _heads * _sequence).otherwise(0)
    return (_tokens * (outside / _split + (inside + scores) / _tp)).alias("attention_bytes")


def _mlp_bytes(width: pl.Expr) -> pl.Expr:
    """Return fc1's input, its output and the activation's output: s·b·(2h/t + 4f/t), 6f/t gated."""
    per_width = pl.when(pl.col("gated_mlp")).then(6).otherwise(4)
    return (_tokens * (2 * _hidden / _split + per_width * width / _tp)).alias("mlp_bytes")


_even_rows = pl.col("moe_router_topk") * _tokens / _split * pl.col("etp")
"""The routed rows R of a rank, where all ranks have as many."""


def _expert_bytes(rows: pl.Expr) -> pl.Expr:
    """Return the routed rows R of a rank: as gathered input, fc1 output and activation; 2R·h + 2R·(f/etp)·c.

    c = 2, or 3 gated. The gathered rows are not divided by tp.
    """
    factor = pl.when(pl.col("gated_mlp")).then(6).otherwise(4)
    shared = pl.col("num_shared_experts") * pl.col("moe_ffn_hidden_size")
    expert_bytes = (
        rows.alias("expert_rows") * (2 * _hidden + factor * pl.col("moe_ffn_hidden_size") / pl.col("etp"))
        + _tokens * 2 * _hidden / _split
        + _tokens * factor * shared / _tp
    )
    return expert_bytes.alias("expert_bytes")


def _layer_bytes(moe: bool, rows: pl.Expr = _even_rows) -> tuple[pl.Expr, pl.Expr]:
    """Return what a layer keeps for its backward pass, and the most it holds while it runs."""
    working = _attention_bytes() + (_expert_bytes(rows) if moe else _mlp_bytes(pl.col("ffn_hidden_size")))
    input_only = 2 * _tokens * _hidden / _split
    kept = pl.when(pl.col("recompute") == "full").then(input_only).otherwise(working)
    kind = "moe" if moe else "dense"
    return kept.alias(f"{kind}_layer_kept_bytes"), working.alias(f"{kind}_layer_working_bytes")


def kept_bytes() -> dict[str, pl.Expr]:
    """Return what a micro-batch keeps of each kind of layer, and of the embedding, for its backward pass."""
    return {
        "dense_kept_bytes": _layer_bytes(moe=False)[0],
        "moe_kept_bytes": _layer_bytes(moe=True)[0],
        "embedding_kept_bytes": _embedding_bytes(),
    }


def _embedding_bytes() -> pl.Expr:
    """Return the mask of the embedding's dropout."""
    return _tokens * _hidden / _split


def _in_flight() -> pl.Expr:
    """Return how many of a stage's full sets of layers are alive at once.

    1F1B: min(pp - p, m) micro-batches. Interleaved: min(warm-up + 1, m·v) chunks of 1/v of the layers.
    """
    behind, chunks = pl.col("pp") - pl.col("stage"), pl.col("virtual_pipeline")
    interleaved = 2 * (behind - 1) + (chunks - 1) * pl.col("pp") + 1
    alive = pl.when(chunks > 1).then(interleaved).otherwise(behind)
    in_flight = pl.min_horizontal(alive, pl.col("num_microbatches") * chunks) / chunks
    return in_flight.alias("microbatches_in_flight")


def _activation_bytes(mean_rows: pl.Expr = _even_rows, most_rows: pl.Expr = _even_rows) -> pl.Expr:
    """Return a stage's activations at the peak: layers in flight, embedding mask, head, recomputed layer.

    `mean_rows` and `most_rows` are the expert rows of a rank, over its MoE layers.
    """
    dense_kept, dense_working = _layer_bytes(moe=False)
    moe_kept, moe_working = (
        _layer_bytes(moe=True, rows=mean_rows)[0],
        _layer_bytes(moe=True, rows=most_rows)[1],
    )
    layers = pl.col("dense_layers") * dense_kept + pl.col("moe_layers") * moe_kept
    working = pl.max_horizontal(
        pl.when(pl.col("dense_layers") > 0).then(dense_working).otherwise(0),
        pl.when(pl.col("moe_layers") > 0).then(moe_working).otherwise(0),
    )
    mask = pl.when(pl.col("stage") == 0).then(_embedding_bytes()).otherwise(0)
    head = 4 * _tokens * _hidden / _split + 4 * _tokens * pl.col("padded_vocab_size") / _tp
    return (
        _in_flight() * (layers + mask)
        + pl.when(pl.col("recompute") == "full").then(working).otherwise(0)
        + pl.when(pl.col("stage") == pl.col("pp") - 1).then(head).otherwise(0)
    )


def contents_of_a_stage() -> dict[str, pl.Expr]:
    """Return the parameters that a rank holds and those it updates, and its layers, over its folded ops.

    The optimizer row of a program gives the parameters (m, n); the layers are counted from their
    core attention.
    """
    adam = pl.col("op") == "adam"
    layer = (pl.col("op") == "core_attention") & (pl.col("phase") == "forward")
    return {
        "parameters": pl.col("m").filter(adam).sum(),
        "owned": pl.col("n").filter(adam).sum(),
        "dense_layers": pl.col("repeats").filter(layer & (pl.col("layer_kind") == "dense")).sum(),
        "moe_layers": pl.col("repeats").filter(layer & (pl.col("layer_kind") != "dense")).sum(),
    }


def bytes_of_a_stage() -> dict[str, pl.Expr]:
    """Return the parts of a rank's memory, over the contents of its stage and its workload."""
    parts = {
        **state_bytes(pl.col("parameters"), pl.col("owned")),
        "activations_bytes": _activation_bytes(),
    }
    return {name: part.cast(pl.Float64) for name, part in parts.items()}


def activations_of_the_fullest() -> dict[str, pl.Expr]:
    """Return the activations where routing is given, over `bytes_of_a_stage` and `fullest_ranks`' columns."""
    uneven = _activation_bytes(pl.col("mean_rows"), pl.col("most_rows"))
    return {"activations_bytes": uneven.cast(pl.Float64)}


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
        folded.group_by(KEY[:2], maintain_order=True)
        .agg(**contents_of_a_stage())
        .join(workloads, on="workload", maintain_order="left")
        .with_columns(**bytes_of_a_stage())
    )
    if fullest is not None:
        uneven = activations_of_the_fullest()["activations_bytes"]
        stages = (
            stages.join(fullest, on=KEY[:2], how="left", maintain_order="left")
            .with_columns(activations_bytes=pl.coalesce(uneven, "activations_bytes"))
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
