"""Who sends how much: collectives and messages by op and by group kind."""

import polars as pl

from moesweep.shapes.communication import COMM_KINDS
from moesweep.tables.results import COMMUNICATION, Inputs, per_iteration, seconds_per_iteration


def communication(inputs: Inputs) -> pl.DataFrame:
    """Return what each communication op moves in one iteration: over all ranks, and for the mean rank.

    Every stage has world_size / pp ranks and each of them runs the stage's program, so
    all ranks = world_size / pp · sum over stages; per rank = sum over stages / pp. Where routing is given,
    ranks move different bytes, which are summed over their traces; seconds stay those of the fullest rank,
    for which the others wait.
    """
    stage_ranks = (pl.col("world_size") // pl.col("pp")).first()
    ranks = stage_ranks.cast(pl.Int128)
    executions = per_iteration(pl.lit(1)).sum()
    comm, wire = (per_iteration(pl.col(name)).sum() for name in ("comm_bytes", "wire_bytes"))
    return (
        inputs.ops.filter(pl.col("collective").is_not_null())
        .join(inputs.workloads.select("workload", "world_size", "pp"), on="workload", maintain_order="left")
        .group_by(COMMUNICATION, maintain_order=True)
        .agg(
            ranks=stage_ranks * pl.col("stage").n_unique(),
            executions=(executions * ranks).cast(pl.Int64),
            comm_bytes=pl.col("comm_bytes").max(),
            total_comm_bytes=(comm * ranks).cast(pl.Float64),
            total_wire_bytes=(wire * ranks).cast(pl.Float64),
            executions_per_rank=executions.cast(pl.Float64) / pl.col("pp").first(),
            wire_bytes_per_rank=wire.cast(pl.Float64) / pl.col("pp").first(),
            seconds_per_rank=seconds_per_iteration().sum() / pl.col("pp").first(),
        )
        .pipe(_of_all_ranks, inputs)
        .pipe(_in_catalogue_order, inputs, "phase")
    )


def _of_all_ranks(frame: pl.DataFrame, inputs: Inputs) -> pl.DataFrame:
    """Put the sums over all ranks where routing is given."""
    if inputs.sent is None:
        return frame
    world = inputs.workloads.select("workload", "world_size")
    wire = pl.col("all_wire_bytes").cast(pl.Float64)
    return (
        frame.join(inputs.sent, on=COMMUNICATION, how="left", maintain_order="left")
        .join(world, on="workload", maintain_order="left")
        .with_columns(
            total_comm_bytes=pl.coalesce(pl.col("all_comm_bytes").cast(pl.Float64), "total_comm_bytes"),
            total_wire_bytes=pl.coalesce(wire, "total_wire_bytes"),
            wire_bytes_per_rank=pl.coalesce(wire / pl.col("world_size"), "wire_bytes_per_rank"),
        )
        .select(frame.columns)
    )


def communication_by_group(inputs: Inputs) -> pl.DataFrame:
    """Return the traffic of one iteration by kind of communicator and phase, with its share of wire bytes."""
    summed = ("executions", "total_comm_bytes", "total_wire_bytes", "executions_per_rank")
    wire = pl.col("total_wire_bytes")
    return (
        communication(inputs)
        .group_by("workload", "group_kind", "phase", maintain_order=True)
        .agg(
            pl.col("group_size").first(),
            pl.col(*summed, "wire_bytes_per_rank", "seconds_per_rank").sum(),
        )
        .with_columns(wire_share=wire / wire.sum().over("workload"))
        .pipe(_in_catalogue_order, inputs, "group_kind", "phase")
    )


def wire_bytes_per_rank(inputs: Inputs, prefix: str) -> pl.DataFrame:
    """Return workload and `<prefix>_<kind>_wire_bytes` of the mean rank by kind, small kinds as `other`."""
    named = pl.col("group_kind").is_in(COMM_KINDS[:-1])
    kinds = pl.when(named).then(pl.col("group_kind").cast(pl.String)).otherwise(pl.lit("other"))
    traffic = communication(inputs).with_columns(kind=kinds)
    columns = {
        f"{prefix}_{kind}_wire_bytes": pl.col("wire_bytes_per_rank").filter(pl.col("kind") == kind).sum()
        for kind in COMM_KINDS
    }
    total = {f"{prefix}_wire_bytes": pl.col("wire_bytes_per_rank").sum()}
    return traffic.group_by("workload", maintain_order=True).agg(**columns, **total)


def _in_catalogue_order(frame: pl.DataFrame, inputs: Inputs, *then: str) -> pl.DataFrame:
    """Return the rows in the order of the catalogue, then of the named columns, then as they come."""
    order = inputs.workloads.select("workload").with_row_index("_order")
    ordered = frame.join(order, on="workload", maintain_order="left")
    return ordered.sort("_order", *then, maintain_order=True).drop("_order")
