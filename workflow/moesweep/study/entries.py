"""The points of a sweep file's grids and rows: blocks, and the frame of a sweep that lists them all."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from moesweep.edge.problems import Problem, collect
from moesweep.shapes.distinct import Distinct
from moesweep.study.axes import said_before, with_rules_applied
from moesweep.study.blocks import POINT, Block, Said, grid_block, row_blocks
from moesweep.study.conditions import AGAIN
from moesweep.study.workload import unnamed

ENTRY = "entry number"
"""Column of the number of the grid or row that lists a point."""

_NEEDED = ("model", "world_size", "tp", "pp", "global_batch_size", "seq_length")


def blocks(
    listed: Mapping[str, Mapping[str, Any]], said: Said, experts_fastest: bool = False
) -> tuple[list[Block], list[Problem]]:
    """The points of some `items`, in order, and what is wrong with those that cannot be enumerated."""
    problems: list[Problem] = []
    found: list[Block] = []
    rows: dict[int, Mapping[str, Any]] = {}
    for number, (path, item) in enumerate(listed.items()):
        missing = [key for key in _NEEDED if key not in item and key not in said.options]
        for key in missing:
            message = f"{key} is given neither here nor in options"
            problems.append(Problem(said.file, f"{path}.{key}", "missing_key", "", message, f"add {key}"))
        if missing:
            continue
        if path.startswith("rows"):
            rows[number] = item
            continue
        block = collect(problems, grid_block, number, path, item, said, experts_fastest)
        if block is not None:
            found.append(block)
    return [*found, *row_blocks(rows, said)], problems


def points(block: Block, at: pl.Series | None = None, models: Distinct | None = None) -> pl.DataFrame:
    """Return the derived columns of a block's points of these numbers, of all left out, without ids.

    `models` are points that differ in what a model's size depends on, where they are known.
    Beside them POINT, ENTRY, `largest_at` of a rule of ep, AGAIN, whether another point of the grid is the
    same, and columns OF_OPTIONS.
    """
    codes = block.codes(pl.int_range(block.size, eager=True) if at is None else at)
    frame = with_rules_applied(block.points(codes))
    entries = pl.Series(ENTRY, block.entries, dtype=pl.Int64)
    frame = frame.with_columns(entries[frame[POINT]] if len(entries) > 1 else pl.lit(entries).first())
    again = [said_before(frame, axis, codes[axis.name]) for axis in block.axes]
    if len(entries) > len(set(entries)):
        again.append(~frame.select(pl.struct(ENTRY, "ep").is_first_distinct()).to_series())
    said = pl.any_horizontal(pl.lit(False), *(each for each in again if each is not None))
    return unnamed(frame, models).with_columns(said.alias(AGAIN))
