"""Which nodes talk to which, by kind of communicator."""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

COLUMNS = 4
SIDE = 256
"""Squares along a side at most: a panel has about as many dots, and an image of all nodes would not end."""


def shown(evidence: Evidence) -> style.Shown:
    """Return the featured workload's node matrix."""
    id_ = evidence.featured
    (world_size,) = evidence.workloads.filter(pl.col("workload") == id_)["world_size"]
    nodes = -(-world_size // evidence.gpus_per_node)
    # An all_reduce of 4 bytes is a line in a table; on a common scale it would take all the range.
    matrix = evidence.matrix(id_).filter(pl.col("group_kind") != "world")
    return {"workload": id_, "nodes": nodes, "matrix": matrix.select("src", "dst", "group_kind", "bytes")}


def draw(workload: str, nodes: int, matrix: pl.DataFrame) -> "Figure":
    """Draw the node matrix of every group kind, bytes on one logarithmic scale."""
    from matplotlib.colors import LogNorm

    kinds = matrix["group_kind"].unique().sort().to_list()
    if not kinds:
        return style.nothing(f"Nobody talks in {workload}.")
    per_square = -(-nodes // SIDE)
    squares = _squares(matrix, per_square)
    lines = -(-len(kinds) // COLUMNS)
    drawn = style.figure(9.5, 0.5 + 2.25 * lines)
    panels = drawn.subplots(lines, COLUMNS, squeeze=False).ravel()
    high = float(squares["bytes"].max())  # type: ignore[arg-type]
    scale = LogNorm(max(float(squares["bytes"].min()), high / 1e6), high)  # type: ignore[arg-type]
    image: Any = None
    for axes, kind in zip(panels, kinds, strict=False):
        image = _panel(axes, squares.filter(pl.col("group_kind") == kind), nodes, per_square, scale)
        axes.set_title(str(kind))
        axes.set_xlabel("receiving node")
    for axes in panels[::COLUMNS]:
        axes.set_ylabel("sending node")
    for axes in panels[len(kinds) :]:
        axes.set_axis_off()
    square = "" if per_square == 1 else f"\na square: {per_square} × {per_square} nodes"
    drawn.colorbar(image, ax=panels, label=f"bytes per iteration{square}", shrink=0.8)
    drawn.suptitle(workload, fontsize=9.5, fontweight="bold")
    return drawn


def _squares(matrix: pl.DataFrame, per_square: int) -> pl.DataFrame:
    """Return the bytes of every pair of blocks of nodes: src, dst (numbers of blocks), group_kind, bytes."""
    blocks = pl.col("src", "dst") // per_square
    return matrix.with_columns(blocks).group_by("src", "dst", "group_kind").agg(pl.col("bytes").sum())


def _panel(axes: "Axes", squares: pl.DataFrame, nodes: int, per_square: int, scale: "LogNorm") -> Any:
    """Draw one kind's squares, on axes that count nodes however many share a square."""
    from matplotlib.ticker import MaxNLocator

    side = -(-nodes // per_square)
    image = np.full((side, side), np.nan)
    image[squares["src"].to_numpy(), squares["dst"].to_numpy()] = squares["bytes"].to_numpy()
    end = side * per_square - 0.5
    drawn = axes.imshow(image, norm=scale, cmap="cividis_r", extent=(-0.5, end, end, -0.5))
    for axis in (axes.xaxis, axes.yaxis):
        # The usual steps, but there is no half of a node.
        fewest = min(2, nodes)
        axis.set_major_locator(
            MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=fewest)
        )
    return drawn
