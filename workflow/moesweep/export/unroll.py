"""The linear order of an iteration: one row per executed op of every rank, streamed to Parquet."""

from collections.abc import Iterable, Iterator

import polars as pl

from moesweep.export.request import UNROLLED, Request, chosen_ranks
from moesweep.export.source import Traced
from moesweep.export.timeline import nanoseconds, optimizer_ops, step_programs, steps
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.shapes.parallelism import ranks
from moesweep.store.tablefile import dtypes, write_table
from moesweep.study.workload import description

_SHARED = [name for name in dtypes("unrolled") if name not in ("rank", "group_id")]
_OWN = ("flops", "comm_bytes")
"""Quantities of an executed op that differ between the ep ranks of a stage where routing is given."""


def by_stage(
    traced: Traced, stages: Iterable[int], microbatches: int | None = None
) -> Iterator[tuple[int, pl.LazyFrame]]:
    """Yield some stages with every op that each executes, in schedule order.

    The columns are the table's but rank and group_id; rows are made only when the frame is collected.
    """
    programs = step_programs(traced)
    scheduled = steps(traced, programs, microbatches)
    final = (
        optimizer_ops(traced, scheduled)
        .rename({"start": "start_nanoseconds", "end": "end_nanoseconds"})
        .with_columns(pl.lit(-1, pl.Int64).alias(name) for name in ("step", "microbatch", "chunk"))
        .select(_SHARED)
    )
    placed = scheduled.select(
        "stage", "step", "microbatch", "chunk", pl.col("phase").cast(programs["phase"].dtype), "start"
    )
    for stage in stages:
        there = pl.col("stage") == stage
        start = pl.col("start") + pl.col("offset")
        ops = (
            placed.lazy()
            .filter(there)
            .join(
                programs.lazy().filter(there),
                on=["stage", "phase", "chunk"],
                how="left",
                maintain_order="left_right",
            )
            .with_columns(start_nanoseconds=start, end_nanoseconds=start + pl.col("nanoseconds"))
            .select(_SHARED)
        )
        yield stage, pl.concat([ops, final.lazy().filter(there)])


def executed(traced: Traced, microbatches: int | None = None) -> pl.DataFrame:
    """Return every op that each stage executes, stage after stage, in schedule order."""
    return pl.concat(ops for _, ops in by_stage(traced, range(traced.workload["pp"]), microbatches)).collect()


def unrolled(traced: Traced, chosen: list[int] | None, microbatches: int | None = None) -> pl.LazyFrame:
    """Return the executed ops of the chosen ranks (None: all), rank after rank, each in schedule order."""
    everyone = ranks(traced.workload)
    if chosen is not None:
        everyone = everyone.filter(pl.col("rank").is_in(chosen))
    stages = everyone["stage"].unique().sort()
    kinds = set(traced.program["group_kind"].drop_nulls().unique())
    rows = pl.concat(
        _of_ranks(everyone.filter(pl.col("stage") == stage), ops, kinds)
        for stage, ops in by_stage(traced, stages, microbatches)
    )
    if not everyone["stage"].is_sorted():
        rows = rows.sort("rank", maintain_order=True)
    return rows if traced.each is None else _with_own(rows, everyone, traced.each)


def _with_own(rows: pl.LazyFrame, everyone: pl.DataFrame, each: pl.DataFrame) -> pl.LazyFrame:
    """Return rows of ranks with their own ep rank's quantities, and the end that their own time makes."""
    # Messages between stages are the same of all; of two that travel together a program has one.
    alone = nanoseconds(each).filter(
        ~((pl.col("kind") == "p2p") & (pl.col("group_kind") == "pp")).fill_null(False)
    )
    key = ("stage", "ep_rank", "op_index")
    own = {f"own_{name}": name for name in (*_OWN, "nanoseconds")}
    end = pl.col("start_nanoseconds") + pl.col("own_nanoseconds")
    return (
        rows.join(everyone.lazy().select("rank", "ep_rank"), on="rank", how="left", maintain_order="left")
        .join(alone.lazy().select(*key, **own), on=key, how="left", maintain_order="left")
        .with_columns(pl.coalesce(f"own_{name}", name).alias(name) for name in _OWN)
        .with_columns(end_nanoseconds=pl.coalesce(end, "end_nanoseconds"))
        .select("rank", *_SHARED, "group_id")
    )


def _of_ranks(members: pl.DataFrame, ops: pl.LazyFrame, used: set[str]) -> pl.LazyFrame:
    """Return each member rank crossed with the ops of their stage, running over the `used` kinds of groups.

    Every group id costs a choice per row, so kinds with the same ids (tp and etp, in the study) share
    one, and kinds with id 0 alone (world) need none.
    """
    columns: dict[tuple[int, ...], list[str]] = {}
    for kind in GROUP_KINDS:
        ids = members[f"{kind}_group"]
        if kind in used and (ids != 0).any():
            columns.setdefault(tuple(ids), []).append(kind)
    group_id = pl.lit(0, dtype=pl.Int64)
    for choice, kinds in enumerate(columns.values(), start=1):
        group_id = pl.when(pl.col("choice") == choice).then(f"{kinds[0]}_group").otherwise(group_id)
    choices = {kind: choice for choice, kinds in enumerate(columns.values(), start=1) for kind in kinds}
    chosen = pl.col("group_kind").cast(pl.String).replace_strict(choices, default=0, return_dtype=pl.UInt8)
    return (
        members.lazy()
        .select("rank", *(f"{kinds[0]}_group" for kinds in columns.values()))
        .join(ops.with_columns(choice=chosen), how="cross", maintain_order="left_right")
        .select("rank", *_SHARED, group_id=group_id)
    )


def export(traced: Traced, request: Request) -> None:
    """Write `<workload>.parquet`."""
    path = request.out / f"{traced.workload['workload']}.parquet"
    frame = unrolled(traced, chosen_ranks(request), request.microbatches)
    write_table(frame, path, UNROLLED, {"workload": description(traced.workload)})
