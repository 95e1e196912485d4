"""Where the layers of a model stand: which stage of the pipeline holds which, in which of its chunks."""

import polars as pl


def layer_layout(workloads: pl.DataFrame) -> pl.DataFrame:
    """Return workload, layer, layer_kind, stage and chunk: which stage holds which layer.

    L layers over q = pp·v virtual stages: ⌊L/q⌋ each, the remainder one each to the middle ones,
    as the first and last also hold the embedding and the head. Virtual stage c·pp + p is chunk c
    of stage p (Megatron's interleaved assignment).
    """
    virtual_stages = pl.col("pp") * pl.col("virtual_pipeline")
    base, rest = pl.col("num_layers") // virtual_stages, pl.col("num_layers") % virtual_stages
    before = (virtual_stages - rest) // 2
    layer = pl.col("layer")
    long_from, long_to = before * base, before * base + rest * (base + 1)
    virtual_stage = (
        pl.when(layer < long_from)
        .then(layer // base)
        .when(layer < long_to)
        .then(before + (layer - long_from) // (base + 1))
        .otherwise(before + rest + (layer - long_to) // base)
    )
    is_moe = (pl.col("kind") == "moe") & (layer >= pl.col("first_k_dense"))
    return (
        workloads.with_columns(layer=pl.int_ranges(0, "num_layers", dtype=pl.Int64))
        .explode("layer")
        .with_columns(virtual_stage=virtual_stage)
        .select(
            "workload",
            "layer",
            layer_kind=pl.when(is_moe).then(pl.lit("moe")).otherwise(pl.lit("dense")),
            stage=pl.col("virtual_stage") % pl.col("pp"),
            chunk=pl.col("virtual_stage") // pl.col("pp"),
        )
    )


READS = ("kind", "num_layers", "pp", "virtual_pipeline", "first_k_dense")
"""The columns of a workload that place its layers."""

ENDS = ("first", "last")
"""What a chunk runs besides layers: embedding and head."""

ARRIVALS = ("recv_forward", "recv_backward")
"""Messages that a chunk waits for."""


KINDS = ("dense", "moe")
"""Kinds of layers that every stage is asked for, be there any or not."""


def kinds_of(layers: pl.DataFrame) -> list[str]:
    """Return the kinds of layers that some rows of `layer_layout` tell apart, KINDS first."""
    found = layers["layer_kind"].unique(maintain_order=True).to_list()
    return [*KINDS, *(kind for kind in found if kind not in KINDS)]


def chunk_contents(workloads: pl.DataFrame, layers: pl.DataFrame) -> pl.DataFrame:
    """Return one row a chunk, stage by stage: workload, stage, chunk, layers by kind, ENDS and ARRIVALS.

    `layers` are rows of `layer_layout`, whatever kinds of layers it tells apart. The first chunk of the first
    stage and the last chunk of the last stage have no neighbour that sends to them.
    """
    first = (pl.col("stage") == 0) & (pl.col("chunk") == 0)
    last = (pl.col("stage") == pl.col("pp") - 1) & (pl.col("chunk") == pl.col("virtual_pipeline") - 1)
    kinds = kinds_of(layers)
    held = layers.group_by("workload", "stage", "chunk").agg(
        (pl.col("layer_kind") == kind).sum().cast(pl.Int64).alias(kind) for kind in kinds
    )
    several = pl.col("pp") > 1
    return (
        workloads.select(
            "workload",
            "pp",
            "virtual_pipeline",
            stage=pl.int_ranges(0, "pp", dtype=pl.Int64),
            chunk=pl.int_ranges(0, "virtual_pipeline", dtype=pl.Int64),
        )
        .explode("stage")
        .explode("chunk")
        .join(held, on=["workload", "stage", "chunk"], how="left", maintain_order="left")
        .select(
            "workload",
            "stage",
            "chunk",
            *(pl.col(kind).fill_null(0) for kind in kinds),
            first=first.cast(pl.Int64),
            last=last.cast(pl.Int64),
            recv_forward=(several & ~first).cast(pl.Int64),
            recv_backward=(several & ~last).cast(pl.Int64),
        )
    )


def alike(chunks: pl.DataFrame) -> pl.DataFrame:
    """Return workload and `alike`: whether its stages hold as many layers of each kind, in one chunk."""
    kinds = [name for name in chunks.columns if name not in ("workload", "stage", "chunk", *ENDS, *ARRIVALS)]
    same = [pl.col(kind).n_unique() == 1 for kind in kinds]
    one = pl.col("chunk").max() == 0
    return chunks.group_by("workload", maintain_order=True).agg(alike=pl.all_horizontal(one, *same))
