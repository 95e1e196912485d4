"""Programs folded to their distinct ops, and costed ops unfolded onto the programs again."""

import polars as pl

from moesweep.shapes.placement import layer_layout

KEY = ["workload", "stage", "phase", "op", "layer_kind"]
"""What tells the distinct ops of a program apart."""


def with_layer_kind(programs: pl.DataFrame) -> pl.DataFrame:
    """Add `layer_kind`: moe for layers that have a router, dense for others, null outside the layers.

    Where a workload's MoE layers are loaded differently, those of each load have a kind of their own:
    `moe 1`, `moe 2`, ...
    """
    routed = _loads(programs).select("workload", "layer", routed=True, load="load")
    kind = (
        pl.when(pl.col("layer") < 0)
        .then(None)
        .when(pl.col("load") > 0)
        .then(pl.format("moe {}", "load"))
        .when(pl.col("routed"))
        .then(pl.lit("moe"))
        .otherwise(pl.lit("dense"))
    )
    return (
        programs.lazy()
        .join(routed, on=["workload", "layer"], how="left", maintain_order="left")
        .with_columns(layer_kind=kind)
        .drop("routed", "load")
        .collect()
    )


def _loads(programs: pl.DataFrame) -> pl.LazyFrame:
    """Return workload, layer and load of every MoE layer: 0 where all are alike, else a number from 1.

    Layers with the same rows in the experts and the same routed copies have the same load.
    """
    forward = programs.lazy().filter(pl.col("phase") == "forward")
    differs = pl.col("rows", "bytes").n_unique().over("workload")
    load = pl.struct("rows", "bytes").rank("dense").over("workload").cast(pl.Int64)
    return (
        forward.filter(pl.col("op").is_in(["expert_fc1", "permute"]))
        .group_by("workload", "layer", maintain_order=True)
        .agg(rows=pl.col("m").max(), bytes=pl.col("hbm_bytes").max())
        .with_columns(load=pl.when(pl.max_horizontal(differs) > 1).then(load).otherwise(0))
    )


def layers_of(programs: pl.DataFrame, workloads: pl.DataFrame) -> pl.DataFrame:
    """Return rows of `layer_layout` whose kinds are those of the programs: loads of MoE layers told apart."""
    named = with_layer_kind(programs).filter(pl.col("layer") >= 0)
    kinds = named.select("workload", "layer", "layer_kind").unique(maintain_order=True)
    layout = layer_layout(workloads).drop("layer_kind")
    return kinds.join(layout, on=["workload", "layer"], maintain_order="left")


def fold(programs: pl.DataFrame) -> pl.DataFrame:
    """Return one row per distinct op of a stage, with `repeats`, the number of layers that run it."""
    return (
        with_layer_kind(programs)
        .group_by(KEY, maintain_order=True)
        .agg(pl.exclude("op_index", "layer").first(), repeats=pl.len().cast(pl.Int64))
    )


def unfold(programs: pl.DataFrame, costed: pl.DataFrame) -> pl.DataFrame:
    """Return the programs with the `seconds` and `bound` of their folded ops, in program order."""
    return with_layer_kind(programs).join(
        costed.select(*KEY, "seconds", "bound"), on=KEY, how="left", nulls_equal=True, maintain_order="left"
    )
