"""Points of a screen as people read them: a ranked table."""

from collections.abc import Sequence

import polars as pl
from tabulate import tabulate

SHOWN = {
    "iteration_seconds": ("iteration s", 1.0),
    "tokens_per_second_per_gpu": ("tokens/s/GPU", 1.0),
    "mfu": ("MFU %", 100.0),
    "peak_memory_bytes": ("peak GiB", 2.0**-30),
    "usd_per_billion_tokens": ("USD/G tokens", 1.0),
}
"""The columns of a table for people: heading and factor."""

BAND = ("iteration_seconds_low", "iteration_seconds_high")


def table(points: pl.DataFrame, names: Sequence[str]) -> str:
    """Return points as a table: columns `names` as they are, then SHOWN and the band, in their order."""
    headings = ["", *names, *(heading for heading, _ in SHOWN.values()), "band s", "fits"]
    rows = [
        [
            number,
            *(row[name] for name in names),
            *(f"{row[name] * factor:.4g}" for name, (_, factor) in SHOWN.items()),
            "{:.4g}–{:.4g}".format(*(row[name] for name in BAND)),
            "yes" if row["fits"] else "no",
        ]
        for number, row in enumerate(points.iter_rows(named=True), start=1)
    ]
    return tabulate(rows, headings, disable_numparse=True)
