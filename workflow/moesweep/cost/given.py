"""What given routing changes of a cost besides the op rows, which are those of the busiest ranks already."""

import polars as pl

from moesweep.routing import given


def fullest_ranks(programs: pl.DataFrame, routing: pl.DataFrame) -> pl.DataFrame:
    """Return workload, stage, mean_rows, most_rows: the expert rows of each stage's fullest ep rank.

    From the tables `programs` and `routing` of workloads with a given routing. Activations of all layers
    are alive together, so the fullest rank is that with most rows over the stage's layers; `mean_rows` are
    its rows a layer, `most_rows` the most of any rank in one layer.
    """
    layers = programs.filter(pl.col("op") == "router").select("workload", "layer", "stage").unique()
    return (
        routing.group_by("workload", "layer", "ep_rank")
        .agg(pl.col("rows").sum())
        .join(layers, on=["workload", "layer"])
        .group_by("workload", "stage", "ep_rank")
        .agg(mean_rows=pl.col("rows").mean(), most_rows=pl.col("rows").max())
        .group_by("workload", "stage")
        .agg(pl.col("mean_rows", "most_rows").max())
    )


def mean_rows() -> pl.Expr:
    """Return the mean expert rows of a rank, k·b·s·etp/t, over a workload's columns."""
    split = pl.when(pl.col("sequence_parallel")).then(pl.col("tp")).otherwise(1)
    tokens = pl.col("micro_batch_size") * pl.col("seq_length") // split
    return pl.col("moe_router_topk") * tokens * pl.col("etp")


def flops_of(rows: pl.Expr) -> pl.Expr:
    """Return what an expert's forward product over m rows would take over others, over its op row."""
    return pl.col("flops") / pl.max_horizontal(pl.col("m"), 1) * rows


def at_mean_load(folded: pl.DataFrame, workloads: pl.DataFrame) -> pl.DataFrame:
    """Return folded programs whose experts have the mean rows k·b·s·etp/t: what the model needs of them.

    Nothing is taken off for dropped copies, as nothing is for other work that a framework leaves out.
    """
    uneven = workloads.filter(given)
    if uneven.is_empty():
        return folded
    rows = uneven.select("workload", mean_rows=mean_rows())
    forward = (pl.col("kind") == "grouped_gemm") & (pl.col("phase") == "forward")
    at_mean = flops_of(pl.col("mean_rows"))
    return (
        folded.join(rows, on="workload", how="left", maintain_order="left")
        .with_columns(
            flops=pl.when(forward & pl.col("mean_rows").is_not_null())
            .then(at_mean)
            .otherwise(pl.col("flops").cast(pl.Float64))
        )
        .drop("mean_rows")
    )
