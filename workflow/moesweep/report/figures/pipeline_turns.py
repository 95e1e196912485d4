"""How the stages of a pipeline take turns."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.figures import style
from moesweep.report.figures.ink import INK, PASSES
from moesweep.report.pass_seconds import OF_AN_OP, pass_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_PASSES = 10
"""How much of either end is shown, in passes of a stage besides one for every stage."""


def shown(evidence: Evidence) -> style.Shown:
    """Return the featured workload: what its passes are made of, and in which order they run."""
    id_ = evidence.featured
    columns = ("workload", "pp", "num_microbatches", "iteration_seconds")
    row = evidence.workloads.filter(pl.col("workload") == id_).select(columns).row(0, named=True)
    ops = evidence.ops.filter(pl.col("workload") == id_).select(OF_AN_OP)
    return {"row": row, "ops": ops, "schedule": evidence.schedule(id_)}


def draw(row: Mapping[str, Any], ops: pl.DataFrame, schedule: pl.DataFrame) -> "Figure":
    """Draw the first and last micro-batches of the featured workload, a line a stage."""
    starts, ends = pass_seconds(ops, pl.DataFrame([row]), schedule)
    steps = schedule.with_columns(start=pl.Series(starts[:, 0]), end=pl.Series(ends[:, 0]))
    total, end = row["iteration_seconds"], float(steps["end"].max())  # type: ignore[arg-type]
    pair = end / max(1, row["num_microbatches"])
    window = min(total, pair * (row["pp"] + SHOWN_PASSES / 2))
    drawn = style.figure(9.5, 1.5 + 0.28 * row["pp"])
    left, right = drawn.subplots(1, 2, sharey=True)
    for axes, (low, high) in zip((left, right), ((0.0, window), (total - window, total)), strict=True):
        _panel(axes, steps.filter((pl.col("end") > low) & (pl.col("start") < high)), row["pp"])
        axes.barh(
            range(row["pp"]),
            total - end,
            left=end,
            height=0.8,
            color=PASSES["closing"],
            label="gradients, optimizer",
        )
        axes.set_xlim(low, high)
        axes.set_xlabel("seconds into the iteration")
    left.set_ylabel("pipeline stage")
    left.set_yticks(range(row["pp"]))
    left.invert_yaxis()
    left.set_title(f"{row['workload']}\nfirst micro-batches")
    right.set_title("last micro-batches")
    handles, labels = right.get_legend_handles_labels()
    style.legend(drawn, handles, labels)
    return drawn


def _panel(axes: "Axes", steps: pl.DataFrame, pp: int) -> None:
    for phase in ("forward", "backward"):
        rows = steps.filter(pl.col("phase") == phase)
        axes.barh(
            rows["stage"], rows["end"] - rows["start"], left=rows["start"], height=0.8, color=PASSES[phase],
            edgecolor="white", linewidth=0.4, label=phase,
        )  # fmt: skip
        for stage, microbatch, start, end in rows.select("stage", "microbatch", "start", "end").iter_rows():
            if pp <= 8:
                colour = "white" if phase == "forward" else INK
                axes.text((start + end) / 2, stage, str(microbatch), ha="center", va="center", fontsize=5.5,
                          color=colour, clip_on=True)  # fmt: skip
