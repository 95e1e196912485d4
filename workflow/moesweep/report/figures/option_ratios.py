"""What each option of a sweep does to time and memory, all else equal."""

from typing import TYPE_CHECKING

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.figures import style
from moesweep.report.options import by_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {"iteration_seconds": "seconds per iteration", "peak_memory_bytes": "peak memory, bytes"}

MOST_ROWS = 48
"""Values that are drawn; those of further options stand in the table."""


def shown(evidence: Evidence) -> style.Shown:
    """Return the ratios of each value of each option over the option's lowest: axis, value, list of each."""
    rows = by_value(evidence).filter(~pl.col("base"))
    return {"rows": rows.select("axis", "value", *PANELS)}


def draw(rows: pl.DataFrame) -> "Figure":
    """Draw a line from the least to the greatest ratio and a point at the median, by option and value."""
    if rows.is_empty():
        return style.nothing("No two workloads of this sweep differ in one option alone.")
    drawn_rows = rows.head(MOST_ROWS).with_columns(gap=pl.col("axis").rle_id())
    at = (pl.int_range(pl.len()) + 0.6 * pl.col("gap")).alias("at")
    drawn_rows = drawn_rows.with_columns(at)
    drawn = style.figure(9, 0.9 + 0.24 * (1 + float(drawn_rows["at"][-1])))
    panels = drawn.subplots(1, len(PANELS), sharey=True)
    for number, (axes, (name, label)) in enumerate(zip(panels, PANELS.items(), strict=True)):
        ratios = pl.col(name).list
        spread = drawn_rows.select("at", least=ratios.min(), middle=ratios.median(), most=ratios.max())
        colour, marker = style.SERIES[2 * number], style.MARKERS[number]
        axes.hlines(spread["at"], spread["least"], spread["most"], color=colour, linewidth=1.2)
        axes.scatter(spread["middle"], spread["at"], s=26, marker=marker, color=colour)
        style.ratio_axis(axes, spread, label)
    names = [f"{axis} {value}" for axis, value in drawn_rows.select("axis", "value").iter_rows()]
    panels[0].set_yticks(drawn_rows["at"].to_list(), names)
    panels[0].set_ylim(float(drawn_rows["at"][-1]) + 0.6, -0.6)
    if rows.height > MOST_ROWS:
        drawn.supxlabel(f"{rows.height - MOST_ROWS} more values: table options_compared", fontsize=7.5)
    return drawn
