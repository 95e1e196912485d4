"""What networks do to iterations."""

from typing import TYPE_CHECKING

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.figures import style
from moesweep.report.networks import KINDS, slower
from moesweep.study.networks import DEFAULT_NETWORK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shown(evidence: Evidence) -> style.Shown:
    """Return by how much each network lengthens iterations."""
    return {"rows": slower(evidence.topologies)}


def draw(rows: pl.DataFrame) -> "Figure":
    """Draw iterations over those on the default network, by network: the median, and a line up to the most.

    rows  as `slower` returns them
    """
    if rows.is_empty():
        return style.nothing("No workload is compared with what it takes where nothing blocks.")
    names = rows["network"].unique(maintain_order=True).to_list()
    drawn = style.figure(7.5, 1.3 + 0.3 * len(names))
    axes = drawn.subplots()
    there = {kind: word for kind, word in KINDS.items() if kind in rows["kind"]}
    for number, kind in enumerate(KINDS):
        own = rows.filter(kind=kind)
        if own.is_empty():
            continue
        beside = 0.3 * (number - 0.5) if len(there) > 1 else 0
        at = [names.index(name) + beside for name in own["network"]]
        median, most = ((own[name] + 1).to_list() for name in ("median", "most"))
        colour, marker = style.SERIES[number], style.MARKERS[number]
        axes.hlines(at, median, most, color=colour, linewidth=1.2)
        axes.scatter(median, at, s=26, marker=marker, color=colour, label=f"{there[kind]}: median to most")
    ends = rows.select(
        least=pl.min_horizontal("median", "most") + 1, most=pl.max_horizontal("median", "most") + 1
    )
    style.ratio_axis(axes, ends, f"iteration over that on a {DEFAULT_NETWORK} network")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    style.legend(drawn, *axes.get_legend_handles_labels())
    return drawn
