"""What fills a GPU's memory."""

from typing import TYPE_CHECKING

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.figures import style
from moesweep.report.figures.ink import INK, MEMORY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GIB = 2.0**30
MOST_MODELS = 6
MOST_BARS = 150
"""In a panel: more of them are drawn as steps, as they would touch."""

LEGEND_INCHES = 5.0
"""The least width that shows the legend whole."""


def shown(evidence: Evidence) -> style.Shown:
    """Return the worst rank's memory by part of every workload, and that of a GPU."""
    columns = ("model", "kind", "fits", "peak_memory_bytes", *(f"{name}_bytes" for name in MEMORY))
    return {"rows": evidence.workloads.select(columns), "hbm_bytes": evidence.cluster.value("hbm_bytes")}


def draw(rows: pl.DataFrame, hbm_bytes: float) -> "Figure":
    """Draw the worst rank's memory by part, every workload a bar, in the order of their peaks."""
    models = rows["model"].unique(maintain_order=True).to_list()[:MOST_MODELS]
    kinds = [kind for kind in ("moe", "dense") if kind in rows["kind"].to_list()]
    drawn = style.figure(max(LEGEND_INCHES, 1.6 + 1.7 * len(models)), 0.8 + 2.4 * len(kinds))
    panels = drawn.subplots(len(kinds), len(models), squeeze=False, sharey="col")
    hbm = hbm_bytes / GIB
    for line, kind in zip(panels, kinds, strict=True):
        for axes, model in zip(line, models, strict=True):
            chosen = rows.filter((pl.col("model") == model) & (pl.col("kind") == kind))
            _panel(axes, chosen.sort("peak_memory_bytes", maintain_order=True), hbm)
            axes.set_title(f"{model}, {'MoE' if kind == 'moe' else kind}", fontsize=8.5)
        line[0].set_ylabel("GiB on the worst rank")
    for axes in panels[-1]:
        axes.set_xlabel("workloads by peak")
    handles = style.swatches(MEMORY, misfit=True)
    (limit,) = panels[0][0].plot(
        [], [], color=INK, linewidth=1, linestyle="--", label=f"GPU memory, {hbm:g} GiB"
    )
    style.legend(drawn, [*handles, limit])
    return drawn


def _panel(axes: "Axes", rows: pl.DataFrame, hbm: float) -> None:
    at = [float(place) for place in range(rows.height)]
    parts = {name: (rows[f"{name}_bytes"] / GIB).to_list() for name in MEMORY}
    misfits = (~rows["fits"]).to_list()
    if rows.height > MOST_BARS:
        style.steps(axes, parts, MEMORY, misfits)
    else:
        tops = style.stack(axes, at, parts, MEMORY, 0.9)
        style.cross_out(axes, at, tops, misfits, 0.9)
    axes.axhline(hbm, color=INK, linewidth=1, linestyle="--")
    axes.set_xticks([])
    axes.yaxis.grid(True)
