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
