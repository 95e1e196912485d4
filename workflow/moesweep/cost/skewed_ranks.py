"""What given routing changes of a cost besides the op rows, which are those of the busiest ranks already."""

import polars as pl


def fullest_ranks(programs: pl.DataFrame, routing: pl.DataFrame) -> pl.DataFrame:
    """Return workload, stage, mean_rows, most_rows, computed_rows: the expert rows of each stage's ranks.

    From the tables `programs` and `routing` of workloads with a given routing. Activations of all layers
    are alive together, so the fullest rank is that with most rows over the stage's layers; `mean_rows` are
    its rows a layer, `most_rows` the most of any rank in one layer, `computed_rows` the mean of all.
    """
    layers = programs.filter(pl.col("op") == "router").select("workload", "layer", "stage").unique()
    return (
        routing.group_by("workload", "layer", "ep_rank", maintain_order=True)
        .agg(pl.col("rows").sum())
        .join(layers, on=["workload", "layer"], maintain_order="left")
        .group_by("workload", "stage", "ep_rank", maintain_order=True)
        .agg(mean_rows=pl.col("rows").mean(), most_rows=pl.col("rows").max())
        .with_columns(ep=pl.len().over("workload", "stage"))
        .group_by("workload", "stage", maintain_order=True)
        .agg(pl.col("mean_rows", "most_rows").max(), **computed_rows())
    )


def computed_rows() -> dict[str, pl.Expr]:
    """Return the mean expert rows of a stage's layers and ep ranks, over the `mean_rows` of each rank."""
    return {"computed_rows": pl.col("mean_rows").sum() / pl.col("ep").first()}


def flops_of(rows: pl.Expr) -> pl.Expr:
    """Return what an expert's forward product over m rows would take over others, over its op row."""
    return pl.col("flops") / pl.max_horizontal(pl.col("m"), 1) * rows


def at_mean_load(folded: pl.DataFrame, fullest: pl.DataFrame | None) -> pl.DataFrame:
    """Return folded programs whose experts have the `computed_rows` of `fullest_ranks`: what a model needs.

    Others wait for the busiest rank, but only it has its rows; copies that a capacity factor drops nobody
    computes. Programs stay as they are where no routing is given.
    """
    if fullest is None:
        return folded
    rows = fullest.select("workload", "stage", "computed_rows")
    forward = (pl.col("kind") == "grouped_gemm") & (pl.col("phase") == "forward")
    of_given = forward & pl.col("computed_rows").is_not_null()
    flops = (
        pl.when(of_given).then(flops_of(pl.col("computed_rows"))).otherwise(pl.col("flops").cast(pl.Float64))
    )
    joined = folded.join(rows, on=["workload", "stage"], how="left", maintain_order="left")
    return joined.with_columns(flops=flops).drop("computed_rows")
