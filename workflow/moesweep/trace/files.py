"""The trace of workloads as files: its normal form, and the per-rank ops made from it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.shapes.parallelism import groups, ranks
from moesweep.shapes.schedule import schedules
from moesweep.store.layout import TRACE_TABLES, Results
from moesweep.store.parts import is_current, made_from, write_index
from moesweep.store.repeated import Repeated, write_repeated
from moesweep.store.tablefile import write_table
from moesweep.study.routing import given
from moesweep.study.workload import description
from moesweep.trace.balanced import routing
from moesweep.trace.ops import repeats
from moesweep.trace.programs import programs
from moesweep.trace.skewed_copies import given_routing
from moesweep.trace.skewed_programs import busiest, rank_programs

GIVEN_ROUTING = "given_routing"
"""The declaration of a `routing` table whose counts are given: it has dropped copies, too."""

REPEATED_ROWS = 1 << 15
"""From so many rows a stage on, to encode once what its ranks have in common pays."""

Tables = Mapping[str, tuple[str, pl.DataFrame]]
"""The frame of each table, after the name of the declaration that it follows."""


def write_traces(workloads: pl.DataFrame, results: Results, root: Path = Path()) -> None:
    """Write the six trace tables of each workload below `results/traces`, but for those that are current.

    Measured routing tables are read from `root`. Raises BadInput if one cannot be, or has changed.
    """
    made = {row["workload"]: made_from("trace", description(row)) for row in workloads.iter_rows(named=True)}
    moved = [
        not all(is_current(file, digest) for file in files_of(results, id_)) for id_, digest in made.items()
    ]
    for row, tables, each in _traced(workloads.filter(pl.Series(moved, dtype=pl.Boolean)), root):
        facts = {"workload": description(row)}
        digest = made[row["workload"]]
        for table, (declaration, frame) in tables.items():
            path = results.trace(table, row["workload"])
            write_table(frame, path, declaration, facts, made_from=digest)
        parts = list(repeats(each, tables["ranks"][1]))
        _write_ops(parts, results.trace("ops", row["workload"]), facts, digest)


def _write_ops(parts: Sequence[Repeated], path: Path, facts: Mapping[str, str], digest: str) -> None:
    """Write the per-rank trace; where that pays, what ranks of a stage have in common is encoded once."""
    if sum(part.members * part.rows.height for part in parts) >= REPEATED_ROWS * len(parts):
        write_repeated(parts, path, "ops", facts, digest)
    else:
        frame = pl.concat(part.frame(0, part.members) for part in parts)
        write_table(frame, path, "ops", facts, made_from=digest)


def write_index_of(results: Results, chunk: str, ids: Iterable[str]) -> None:
    """Write the index of a trace job's files, if all of them are there."""
    files = [file for id_ in ids for file in files_of(results, id_)]
    if all(file.exists() for file in files):
        write_index(results.trace_index(chunk), results, files)


def files_of(results: Results, workload: str) -> list[Path]:
    """Return the trace files of a workload."""
    return [results.trace(table, workload) for table in TRACE_TABLES]


def _traced(workloads: pl.DataFrame, root: Path) -> Iterator[tuple[dict[str, Any], Tables, pl.DataFrame]]:
    """Yield each workload with its tables but for the ops, and the programs that the ops are made from."""
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
        tables = {
            "programs": ("programs", program),
            "schedules": ("schedules", schedule),
            "ranks": ("ranks", ranks(row)),
            "groups": ("groups", groups(row)),
            "routing": (GIVEN_ROUTING if uneven else "routing", routed),
        }
        yield row, tables, each
