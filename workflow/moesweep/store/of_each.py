"""Tables of which each workload has a file of its own, judged together: that takes a tenth of the time."""

from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from moesweep.edge.problems import BadInput
from moesweep.store.tablefile import dictionary, unjudged
from moesweep.store.values import check_rows


def read_of_each(files: Mapping[str, Path], table: str) -> pl.DataFrame:
    """Read the files of workloads by their ids, as one frame with `workload`; raise BadInput as `read_table`.

    The table has no column `workload` of its own.
    """
    frame = pl.concat(
        unjudged(file, table).select(pl.lit(id_).alias("workload"), "*") for id_, file in files.items()
    )
    check_each(frame, table, files.__getitem__)
    return frame


def check_each(frame: pl.DataFrame, table: str, file: Callable[[str], Path]) -> None:
    """Raise BadInput as `check_rows` would for the rows of each `workload` alone, which `file` is to hold.

    All are judged at once, and each only to find out which one is at fault.
    """
    declared = dictionary(table)
    key = declared.get("key")
    try:
        check_rows(frame, declared | {"key": key and ["workload", *key]}, table)
    except BadInput:
        for (id_,), own in frame.partition_by("workload", as_dict=True, include_key=False).items():
            check_rows(own, declared, str(file(str(id_))))
        raise
