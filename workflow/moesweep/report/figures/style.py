"""One look for all figures: colours that survive grey print and colour blindness, units on every axis."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from moesweep.report.figures.ink import INK, NOTHING

# The plotting library takes half a second to import, which a run in which no figure changes need not spend.
if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

Shown = dict[str, Any]
"""What a figure shows of the results, and nothing else: frames, numbers, text, by name of what draws them."""

MISFIT_HATCH = "////"
LEGEND_COLUMNS = 3
RATIOS = (
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    *(0.5, 0.7, 1, 1.2, 1.5, 2, 3, 5, 7),
    *(10, 15, 20, 30, 50, 70, 100, 1000),
)
"""Ticks of ratio_axis; those within its ends are seen."""

FINER = tuple(tenth / 10 for tenth in range(1, 20))
"""The same where fewer than three of them are."""

MARKERS = ("o", "s", "^", "D", "v", "P")
SERIES = ("#26456e", "#f0a202", "#0072b2", "#c8500a", "#7fc4ee", "#5b5b63")

RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#9a9aa2",
    "grid.linewidth": 0.4,
    "grid.alpha": 0.5,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "moesweep",
    "figure.constrained_layout.use": True,
}


@contextmanager
def look(name: str) -> "Iterator[None]":
    """Draw in this look, not in somebody's own matplotlibrc's; ids in a figure follow from its name."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC | {"svg.hashsalt": name})
        yield


def as_svg(name: str, draw: "Callable[..., Figure]", showing: Shown) -> str:
    """Return as SVG what `draw` makes of what is shown: the same bytes whenever that is the same."""
    buffer = io.StringIO()
    with look(name):
        draw(**showing).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": name})
    return buffer.getvalue()


def figure(width: float, height: float) -> "Figure":
    """Return an empty figure, inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def swatches(parts: dict[str, str], misfit: bool) -> "list[Patch]":
    """Return the legend of a stack, with the sign for what does not fit."""
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=colour, edgecolor=INK, linewidth=0.3, label=name) for name, colour in parts.items()
    ]
    if misfit:
        handles.append(
            Patch(facecolor="none", edgecolor=INK, hatch=MISFIT_HATCH, label="does not fit the GPU")
        )
    return handles


def legend(drawn: "Figure", handles: "Sequence[Any]", labels: Sequence[str] | None = None) -> None:
    """Put a legend above a figure, as far left and as narrow as a phone shows before one scrolls."""
    names = {} if labels is None else {"labels": labels}
    drawn.legend(handles=handles, loc="outside upper left", ncols=LEGEND_COLUMNS, **names)


def stack(
    axes: "Axes",
    at: Sequence[float],
    parts: Mapping[str, Sequence[float]],
    look: dict[str, str],
    width: float,
) -> list[float]:
    """Draw stacked bars and return their tops."""
    tops = [0.0] * len(at)
    for name, values in parts.items():
        axes.bar(
            at,
            values,
            width,
            bottom=tops,
            color=look[name],
            edgecolor="white",
            linewidth=0.25,
            label=name,
        )
        tops = [top + value for top, value in zip(tops, values, strict=True)]
    return tops


def steps(
    axes: "Axes", parts: Mapping[str, Sequence[float]], look: dict[str, str], misfits: Sequence[bool]
) -> None:
    """Draw stacks side by side as one outline a part, each from 0 to its top; hatch what does not fit."""
    tops, levels = [0.0] * len(next(iter(parts.values()))), list[tuple[str, list[float]]]()
    for name, values in parts.items():
        tops = [top + value for top, value in zip(tops, values, strict=True)]
        levels.append((name, tops))
    edges = [place - 0.5 for place in range(len(tops) + 1)]
    for name, level in reversed(levels):
        axes.stairs(level, edges, fill=True, color=look[name], linewidth=0)
    over = [top if misfit else 0.0 for top, misfit in zip(tops, misfits, strict=True)]
    axes.stairs(over, edges, fill=True, facecolor="none", edgecolor=INK, hatch=MISFIT_HATCH, linewidth=0)


def cross_out(
    axes: "Axes", at: Sequence[float], tops: Sequence[float], misfits: Sequence[bool], width: float
) -> None:
    """Hatch the bars of what does not fit."""
    chosen = [(place, top) for place, top, misfit in zip(at, tops, misfits, strict=True) if misfit]
    if chosen:
        places, heights = zip(*chosen, strict=True)
        axes.bar(places, heights, width, color="none", edgecolor=INK, hatch=MISFIT_HATCH, linewidth=0.4)


def ratio_axis(axes: "Axes", rows: "pl.DataFrame", label: str) -> None:
    """Give a horizontal axis of ratios a logarithmic scale on which all of `least`, `most` and 1 lie."""
    ends = [1.0, *rows["least"].drop_nulls(), *rows["most"].drop_nulls()]
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xscale("log")
    low, high = 0.9 * min(ends), 1.1 * max(ends)
    ticks = RATIOS if sum(low <= ratio <= high for ratio in RATIOS) > 2 else FINER
    axes.set_xticks(ticks, map("{:g}".format, ticks))
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)
    axes.set_xlabel(f"{label} (ratio, log scale)")
    axes.xaxis.grid(True)


def nothing(message: str) -> "Figure":
    """Return a figure that says why there is nothing to see."""
    empty = figure(7, 1.2)
    empty.text(0.5, 0.5, message, ha="center", va="center", gid=NOTHING)
    return empty
