"""What a higher ep does to an iteration, all else equal."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from moesweep.report.evidence import Evidence, parts_of_iteration
from moesweep.report.figures import style
from moesweep.report.figures.ink import INK, PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAND_LINE = 1.1

CHARACTERS_A_BAR = 5
LINE_INCHES = 0.13

MOST_BARS = 24
"""In a panel: comparisons that do not fit beside one another go on in the next."""

MOST_PANELS = 12
"""What does not fit them stands in the table."""


def shown(evidence: Evidence) -> style.Shown:
    """Return the seconds by part of every workload of every comparison."""
    matched = evidence.ep_scaling.select("comparison", "workload")
    rows = matched.join(evidence.workloads, on="workload", maintain_order="left").with_columns(
        *parts_of_iteration(), refused=pl.col("workload").is_in(evidence.refused)
    )
    layout = ("comparison", "model", "world_size", "tp", "pp", "ep")
    band = ("iteration_seconds_low", "iteration_seconds_high")
    return {"rows": rows.select(*layout, _words(), "fits", "refused", *band, *PARTS)}


def _words() -> pl.Expr:
    """Return what tells a comparison from others of its model, GPUs, tp and pp: words of ids, batches."""
    options = pl.col("workload").str.extract(r"-seq[0-9]+-moe-?(.*)$").str.replace_all("-", " ", literal=True)
    batches = {"gbs": "global_batch_size", "mbs": "micro_batch_size", "seq": "seq_length"}
    alike = ("model", "world_size", "tp", "pp", options.alias("options"))
    told = [
        pl.when(pl.col(name).n_unique().over(alike) > 1)
        .then(pl.format(f" {word} {{}}", name))
        .otherwise(pl.lit(""))
        for word, name in batches.items()
    ]
    return pl.concat_str(options, *told).str.strip_chars().alias("words")


def draw(rows: pl.DataFrame) -> "Figure":
    """Draw stacked seconds of every workload of every comparison with its band, panels a model."""
    if rows.is_empty():
        return style.nothing("This sweep has no two workloads that differ in ep alone.")
    paged = rows.with_columns(page=_page())
    pages = paged.partition_by("model", "page", maintain_order=True)[:MOST_PANELS]
    labels = {at: _label(group) for (at,), group in rows.group_by("comparison", maintain_order=True)}
    lines = max(label.count("\n") for label in labels.values()) - 1
    drawn = style.figure(9, 0.9 + (2.5 + LINE_INCHES * lines) * len(pages))
    panels = drawn.subplots(len(pages), 1, squeeze=False)[:, 0]
    for axes, page in zip(panels, pages, strict=True):
        _panel(axes, page, labels)
    (band,) = panels[0].plot([], [], color=INK, linewidth=BAND_LINE, label="band of the prediction")
    style.legend(drawn, [*style.swatches(PARTS, misfit=True), band])
    drawn.supxlabel(_notes(rows, pages), fontsize=7.5)
    return drawn


def _page() -> pl.Expr:
    """Return the panel of a row among those of its model: whole comparisons, about MOST_BARS bars each."""
    bars = pl.len().over("comparison")
    before = (pl.int_range(pl.len()).over("model") - pl.int_range(pl.len()).over("comparison")).cast(pl.Int64)
    return (before + bars - 1) // MOST_BARS


def _notes(rows: pl.DataFrame, pages: list[pl.DataFrame]) -> str:
    left = rows["comparison"].n_unique() - sum(page["comparison"].n_unique() for page in pages)
    said = ["* Megatron would refuse this layout"] if rows["refused"].any() else []
    return "; ".join([*said, *([f"{left} more comparisons: table ep_scaling"] if left else [])])


def _label(rows: pl.DataFrame) -> str:
    """Return what the workloads of a comparison have in common, in lines about as wide as their bars."""
    first = rows.row(0, named=True)
    mark = " *" if rows["refused"].any() else ""
    words = textwrap.wrap(first["words"], max(10, CHARACTERS_A_BAR * rows.height))
    return "\n".join([f"{first['world_size']} GPUs", f"tp {first['tp']} pp {first['pp']}{mark}", *words])


def _panel(axes: "Axes", rows: pl.DataFrame, labels: Mapping[Any, str]) -> None:
    # A gap of one bar between comparisons.
    at = (pl.int_range(pl.len()) + pl.col("comparison").rle_id()).cast(pl.Float64)
    rows = rows.with_columns(at=at)
    places = rows["at"].to_list()
    tops = style.stack(axes, places, {name: rows[name].to_list() for name in PARTS}, PARTS, 0.86)
    style.cross_out(axes, places, tops, (~rows["fits"]).to_list(), 0.86)
    low, high = (rows[f"iteration_seconds_{end}"].to_list() for end in ("low", "high"))
    axes.vlines(places, low, high, color=INK, linewidth=BAND_LINE)
    axes.set_xticks(places, [f"{row['ep']}" for row in rows.iter_rows(named=True)])
    axes.set_ylabel("seconds per iteration")
    axes.set_xlim(places[0] - 0.8, places[-1] + 0.8)
    axes.set_title(rows["model"][0])
    axes.yaxis.grid(True)
    axes.tick_params(axis="x", length=0)
    for (comparison,), group in rows.group_by("comparison", maintain_order=True):
        middle = float(group["at"].mean())  # type: ignore[arg-type]
        axes.annotate(
            labels[comparison],
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
