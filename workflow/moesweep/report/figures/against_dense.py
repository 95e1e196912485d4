"""Every MoE workload against its dense twin."""

from typing import TYPE_CHECKING

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.figures import style
from moesweep.report.figures.ink import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MEASURES = (
    ("iteration_seconds_ratio", "seconds per iteration"),
    ("wire_bytes_ratio", "bytes on links per GPU"),
    ("peak_memory_bytes_ratio", "memory at the peak"),
)


def shown(evidence: Evidence) -> style.Shown:
    """Return the ratios MoE over twin."""
    pairs = evidence.pairs.filter(pl.col("iteration_seconds_ratio").is_not_null())
    return {"pairs": pairs.select("model", "tp", "moe_fits", *(column for column, _ in _MEASURES))}


def draw(pairs: pl.DataFrame) -> "Figure":
    """Draw the ratios MoE over twin by model: seconds, bytes on links, memory; a point a pair."""
    if pairs.is_empty():
        return style.nothing("This sweep has no MoE workload with a dense twin.")
    models = pairs["model"].unique(maintain_order=True).to_list()
    drawn = style.figure(9, 1.5 + 0.62 * len(models))
    panels = drawn.subplots(1, len(_MEASURES), sharey=True)
    for axes, (column, words) in zip(panels, _MEASURES, strict=True):
        _panel(axes, pairs, models, column)
        axes.set_xlabel(f"{words},\nMoE over dense (ratio)")
    panels[0].set_yticks(range(len(models)), models)
    panels[0].set_ylim(len(models) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    style.legend(drawn, handles, labels)
    return drawn


def _panel(axes: "Axes", pairs: pl.DataFrame, models: list[str], column: str) -> None:
    groups = {
        "tp ≤ 8, fits": (pl.col("tp") <= 8) & pl.col("moe_fits"),
        "tp ≤ 8, does not fit": (pl.col("tp") <= 8) & ~pl.col("moe_fits"),
        "tp > 8, fits": (pl.col("tp") > 8) & pl.col("moe_fits"),
        "tp > 8, does not fit": (pl.col("tp") > 8) & ~pl.col("moe_fits"),
    }
    # Points of a model are spread over its line, so that they do not hide one another; the first lies on it.
    lines = pl.DataFrame({"model": models, "line": [float(line) for line in range(len(models))]})
    spread = (((pl.int_range(pl.len()) * 7 + 5) % 11) / 10 - 0.5) * 0.6
    placed = pairs.join(lines, on="model", maintain_order="left").with_columns(
        y=pl.col("line") + spread.over("model")
    )
    axes.axvline(1, color=INK, linewidth=0.8)
    for number, (label, chosen) in enumerate(groups.items()):
        rows = placed.filter(chosen)
        colour = style.SERIES[number // 2]
        face = colour if number % 2 == 0 else "none"
        axes.scatter(
            rows[column], rows["y"], s=20, marker=style.MARKERS[number // 2], facecolors=face,
            edgecolors=colour, linewidths=1, label=label,
        )  # fmt: skip
    axes.xaxis.grid(True)
    axes.set_xlim(left=0)
