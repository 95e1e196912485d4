"""What networks do to iterations."""

from typing import TYPE_CHECKING

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.figures import style
from moesweep.report.figures.ink import INK
from moesweep.report.networks import KINDS, slower
from moesweep.study.networks import DEFAULT_NETWORK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TICKS = (*(0.5, 0.7, 1, 1.2, 1.5, 2, 3, 5, 7), *(10, 15, 20, 30, 50, 70, 100, 1000))


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
    axes.axvline(1, color=INK, linewidth=0.8)
    for number, (kind, word) in enumerate(KINDS.items()):
        own = rows.filter(kind=kind)
        at = [names.index(name) + 0.3 * (number - 0.5) for name in own["network"]]
        median, most = ((own[name] + 1).to_list() for name in ("median", "most"))
        colour, marker = style.SERIES[number], style.MARKERS[number]
        axes.hlines(at, median, most, color=colour, linewidth=1.2)
        axes.scatter(median, at, s=26, marker=marker, color=colour, label=f"{word}: median, up to the most")
    axes.set_xscale("log")
    axes.set_xticks(TICKS, map("{:g}".format, TICKS))
    axes.set_xticks([], minor=True)
    axes.set_xlim(0.9 * float((rows["median"] + 1).min()), 1.1 * float((rows["most"] + 1).max()))  # type: ignore[arg-type]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"iteration over that on a {DEFAULT_NETWORK} network (ratio, log scale)")
    axes.xaxis.grid(True)
    style.legend(drawn, *axes.get_legend_handles_labels())
    return drawn
