"""The per-rank trace: every op of every rank, rank-major, from the programs and the ranks' communicators."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from moesweep.shapes.communication import GROUP_KINDS
from moesweep.store.repeated import Repeated
from moesweep.store.tablefile import dtypes

OWN = ("rank", "group_id")
"""Columns in which ranks differ that run one program."""

Numbers = np.ndarray[Any, np.dtype[np.int64]]


def repeats(program: pl.DataFrame, ranks: pl.DataFrame) -> Iterator[Repeated]:
    """Yield every op of every rank, as ranks are numbered, in the types of the table `ops`.

    `program` has one program a stage; every rank is a member. With a column `ep_rank` it has one for every
    stage and ep rank; members are then the ep·etp ranks that follow one another until the programs repeat.
    Where a pipeline's stages stand side by side, members are all ranks of a pipeline that do so.
    `group_id` is the rank's communicator of the op's kind, 0 for ops without one.
    """
    types = {name: dtype for name, dtype in dtypes("ops").items() if name not in OWN}
    told_apart = ["stage", "ep_rank"] if "ep_rank" in program.columns else ["stage"]
    programs = program.partition_by(told_apart, as_dict=True)
    for here, repeating in _repeating(ranks, len(told_apart) > 1):
        runs = [programs[told] for told in repeating.select(told_apart).iter_rows()]
        rows = pl.concat(runs).select(pl.col(name).cast(dtype) for name, dtype in types.items())
        rank = np.repeat(np.arange(len(runs)), [run.height for run in runs])
        own = partial(_own, *_told_by_ranks(here, len(runs)), rank, _kinds(rows))
        yield Repeated(here.height // len(runs), rows, own)


def _repeating(ranks: pl.DataFrame, by_ep_rank: bool) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield ranks that follow one another, and the first of them, after which programs repeat."""
    if not ranks["stage"].is_sorted():
        yield ranks, ranks.filter(pl.col("dp_rank") == 0)
        return
    for here in ranks.partition_by("stage", maintain_order=True):
        yield here, here.filter(pl.col("edp_rank") == 0) if by_ep_rank else here[:1]


def ops(program: pl.DataFrame, ranks: pl.DataFrame) -> pl.DataFrame:
    """Return what `repeats` yields as one frame, in the columns of the table `ops`."""
    return pl.concat(part.frame(0, part.members) for part in repeats(program, ranks)).select(
        list(dtypes("ops"))
    )


def _told_by_ranks(ranks: pl.DataFrame, of_a_member: int) -> tuple[Numbers, int]:
    """Return what ranks tell, a row a member: for each of its ranks its number, its communicators, 0.

    Communicators are in the order of GROUP_KINDS. Also returned is how many numbers a rank has.
    """
    told = ranks.select("rank", *(f"{kind}_group" for kind in GROUP_KINDS), pl.lit(0, pl.Int64)).to_numpy()
    return told.reshape(-1, of_a_member * told.shape[1]), told.shape[1]


def _kinds(rows: pl.DataFrame) -> Numbers:
    """Return where among what a rank tells the communicator of each row's kind stands."""
    kinds = rows["group_kind"].cast(pl.Enum(GROUP_KINDS)).to_physical().cast(pl.Int64)
    return kinds.fill_null(len(GROUP_KINDS)).to_numpy() + 1


def _own(told: Numbers, width: int, rank: Numbers, kind: Numbers, first: int, last: int) -> pl.DataFrame:
    """Return rank and group_id of the rows of some members; `rank` numbers a member's ranks row by row."""
    numbers, groups = (told[first:last].take(rank * width + place, axis=1) for place in (0, kind))
    return pl.DataFrame({"rank": numbers.ravel(), "group_id": groups.ravel()})
