"""Programs folded to their distinct ops, and costed ops unfolded onto the programs again."""

import polars as pl

KEY = ["workload", "stage", "phase", "op", "layer_kind"]
"""What tells the distinct ops of a program apart."""


def with_layer_kind(programs: pl.DataFrame) -> pl.DataFrame:
    """Add `layer_kind`: moe for layers that have a router, dense for others, null outside the layers."""
    routed = (
        programs.lazy().filter(pl.col("op") == "router").select("workload", "layer", routed=True).unique()
    )
    kind = (
        pl.when(pl.col("layer") < 0)
        .then(None)
        .when(pl.col("routed"))
        .then(pl.lit("moe"))
        .otherwise(pl.lit("dense"))
    )
    return (
        programs.lazy()
        .join(routed, on=["workload", "layer"], how="left", maintain_order="left")
        .with_columns(layer_kind=kind)
        .drop("routed")
        .collect()
    )


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
