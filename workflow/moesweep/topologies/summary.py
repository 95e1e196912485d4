"""What networks do to workloads, as people read it."""

from collections.abc import Iterator

import polars as pl
from tabulate import tabulate

from moesweep.study.networks import DEFAULT_NETWORK

HEADINGS = (
    "network",
    "MoE slower by, median",
    "most",
    "dense, median",
    "most",
    "ep slowdown",
    "links",
    "switches",
    "USD",
)


def lines(topologies: pl.DataFrame) -> Iterator[str]:
    """Yield what to print: by network, iterations over the default one's, parts for the largest world."""
    own = topologies.filter(network=DEFAULT_NETWORK).select("workload", free="iteration_seconds")
    slower = topologies.join(own, on="workload", maintain_order="left").with_columns(
        slower=pl.col("iteration_seconds") / pl.col("free") - 1
    )
    rows = []
    for (name,), each in slower.group_by("network", maintain_order=True):
        shown = [
            _percent(each.filter(kind=kind)["slower"], worst)
            for kind in ("moe", "dense")
            for worst in (False, True)
        ]
        ep = each.filter(kind="moe").select(pl.col("ep_slowdown").median()).item()
        largest = each.sort("world_size", maintain_order=True).row(-1, named=True)
        parts = [largest["links"], largest["switches"], f"{largest['usd']:.3g}"]
        rows.append([name, *shown, "" if ep is None else f"{ep:.3g}", *parts])
    most = topologies.select(pl.col("world_size").max()).item()
    yield f"{own.height} workloads; parts are those for {most} GPUs"
    yield tabulate(rows, HEADINGS, disable_numparse=True)


def _percent(shares: pl.Series, worst: bool) -> str:
    if shares.is_empty():
        return ""
    return f"{100 * float(shares.max() if worst else shares.median()):.3g} %"  # type: ignore[arg-type]
