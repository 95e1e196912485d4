"""What routing skew does to an iteration."""

from typing import TYPE_CHECKING

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.figures import style
from moesweep.report.figures.ink import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def shown(evidence: Evidence) -> style.Shown:
    """Return iteration time over balanced routing's by skew, and what it does to tokens."""
    layout = ("model", "world_size", "tp", "pp", "ep", "alpha", "capacity_factor")
    ratios = ("expert_load_ratio", "dropped_share", "iteration_seconds_ratio")
    return {"rows": evidence.table("skew_sensitivity").select(*layout, *ratios)}


def draw(rows: pl.DataFrame) -> "Figure":
    """Draw iteration time over balanced routing's against the skew, without and with a capacity factor."""
    if rows.is_empty():
        return style.nothing("This sweep has no MoE workload whose experts are spread over ranks.")
    first, factor = rows.row(0, named=True), rows["capacity_factor"].drop_nulls()
    balanced, limited = pl.col("alpha") == 0, pl.col("capacity_factor").is_not_null()
    drawn = style.figure(9, 3.9)
    free, capped = drawn.subplots(1, 2)
    _panel(free, rows.filter(~limited), "expert_load_ratio", "{:.2g}")
    free.set_title(f"{first['model']}, {first['world_size']} GPUs, tp {first['tp']}, pp {first['pp']}")
    free.set_xlabel("zipf exponent; below it,\nfullest expert's tokens over the mean's (ratio)")
    free.set_ylabel("seconds per iteration,\nskewed over balanced (ratio)")
    free.set_ylim(bottom=0)
    _panel(capped, rows.filter(balanced | limited), "dropped_share", "{:.0%}")
    capped.set_title(f"the same with capacity factor {factor[0]:g}")
    capped.set_xlabel("zipf exponent; below it,\ntokens dropped (ratio to all)")
    style.legend(drawn, *free.get_legend_handles_labels())
    return drawn


def _panel(axes: "Axes", rows: pl.DataFrame, below: str, form: str) -> None:
    """Draw a line an ep; write the greatest value of a column below each exponent."""
    axes.axhline(1, color=INK, linewidth=0.8)
    for number, ((ep,), line) in enumerate(rows.group_by("ep", maintain_order=True)):
        look = number % len(style.SERIES)
        axes.plot(
            line["alpha"], line["iteration_seconds_ratio"], color=style.SERIES[look],
            marker=style.MARKERS[look], markersize=5, label=f"ep {ep}",
        )  # fmt: skip
    skews = rows.group_by("alpha").agg(pl.col(below).max()).sort("alpha")
    axes.set_xticks(
        skews["alpha"].to_list(), [f"{alpha:g}\n{form.format(value)}" for alpha, value in skews.iter_rows()]
    )
    axes.yaxis.grid(True)
