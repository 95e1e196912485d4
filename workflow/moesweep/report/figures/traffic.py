"""Which nodes talk to which, by kind of communicator."""

from typing import Any

import numpy as np
import polars as pl
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from moesweep.report.evidence import Evidence
from moesweep.report.figures import style

COLUMNS = 4


def traffic(evidence: Evidence) -> Figure:
    """Draw the featured workload's node matrix of every group kind, bytes on one logarithmic scale."""
    id_ = evidence.featured
    matrix = evidence.matrix(id_).group_by("src", "dst", "group_kind").agg(pl.col("bytes").sum())
    # An all_reduce of 4 bytes is a line in a table; on a common scale it would take all the range.
    kinds = [kind for kind in matrix["group_kind"].unique().sort() if kind != "world"]
    if not kinds:
        return style.nothing(f"Nobody talks in {id_}.")
    shown = matrix.filter(pl.col("group_kind").is_in(kinds))
    (world_size,) = evidence.workloads.filter(pl.col("workload") == id_)["world_size"]
    nodes = -(-world_size // evidence.gpus_per_node)
    lines = -(-len(kinds) // COLUMNS)
    drawn = style.figure(9.5, 0.5 + 2.25 * lines)
    panels = drawn.subplots(lines, COLUMNS, squeeze=False).ravel()
    high = float(shown["bytes"].max())  # type: ignore[arg-type]
    scale = LogNorm(max(float(shown["bytes"].min()), high / 1e6), high)  # type: ignore[arg-type]
    image: Any = None
    for axes, kind in zip(panels, kinds, strict=False):
        image = axes.imshow(
            _dense(shown.filter(pl.col("group_kind") == kind), nodes), norm=scale, cmap="cividis_r"
        )
        axes.set_title(str(kind))
        axes.set_xlabel("receiving node")
    for axes in panels[::COLUMNS]:
        axes.set_ylabel("sending node")
    for axes in panels[len(kinds) :]:
        axes.set_axis_off()
    drawn.colorbar(image, ax=panels, label="bytes per iteration", shrink=0.8)
    drawn.suptitle(id_, fontsize=9.5, fontweight="bold")
    return drawn


def _dense(cells: pl.DataFrame, nodes: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    image = np.full((nodes, nodes), np.nan)
    image[cells["src"].to_numpy(), cells["dst"].to_numpy()] = cells["bytes"].to_numpy()
    return image
