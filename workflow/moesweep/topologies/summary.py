"""What networks do to workloads, as people read it: a table and three sentences."""

from collections.abc import Iterator

import polars as pl
from tabulate import tabulate

from moesweep.report.networks import KINDS, percent, sentences, slower

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
    shares = {(row["network"], row["kind"]): row for row in slower(topologies).iter_rows(named=True)}
    rows = []
    for (name,), each in topologies.group_by("network", maintain_order=True):
        of_kinds = [shares.get((name, kind), {}) for kind in KINDS]
        shown = [percent(own.get(measure)) for own in of_kinds for measure in ("median", "most")]
        ep = each.filter(kind="moe").select(pl.col("ep_slowdown").median()).item()
        largest = each.sort("world_size", maintain_order=True).row(-1, named=True)
        parts = [largest["links"], largest["switches"], f"{largest['usd']:.3g}"]
        rows.append([name, *shown, "" if ep is None else f"{ep:.3g}", *parts])
    most = topologies.select(pl.col("world_size").max()).item()
    yield f"{topologies['workload'].n_unique()} workloads; parts are those for {most} GPUs"
    yield tabulate(rows, HEADINGS, disable_numparse=True)
    yield from sentences(slower(topologies))
