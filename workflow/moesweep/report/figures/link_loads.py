"""What the links of networks carry in an iteration: by class, and link by link where it is most."""

import re
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moesweep.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 128
"""Squares along a side at most; a square of several links shows the busiest."""

NAMED = 9
"""Ends along a side that are named at most."""


def by_class(links: pl.DataFrame) -> pl.DataFrame:
    """Return the least, the median and the most that links of a class carry, by network: seconds.

    links   network and the columns of `network_links`, of one workload: kinds and phases are added
    """
    each = links.group_by("network", "class", "link", maintain_order=True).agg(pl.col("seconds").sum())
    seconds = pl.col("seconds")
    return each.group_by("network", "class", maintain_order=True).agg(
        least=seconds.min(), median=seconds.median(), most=seconds.max()
    )


def draw(workload: str, rows: pl.DataFrame) -> "Figure":
    """Draw one line for each class of each network, from the least to the most, and the median.

    rows   as `by_class` returns them
    """
    if rows.is_empty():
        return style.nothing(f"Nothing of {workload} leaves a GPU.")
    networks = rows["network"].unique(maintain_order=True).to_list()
    drawn = style.figure(7.5, 1.1 + 0.28 * rows.height)
    axes = drawn.subplots()
    for row, each in enumerate(rows.iter_rows(named=True)):
        of_network = networks.index(each["network"])
        colour = style.SERIES[of_network % len(style.SERIES)]
        axes.hlines(row, each["least"], each["most"], color=colour, linewidth=1.4)
        marker = style.MARKERS[of_network % len(style.MARKERS)]
        axes.scatter(each["median"], row, s=24, marker=marker, color=colour)
    axes.set_xscale("log")
    axes.set_yticks(
        range(rows.height), [f"{network}: {of}" for network, of in rows["network", "class"].rows()]
    )
    axes.invert_yaxis()
    axes.set_xlabel(
        "seconds of an iteration that a link is busy: least, median and most of a class (log scale)"
    )
    axes.xaxis.grid(True)
    drawn.suptitle(workload, fontsize=9.5, fontweight="bold")
    return drawn


def worst_layer(links: pl.DataFrame) -> pl.DataFrame:
    """Return the links of the class that has the busiest one outside the islands, on the network that has it.

    network, class, source, target, seconds (kinds and phases added), in the order of the links.
    """
    keys = ("network", "class", "link")
    each = (
        links.filter(pl.col("class") != "nvlink")
        .group_by(keys, maintain_order=True)
        .agg(pl.col("source", "target").first(), pl.col("seconds").sum())
    )
    busiest = each.filter(pl.col("seconds") == pl.col("seconds").max()).head(1)
    return each.join(busiest.select("network", "class"), on=["network", "class"], how="semi").drop("link")


def draw_layer(workload: str, rows: pl.DataFrame) -> "Figure":
    """Draw what each link of a class carries, from where to where.

    rows   as `worst_layer` returns them
    """
    if rows.is_empty():
        return style.nothing(f"Nothing of {workload} leaves an island.")
    sources, targets = (sorted(set(rows[end]), key=_natural) for end in ("source", "target"))
    image = squares(rows, sources, targets)
    drawn = style.figure(7.5, 6)
    axes = drawn.subplots()
    shown = axes.imshow(image, cmap="cividis_r", aspect="auto", interpolation="nearest")
    _named(axes, "y", sources, image.shape[0])
    _named(axes, "x", targets, image.shape[1])
    axes.set_ylabel("from")
    axes.set_xlabel("to")
    drawn.colorbar(shown, ax=axes, label="seconds of an iteration that a link is busy")
    first = rows.row(0, named=True)
    title = f"{workload}: {first['class']} links of {first['network']}"
    drawn.suptitle(title, fontsize=9.5, fontweight="bold")
    return drawn


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what orders names by the numbers in them."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def squares(rows: pl.DataFrame, sources: list[str], targets: list[str]) -> np.ndarray:
    """Return the seconds of the busiest link in each square, NaN where none carries anything."""
    sides = []
    for end, names in (("source", sources), ("target", targets)):
        blocks = np.arange(len(names)) // -(-len(names) // SIDE)
        sides.append(rows[end].replace_strict(names, blocks, return_dtype=pl.Int64).to_numpy())
    image = np.full([side.max() + 1 for side in sides], -1.0)
    np.maximum.at(image, tuple(sides), rows["seconds"].to_numpy())
    return np.where(image < 0, np.nan, image)


def _named(axes: "Axes", axis: str, names: list[str], squares: int) -> None:
    """Name some of the squares by the first end in them."""
    each = -(-len(names) // SIDE)
    shown = range(0, squares, -(-squares // NAMED))
    axes.set(**{f"{axis}ticks": list(shown), f"{axis}ticklabels": [names[at * each] for at in shown]})
    if axis == "x":
        axes.tick_params(axis="x", rotation=30)
