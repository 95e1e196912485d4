"""What a search has found, as people read it: the best layouts, and why faster ones fall out."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from moesweep.screen.best import NEXT, Found
from moesweep.screen.points import POSITION
from moesweep.screen.shown import table
from moesweep.study.catalog import Cluster

LAYOUT = ("tp", "pp", "cp", "ep", "etp", "virtual_pipeline", "micro_batch_size", "recompute")
"""What is searched, as headings have it."""

_HEADINGS = {"virtual_pipeline": "vp", "micro_batch_size": "mbs"}


def advice(found: Found, cluster: Cluster) -> Iterator[str]:
    """Yield the lines to print."""
    yield f"{found.legal} legal layouts of {found.space.size} on {cluster.name}"
    usable = cluster.value("hbm_bytes") - cluster.value("reserved_hbm_bytes")
    if found.best.is_empty():
        yield f"none fits the {usable / 2**30:.4g} GiB that a GPU has for it; those that lack least:"
        yield from _fallen_out(found, found.faster, usable)
        return
    rows = [_layout(row) for row in found.space.rows(found.best[POSITION])]
    searched = [name for name in LAYOUT if name in rows[0]]
    layouts = pl.DataFrame([{name: str(row[name]) for name in searched} for row in rows])
    shown = layouts.rename({name: _HEADINGS.get(name, name) for name in searched})
    yield table(found.best.hstack(shown), shown.columns)
    if found.faster.height:
        yield f"{found.faster.height} faster ones do not fit {usable / 2**30:.4g} GiB; those that lack least:"
        yield from _fallen_out(found, found.faster.head(NEXT), usable)
    for rule, count in found.left_out.items():
        yield f"not legal: {count} by {rule}"


def _layout(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row["tp"] if (name, value) == ("etp", "tp") else value for name, value in row.items()}


def _fallen_out(found: Found, points: pl.DataFrame, usable: float) -> Iterator[str]:
    for row, point in zip(found.space.rows(points[POSITION]), points.iter_rows(named=True), strict=True):
        own = _layout(row)
        layout = ", ".join(f"{_HEADINGS.get(name, name)} {own[name]}" for name in LAYOUT if name in own)
        peak = point["peak_memory_bytes"]
        yield (
            f"  {layout}: {point['iteration_seconds']:.4g} s, {peak / 2**30:.4g} GiB, "
            f"{(peak - usable) / 2**30:.3g} GiB too much"
        )
