"""Programs folded to their distinct ops, and costed ops unfolded onto the programs again."""

import polars as pl

from moesweep.shapes.layer_kinds import KEPT
from moesweep.shapes.placement import layer_layout

KEY = ["workload", "stage", "phase", "op", "layer_kind"]
"""What tells the distinct ops of a program apart."""


def with_layer_kind(programs: pl.DataFrame) -> pl.DataFrame:
    """Add `layer_kind`: the kind of moesweep.shapes.layer_kinds, null outside the layers.

    What a layer runs says its kind: experts have a router, a windowed core attention fewer keys than queries,
    multi-token prediction a projection; it is kept whole where others of the decoder run again. Where a
    workload's MoE layers are loaded differently, those of each load have a kind of their own: `moe 1`, ...
    Programs that have the column already stay as they are.
    """
    if "layer_kind" in programs.columns:
        return programs
    return (
        programs.lazy()
        .join(_kinds(programs), on=["workload", "layer"], how="left", maintain_order="left")
        .collect()
    )


def _kinds(programs: pl.DataFrame) -> pl.LazyFrame:
    """Return workload, layer and layer_kind of every layer.

    Layers with the same rows in the experts and the same routed copies have the same load.
    """
    op = pl.col("op")
    telling = op.is_in(["core_attention", "router", "permute", "expert_fc1", "mtp_projection"])
    again = op == "recompute_attention_residual"
    rows = programs.lazy().filter(((pl.col("phase") == "forward") & telling) | again)
    differs = pl.col("rows", "bytes").n_unique().over("workload", "routed")
    load = pl.struct("rows", "bytes").rank("dense").over("workload", "routed").cast(pl.Int64)
    kept = ~pl.col("again") & ~pl.col("predicts") & pl.col("again").any().over("workload")
    kind = pl.format(
        "{}{}{}{}",
        pl.when("predicts").then(pl.lit("mtp_")).otherwise(pl.lit("")),
        pl.when("routed").then(pl.lit("moe")).otherwise(pl.lit("dense")),
        pl.when("windowed").then(pl.lit("_window")).otherwise(pl.lit("")),
        pl.when(kept).then(pl.lit(KEPT)).otherwise(pl.lit("")),
    )
    several = pl.col("routed") & (pl.max_horizontal(differs) > 1)
    return (
        rows.group_by("workload", "layer", maintain_order=True)
        .agg(
            routed=(op == "router").any(),
            windowed=((op == "core_attention") & (pl.col("n") < pl.col("m"))).any(),
            predicts=(op == "mtp_projection").any(),
            again=again.any(),
            rows=pl.col("m").filter(op == "expert_fc1").max(),
            bytes=pl.col("hbm_bytes").filter(op == "permute").max(),
        )
        .with_columns(kind=kind)
        .select(
            "workload",
            "layer",
            layer_kind=pl.when(several).then(pl.format("{} {}", "kind", load)).otherwise("kind"),
        )
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
