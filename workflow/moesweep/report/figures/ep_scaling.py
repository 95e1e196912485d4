"""What a higher ep does to an iteration, all else equal."""

from typing import TYPE_CHECKING

import polars as pl

from moesweep.report.evidence import Evidence, parts_of_iteration
from moesweep.report.figures import style
from moesweep.report.figures.ink import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MODELS = 6
MOST_BARS = 24
"""Per model: more comparisons than fit beside one another are left out, the last first."""


def shown(evidence: Evidence) -> style.Shown:
    """Return the seconds by part of every workload of every comparison."""
    matched = evidence.ep_scaling.select("comparison", "workload")
    rows = matched.join(evidence.workloads, on="workload", maintain_order="left").with_columns(
        *parts_of_iteration(), refused=pl.col("workload").is_in(evidence.refused)
    )
    layout = ("comparison", "model", "world_size", "tp", "pp", "ep")
    return {"rows": rows.select(*layout, "fits", "refused", *PARTS)}


def draw(rows: pl.DataFrame) -> "Figure":
    """Draw stacked seconds of every workload of every comparison, a panel a model."""
    models = rows["model"].unique(maintain_order=True).to_list()[:MOST_MODELS]
    if not models:
        return style.nothing("This sweep has no two workloads that differ in ep alone.")
    drawn = style.figure(9, 0.7 + 2.5 * len(models))
    panels = drawn.subplots(len(models), 1, squeeze=False)[:, 0]
    for axes, model in zip(panels, models, strict=True):
        _panel(axes, rows.filter(pl.col("model") == model).head(MOST_BARS), model)
    drawn.legend(handles=style.swatches(PARTS, misfit=True), loc="outside upper center", ncols=5)
    if rows["refused"].any():
        drawn.supxlabel("* Megatron would refuse this layout", fontsize=7.5)
    return drawn


def _panel(axes: "Axes", rows: pl.DataFrame, model: str) -> None:
    # A gap of one bar between comparisons.
    at = (pl.int_range(pl.len()) + pl.col("comparison").rle_id()).cast(pl.Float64)
    rows = rows.with_columns(at=at)
    places = rows["at"].to_list()
    tops = style.stack(axes, places, {name: rows[name].to_list() for name in PARTS}, PARTS, 0.86)
    style.cross_out(axes, places, tops, (~rows["fits"]).to_list(), 0.86)
    axes.set_xticks(places, [f"{row['ep']}" for row in rows.iter_rows(named=True)])
    axes.set_ylabel("seconds per iteration")
    axes.set_xlim(places[0] - 0.8, places[-1] + 0.8)
    axes.set_title(model)
    axes.yaxis.grid(True)
    axes.tick_params(axis="x", length=0)
    for _, group in rows.group_by("comparison", maintain_order=True):
        first = group.row(0, named=True)
        mark = " *" if group["refused"].any() else ""
        label = f"{first['world_size']} GPUs\ntp {first['tp']} pp {first['pp']}{mark}"
        middle = float(group["at"].mean())  # type: ignore[arg-type]
        axes.annotate(
            label,
            (middle, 0),
            xytext=(0, -16),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
        )
    axes.annotate(
        "ep =",
        (0, 0),
        xytext=(-4, -4),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="top",
    )
