"""One workload: its columns, its derived numbers, its id, its dense twin.

A frame of workloads, one row each, is also the configuration frame of every later layer.
"""

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from moesweep.shapes.parallelism import dp_size, edp_size

_I64, _BOOL, _TEXT = pl.Int64(), pl.Boolean(), pl.String()

SCHEMA: dict[str, pl.DataType] = {
    "workload": _TEXT,
    "kind": _TEXT,
    "twin": _TEXT,
    "listed": _I64,
    "model": _TEXT,
    **dict.fromkeys(("world_size", "tp", "pp", "ep", "etp", "dp", "edp"), _I64),
    **dict.fromkeys(("micro_batch_size", "global_batch_size", "seq_length", "num_microbatches"), _I64),
    **dict.fromkeys(("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads"), _I64),
    **dict.fromkeys(("num_query_groups", "vocab_size", "padded_vocab_size"), _I64),
    "gated_mlp": _BOOL,
    "normalization": _TEXT,
    "position_embedding": _TEXT,
    "tied_embeddings": _BOOL,
    **dict.fromkeys(("num_experts", "moe_router_topk", "moe_ffn_hidden_size"), _I64),
    **dict.fromkeys(("num_shared_experts", "first_k_dense"), _I64),
    "attention": _TEXT,
    **dict.fromkeys(
        ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), _I64
    ),
    "virtual_pipeline": _I64,
    "sequence_parallel": _BOOL,
    "recompute": _TEXT,
    "flash_attention": _BOOL,
    "distributed_optimizer": _BOOL,
    "dtype": _TEXT,
    "framework": _TEXT,
    "blocking_launches": _BOOL,
    "routing": _TEXT,
}
"""Every column of results/workloads.parquet, in order; schemas/workload.schema.json says what each means."""

DERIVED = ("workload", "kind", "twin", "dp", "edp", "num_microbatches", "padded_vocab_size")
GIVEN = tuple(column for column in SCHEMA if column not in DERIVED)
"""Columns that a sweep and the catalogue give; `resolve` computes the others."""

VOCABULARY_MULTIPLE = 128
"""Megatron pads the vocabulary to a multiple of this times tp."""

_MOE_COLUMNS = (
    "num_experts",
    "moe_router_topk",
    "moe_ffn_hidden_size",
    "num_shared_experts",
    "first_k_dense",
)


def resolve(given: list[dict[str, Any]]) -> pl.DataFrame:
    """Workloads with all their columns from dicts with the GIVEN ones; twin is null.

    Sizes that do not divide are rounded down here, but never to 0, so that any positive input has a row for
    validation to judge.
    """
    schema = {column: SCHEMA[column] for column in GIVEN}
    return with_derived(pl.DataFrame(given, schema=schema, orient="row"))


def derivations() -> dict[str, pl.Expr]:
    """How the derived counts follow from the other columns: dp, edp, num_microbatches, padded_vocab_size.

    num_microbatches = global_batch_size / (micro_batch_size * dp); padded_vocab_size = vocab_size rounded up
    to a multiple of 128 * tp.
    """
    multiple = VOCABULARY_MULTIPLE * pl.col("tp")
    microbatches = pl.col("global_batch_size") // (pl.col("micro_batch_size") * pl.col("dp"))
    return {
        "dp": pl.max_horizontal(dp_size(), 1),
        "edp": pl.max_horizontal(edp_size(), 1),
        "num_microbatches": pl.max_horizontal(microbatches, 1),
        "padded_vocab_size": (pl.col("vocab_size") + multiple - 1) // multiple * multiple,
    }


def with_derived(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame of GIVEN columns with the DERIVED ones computed, in the order of SCHEMA.

    A dense workload's MoE columns become 0, its etp tp and its routing, if it was given, balanced; an
    expert's FFN width of 0 becomes ffn_hidden_size.
    """
    derived = derivations()
    moe = pl.col("num_experts") > 0
    width = pl.col("moe_ffn_hidden_size")
    expert_width = pl.when(width == 0).then(pl.col("ffn_hidden_size")).otherwise(width)
    frame = frame.with_columns(
        pl.when(moe).then(pl.lit("moe")).otherwise(pl.lit("dense")).alias("kind"),
        pl.lit(None, pl.String).alias("twin"),
        pl.when(moe).then("etp").otherwise("tp").alias("etp"),
        expert_width.alias("moe_ffn_hidden_size"),
        # Without experts there is nothing to give: so twins of differently routed workloads are one.
        pl.when(moe | (pl.col("routing") == "uncontrolled"))
        .then("routing")
        .otherwise(pl.lit("balanced"))
        .alias("routing"),
        derived["dp"].alias("dp"),
        derived["padded_vocab_size"].alias("padded_vocab_size"),
    )
    return frame.with_columns(
        *(pl.when(moe).then(column).otherwise(0).alias(column) for column in _MOE_COLUMNS),
        derived["edp"].alias("edp"),
        derived["num_microbatches"].alias("num_microbatches"),
        workload_id().alias("workload"),
    ).select(*SCHEMA)


def workload_id() -> pl.Expr:
    """The id, `{model}-ws{W}-tp{t}-pp{p}-ep{e}-gbs{B}-mbs{b}-seq{s}-{moe|dense}`."""
    return pl.format(
        "{}-ws{}-tp{}-pp{}-ep{}-gbs{}-mbs{}-seq{}-{}",
        *(
            "model",
            "world_size",
            "tp",
            "pp",
            "ep",
            "global_batch_size",
            "micro_batch_size",
            "seq_length",
            "kind",
        ),
    )


def dense_twins(frame: pl.DataFrame) -> pl.DataFrame:
    """The dense twin of each MoE workload of `frame`, row for row.

    A twin keeps world, tp, pp, batches, sequence and options, and has ep 1 and a standard MLP. The sweep does
    not list it, so `listed` is 0.
    """
    moe = frame.filter(pl.col("kind") == "moe")
    return with_derived(
        moe.with_columns(
            pl.lit(1, pl.Int64).alias("ep"),
            pl.lit(0, pl.Int64).alias("num_experts"),
            pl.lit(0, pl.Int64).alias("listed"),
        )
    )


def description(row: Mapping[str, Any]) -> str:
    """One workload as JSON text: what its trace depends on, so not its twin, nor how often it is listed."""
    return json.dumps({key: row[key] for key in row if key not in ("listed", "twin")}, sort_keys=True)
