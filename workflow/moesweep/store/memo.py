"""What a stage has made before, so that it makes only that again whose inputs moved.

A memo is a table of rows, each with the digest of all that it was made from (moesweep.store.parts.made_from)
in a column `made_from`. Of a stage's last run it holds everything, of the runs before that nothing. It lies
beside the records of checksums, and only where those are kept; without it everything is made.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.store.checksums import is_damaged, is_kept, keep, note
from moesweep.store.layout import Results
from moesweep.store.tablefile import COMPRESSION, whole

MADE_FROM = "made_from"


class Memo:
    """The rows of one name that a stage has made for a folder of results."""

    def __init__(self, results: Results, stage: str, name: str) -> None:
        self.is_kept = is_kept(results.root)
        self._file = _folder(results, stage) / f"{name}.parquet"

    def rows(self) -> pl.DataFrame:
        """Return what the last run has left, with `made_from`; that column alone if it left nothing."""
        nothing = pl.DataFrame(schema={MADE_FROM: pl.String})
        if not self.is_kept or not self._file.is_file() or is_damaged(self._file):
            return nothing
        try:
            return pl.read_parquet(self._file, glob=False)
        except (OSError, pl.exceptions.PolarsError):
            return nothing

    def keep(self, rows: pl.DataFrame) -> None:
        """Leave these rows, with `made_from`, for the next run."""
        if self.is_kept:
            keep(self._file.parent)
            with whole(self._file) as partial:
                rows.write_parquet(partial, **COMPRESSION)


def remade(
    memos: Sequence[Memo],
    wanted: pl.DataFrame,
    make: Callable[[pl.DataFrame], Sequence[pl.DataFrame]],
    fit: Callable[[dict[str, Any]], bool] | None = None,
) -> list[pl.DataFrame]:
    """Return the rows of each memo for all that is wanted, in that order, made where they moved.

    wanted  one row an item, with its digest in `made_from`
    make    from some rows of it to a frame for each memo, any number of rows an item, with `made_from`
    fit     whether what else was made for an item (files of its own) is there and as it was made
    """
    known = [memo.rows() for memo in memos]
    made = set.intersection(*(set(rows[MADE_FROM]) for rows in known))
    stays = [row[MADE_FROM] in made and (fit is None or fit(row)) for row in wanted.iter_rows(named=True)]
    staying = pl.Series(stays, dtype=pl.Boolean)
    kept, moved = wanted.filter(staying)[MADE_FROM].implode(), wanted.filter(~staying)
    found = [[rows.filter(pl.col(MADE_FROM).is_in(kept))] if any(stays) else [] for rows in known]
    if moved.height or not any(stays):
        for frames, frame in zip(found, make(moved), strict=True):
            frames.append(frame.select(MADE_FROM, pl.exclude(MADE_FROM)))
    order = wanted.select(MADE_FROM)
    all_rows = [order.join(pl.concat(rows), on=MADE_FROM, maintain_order="left_right") for rows in found]
    if moved.height:
        for memo, rows in zip(memos, all_rows, strict=True):
            memo.keep(rows)
    return [rows.drop(MADE_FROM) for rows in all_rows]


def made_at_once(
    wanted: Sequence[tuple[Memo, pl.DataFrame]], make: Callable[[pl.DataFrame], Sequence[pl.DataFrame]]
) -> None:
    """Make at once what several memos lack of what is wanted of each, for their `remade` to find.

    Rows are as for `remade`, whose `make` it is, to one frame. Nothing is made where memos are not kept.
    """
    known = [memo.rows() for memo, _ in wanted]
    lacking = [
        frame.filter(~pl.col(MADE_FROM).is_in(rows[MADE_FROM].implode()))
        for rows, (_, frame) in zip(known, wanted, strict=True)
    ]
    if not all(memo.is_kept for memo, _ in wanted) or sum(bool(rows.height) for rows in lacking) < 2:
        return
    (made,) = make(pl.concat(lacking, how="vertical_relaxed"))
    for rows, (memo, frame) in zip(known, wanted, strict=True):
        both = pl.concat([rows, made.select(rows.columns)]) if rows.width > 1 else made
        memo.keep(both.filter(pl.col(MADE_FROM).is_in(frame[MADE_FROM].implode())))


def forget(results: Results, stage: str) -> None:
    """Remove what a stage remembers, so that it makes everything again."""
    folder = _folder(results, stage)
    for each in (folder, note(folder)):
        shutil.rmtree(each, ignore_errors=True)


def _folder(results: Results, stage: str) -> Path:
    return note(results.root, "memo") / stage
