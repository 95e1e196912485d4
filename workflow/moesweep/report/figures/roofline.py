"""How close every op comes to what limits it: products, passes over memory, collectives."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl

from moesweep.cost.compute import peak_flops_per_second
from moesweep.cost.model import with_constants
from moesweep.report.evidence import Evidence
from moesweep.report.figures import style
from moesweep.report.figures.ink import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_BYTES = 64
"""Smallest collective shown."""

_PRODUCTS = ("gemm", "grouped_gemm", "attention")


_ROOFS = ("matrix_flops_per_second", "hbm_bytes_per_second", "nic_bytes_per_second")


def shown(evidence: Evidence) -> style.Shown:
    """Return every distinct op of the sweep, and what limits them: products by the fastest format's peak."""
    distinct = ("kind", "collective", "flops", "hbm_bytes", "wire_bytes", "seconds")
    ops = evidence.ops.filter(pl.col("seconds") > 0).select(distinct).unique(maintain_order=True)
    roofs = {name: evidence.cluster.value(name) for name in _ROOFS}
    formats = evidence.workloads.select("fp8", "fp8_recipe").unique(maintain_order=True)
    peak = with_constants(formats, evidence.cluster.values).select(peak_flops_per_second.max()).item()
    return {"ops": ops, "roofs": roofs | {"matrix_flops_per_second": peak}}


def draw(ops: pl.DataFrame, roofs: Mapping[str, float]) -> "Figure":
    """Draw every distinct op of the sweep below its roof."""
    drawn = style.figure(9.5, 4)
    products, memory, links = drawn.subplots(1, 3)
    _products(products, ops.filter(pl.col("kind").is_in(_PRODUCTS) & (pl.col("hbm_bytes") > 0)), roofs)
    _memory(memory, ops.filter(pl.col("kind").is_in(["elementwise", "optimizer"])), roofs)
    # The gradient norm's 4 bytes would take half of the axis.
    sizeable = (pl.col("kind") == "collective") & (pl.col("wire_bytes") > LEAST_BYTES)
    _links(links, ops.filter(sizeable), roofs)
    for axes in (products, memory, links):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(True)
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, handletextpad=0.2, columnspacing=0.8
        )
    return drawn


def _products(axes: "Axes", ops: pl.DataFrame, roofs: Mapping[str, float]) -> None:
    intensity, rate = pl.col("flops") / pl.col("hbm_bytes"), pl.col("flops") / pl.col("seconds") / 1e12
    _points(axes, ops.with_columns(x=intensity, y=rate), "kind")
    peak = roofs["matrix_flops_per_second"] / 1e12
    bandwidth = roofs["hbm_bytes_per_second"] / 1e12
    low, high = axes.get_xlim()
    ridge = peak / bandwidth
    corners = sorted({low, min(max(ridge, low), high), high})
    axes.plot(corners, [min(peak, bandwidth * x) for x in corners], color=INK, linewidth=1.2, label="roof")
    axes.set_xlabel("flop per byte of device memory")
    axes.set_ylabel("Tflop/s")
    axes.set_title("Products")


def _memory(axes: "Axes", ops: pl.DataFrame, roofs: Mapping[str, float]) -> None:
    rate = pl.col("hbm_bytes") / pl.col("seconds") / 1e9
    _points(axes, ops.with_columns(x=pl.col("hbm_bytes") / 2**20, y=rate), "kind")
    roof = roofs["hbm_bytes_per_second"] / 1e9
    axes.axhline(roof, color=INK, linewidth=1.2, label="device memory")
    axes.set_xlabel("device memory traffic (MiB)")
    axes.set_ylabel("GB/s")
    axes.set_title("Element by element")


def _links(axes: "Axes", ops: pl.DataFrame, roofs: Mapping[str, float]) -> None:
    rate = pl.col("wire_bytes") / pl.col("seconds") / 1e9
    _points(axes, ops.with_columns(x=pl.col("wire_bytes") / 2**20, y=rate), "collective")
    nic = roofs["nic_bytes_per_second"] / 1e9
    axes.axhline(nic, color=INK, linewidth=1.2, linestyle="--", label="one network card")
    axes.set_xlabel("bytes a GPU sends (MiB)")
    axes.set_ylabel("GB/s a GPU sends")
    axes.set_title("Collectives")


def _points(axes: "Axes", ops: pl.DataFrame, by: str) -> None:
    """Draw one mark per op; as pixels in SVG, where thousands of shapes would be heavy."""
    for number, ((name,), rows) in enumerate(sorted(ops.group_by(by))):
        axes.scatter(
            rows["x"], rows["y"], s=9, alpha=0.55, linewidths=0, color=style.SERIES[number],
            marker=style.MARKERS[number], label=str(name).replace("_", " "), rasterized=True,
        )  # fmt: skip
