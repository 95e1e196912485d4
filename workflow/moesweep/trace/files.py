"""The trace of workloads as files: its normal form, and the per-rank ops made from it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.shapes.communication import GROUP_KINDS
from moesweep.shapes.expressions import by_word
from moesweep.shapes.parallelism import groups, ranks
from moesweep.shapes.schedule import schedules
from moesweep.store.layout import TRACE_TABLES, Results
from moesweep.store.parts import is_current, made_from, write_index
from moesweep.store.tablefile import write_table
from moesweep.study.routing import given
from moesweep.study.workload import description
from moesweep.trace.balanced import routing
from moesweep.trace.programs import programs
from moesweep.trace.skewed_copies import given_routing
from moesweep.trace.skewed_programs import busiest, rank_programs

GIVEN_ROUTING = "given_routing"
"""The declaration of a `routing` table whose counts are given: it has dropped copies, too."""

REPEATING_PAGE_BYTES = 1 << 24
"""Ranks that differ repeat after e·etp others: pages of the usual 1 MiB would be too short to see it."""


def ops(program: pl.DataFrame, rank_frame: pl.DataFrame) -> pl.LazyFrame:
    """Return every op of every rank, rank-major: each rank with its program.

    `program` has one program a stage, or with a column `ep_rank` one for every stage and ep rank.
    `group_id` is the rank's communicator of the op's kind, 0 for ops without one.
    """
    ids = {kind: pl.col(f"{kind}_group") for kind in GROUP_KINDS}
    group_id = by_word(pl.col("group_kind"), ids, pl.lit(0))
    programmed = program.with_columns(pl.col("group_kind").cast(pl.Enum(GROUP_KINDS)))
    # Ranks are numbered stage by stage, so stage after stage is rank after rank.
    return pl.concat(
        _crossed(
            rank_frame.filter(pl.col("stage") == stage).drop("stage"),
            programmed.filter(pl.col("stage") == stage),
        ).with_columns(group_id=group_id)
        for stage in program["stage"].unique().sort()
    )


def _crossed(members: pl.DataFrame, program: pl.DataFrame) -> pl.LazyFrame:
    """Return each rank of a stage with each op of its program, rank after rank."""
    if "ep_rank" not in program.columns:
        return members.lazy().join(program.lazy(), how="cross", maintain_order="left_right")
    # Ranks with the same ep rank that follow one another are crossed with one program: etp of them.
    runs = members.with_columns(run=pl.col("ep_rank").rle_id()).partition_by("run", include_key=False)
    own = {
        ep: part.drop("ep_rank").lazy()
        for (ep,), part in program.partition_by("ep_rank", as_dict=True).items()
    }
    return pl.concat(
        run.lazy().join(own[run["ep_rank"][0]], how="cross", maintain_order="left_right") for run in runs
    )


Tables = Mapping[str, tuple[str, pl.DataFrame | pl.LazyFrame]]
"""The frame of each table, after the name of the declaration that it follows."""


def write_traces(workloads: pl.DataFrame, results: Results, root: Path = Path()) -> None:
    """Write the six trace tables of each workload below `results/traces`, but for those that are current.

    Measured routing tables are read from `root`. Raises BadInput if one cannot be, or has changed.
    """
    made = {row["workload"]: made_from("trace", description(row)) for row in workloads.iter_rows(named=True)}
    moved = [
        not all(is_current(file, digest) for file in files_of(results, id_)) for id_, digest in made.items()
    ]
    for row, tables in _traced(workloads.filter(pl.Series(moved, dtype=pl.Boolean)), root):
        facts = {"workload": description(row)}
        for table, (declaration, frame) in tables.items():
            uneven = tables["routing"][0] == GIVEN_ROUTING
            pages = REPEATING_PAGE_BYTES if table == "ops" and uneven else None
            path = results.trace(table, row["workload"])
            write_table(frame, path, declaration, facts, pages, made[row["workload"]])


def write_index_of(results: Results, chunk: str, ids: Iterable[str]) -> None:
    """Write the index of a trace job's files, if all of them are there."""
    files = [file for id_ in ids for file in files_of(results, id_)]
    if all(file.exists() for file in files):
        write_index(results.trace_index(chunk), results, files)


def files_of(results: Results, workload: str) -> list[Path]:
    """Return the trace files of a workload."""
    return [results.trace(table, workload) for table in TRACE_TABLES]


def _traced(workloads: pl.DataFrame, root: Path) -> Iterator[tuple[dict[str, Any], Tables]]:
    """Yield each workload with its tables."""
    # The expressions of the vocabulary cost the same for one workload as for a hundred.
    alike = workloads.filter(~given)
    together = [programs(alike), schedules(workloads), routing(alike)]
    by_workload = [frame.partition_by("workload", as_dict=True, maintain_order=True) for frame in together]
    for part in workloads.iter_slices(1):
        row = part.row(0, named=True)
        program, schedule, routed = (
            frames.get((row["workload"],), frame.clear())
            for frames, frame in zip(by_workload, together, strict=True)
        )
        uneven, each = bool(part.select(given).item()), program
        if uneven:
            each, routed = rank_programs(part, root), given_routing(row, root)
            program = busiest(each)
        rank_frame = ranks(row)
        yield (
            row,
            {
                "programs": ("programs", program),
                "schedules": ("schedules", schedule),
                "ranks": ("ranks", rank_frame),
                "groups": ("groups", groups(row)),
                "routing": (GIVEN_ROUTING if uneven else "routing", routed),
                "ops": ("ops", ops(each, rank_frame)),
            },
        )
