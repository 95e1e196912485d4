"""What fewer links up from the leaves do to iterations."""

from typing import TYPE_CHECKING

import polars as pl

from moesweep.report.figures import style
from moesweep.report.figures.ink import INK
from moesweep.report.networks import KINDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = ("-", "--")


def draw(rows: pl.DataFrame) -> "Figure":
    """Draw the median iteration over that where nothing blocks, against oversubscription, by network.

    rows   network, oversubscription, kind, median (how much longer)
    """
    if rows.is_empty():
        return style.nothing("No compared network has an oversubscription.")
    drawn = style.figure(7.5, 4)
    axes = drawn.subplots()
    axes.axhline(1, color=INK, linewidth=0.8)
    networks = rows["network"].unique(maintain_order=True).to_list()
    for number, network in enumerate(networks):
        for (kind, word), line in zip(KINDS.items(), STYLES, strict=True):
            own = rows.filter(network=network, kind=kind).sort("oversubscription")
            if own.is_empty():
                continue
            at, longer = own["oversubscription"].to_list(), (own["median"] + 1).to_list()
            colour, marker = (some[number % len(some)] for some in (style.SERIES, style.MARKERS))
            label = f"{network}, {word}"
            axes.plot(at, longer, color=colour, linestyle=line, marker=marker, label=label)
    ratios = rows["oversubscription"].unique().sort().to_list()
    axes.set_xscale("log", base=2)
    axes.set_xticks(ratios, [f"{ratio}:1" for ratio in ratios])
    axes.set_xlabel("oversubscription: links down over links up")
    axes.set_ylabel("median iteration over that where nothing blocks (ratio)")
    axes.grid(True)
    drawn.legend(loc="outside right upper")
    return drawn
