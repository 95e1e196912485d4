"""The trace of one workload as files: its normal form, and the per-rank ops made from it."""

import polars as pl

from moesweep.expressions import by_word
from moesweep.layout import Results
from moesweep.parallelism import GROUP_KINDS, groups, ranks
from moesweep.tablefile import write_table
from moesweep.trace.programs import programs
from moesweep.trace.routing import routing
from moesweep.trace.schedule import schedules
from moesweep.workload import description


def ops(program: pl.DataFrame, rank_frame: pl.DataFrame) -> pl.LazyFrame:
    """Return every op of every rank, rank-major: each rank crossed with the program of its stage.

    `group_id` is the rank's communicator of the op's kind, 0 for ops without one.
    """
    ids = {kind: pl.col(f"{kind}_group") for kind in GROUP_KINDS}
    group_id = by_word(pl.col("group_kind"), ids, pl.lit(0))
    programmed = program.with_columns(pl.col("group_kind").cast(pl.Enum(GROUP_KINDS)))
    # Ranks are numbered stage by stage, so stage after stage is rank after rank.
    return pl.concat(
        rank_frame.lazy()
        .filter(pl.col("stage") == stage)
        .drop("stage")
        .join(programmed.lazy().filter(pl.col("stage") == stage), how="cross", maintain_order="left_right")
        .with_columns(group_id=group_id)
        for stage in program["stage"].unique().sort()
    )


def write_traces(workloads: pl.DataFrame, results: Results) -> None:
    """Write the six trace tables of each workload below `results/traces`."""
    # The expressions of the vocabulary cost the same for one workload as for a hundred.
    together = [programs(workloads), schedules(workloads), routing(workloads)]
    by_workload = [frame.partition_by("workload", as_dict=True, maintain_order=True) for frame in together]
    for row in workloads.iter_rows(named=True):
        program, schedule, routed = (
            frames.get((row["workload"],), frame.clear())
            for frames, frame in zip(by_workload, together, strict=True)
        )
        rank_frame = ranks(row)
        tables: dict[str, pl.DataFrame | pl.LazyFrame] = {
            "programs": program,
            "schedules": schedule,
            "ranks": rank_frame,
            "groups": groups(row),
            "routing": routed,
            "ops": ops(program, rank_frame),
        }
        facts = {"workload": description(row)}
        for table, frame in tables.items():
            write_table(frame, results.trace(table, row["workload"]), table, facts)
