"""What networks do to workloads, as people read it: a table, three sentences, a figure."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import polars as pl
from tabulate import tabulate

from moesweep.report.figures import style
from moesweep.report.figures.ink import INK
from moesweep.study.networks import DEFAULT_NETWORK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {"moe": "MoE", "dense": "dense"}

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

TICKS = (*(0.5, 0.7, 1, 1.2, 1.5, 2, 3, 5, 7), *(10, 15, 20, 30, 50, 70, 100, 1000))

NOTHING = 1e-9
"""Below it a difference is one of rounding."""


def slower(topologies: pl.DataFrame) -> pl.DataFrame:
    """Return network, kind and by how much longer iterations are than on the default: `median`, `most`."""
    own = topologies.filter(network=DEFAULT_NETWORK).select("workload", free="iteration_seconds")
    more = pl.col("iteration_seconds") / pl.col("free") - 1
    return (
        topologies.join(own, on="workload", maintain_order="left")
        .group_by("network", "kind", maintain_order=True)
        .agg(median=more.median(), most=more.max())
    )


def lines(topologies: pl.DataFrame) -> Iterator[str]:
    """Yield what to print: by network, iterations over the default one's, parts for the largest world."""
    shares = {(row["network"], row["kind"]): row for row in slower(topologies).iter_rows(named=True)}
    rows = []
    for (name,), each in topologies.group_by("network", maintain_order=True):
        of_kinds = [shares.get((name, kind), {}) for kind in KINDS]
        shown = [_percent(own.get(measure)) for own in of_kinds for measure in ("median", "most")]
        ep = each.filter(kind="moe").select(pl.col("ep_slowdown").median()).item()
        largest = each.sort("world_size", maintain_order=True).row(-1, named=True)
        parts = [largest["links"], largest["switches"], f"{largest['usd']:.3g}"]
        rows.append([name, *shown, "" if ep is None else f"{ep:.3g}", *parts])
    most = topologies.select(pl.col("world_size").max()).item()
    yield f"{topologies['workload'].n_unique()} workloads; parts are those for {most} GPUs"
    yield tabulate(rows, HEADINGS, disable_numparse=True)
    yield from sentences(slower(topologies))


def sentences(found: pl.DataFrame) -> Iterator[str]:
    """Yield what networks do to MoE and to dense workloads, of the rows of `slower`: three sentences.

    Which lengthen no iteration; which lengthens the median one most; where MoE loses more than dense.
    """
    others = found.filter(pl.col("network") != DEFAULT_NETWORK)
    if others.is_empty():
        return
    names = others["network"].unique(maintain_order=True).to_list()
    slow = set(others.filter(pl.col("most") > NOTHING)["network"])
    free = [name for name in names if name not in slow]
    verb = "lengthens" if len(free) == 1 else "lengthen"
    yield f"Of {_counted(len(names))}, {len(free)} {verb} no iteration{_listed(free)}."
    longest = []
    for kind, word in KINDS.items():
        own = others.filter(kind=kind).sort("median", descending=True, maintain_order=True)
        if own.height and own["median"][0] > NOTHING:
            longest.append(f"{word} ones by {_percent(own['median'][0])} on {own['network'][0]}")
    if longest:
        yield f"In the median they lengthen iterations at the most: {', '.join(longest)}."
    if set(KINDS) <= set(others["kind"]):
        yield _against_dense(others)


def _against_dense(others: pl.DataFrame) -> str:
    moe, dense = (others.filter(kind=kind).select("network", pl.col("median").alias(kind)) for kind in KINDS)
    both = moe.join(dense, on="network", maintain_order="left").with_columns(
        more=pl.col("moe") - pl.col("dense")
    )
    parts = []
    for first, second, sign in (("moe", "dense", 1), ("dense", "moe", -1)):
        # Where both gain, neither loses more.
        ahead = both.filter((pl.col("more") * sign > NOTHING) & (pl.col(first) > NOTHING)).sort(
            pl.col("more") * sign, descending=True, maintain_order=True
        )
        if ahead.height:
            row = ahead.row(0, named=True)
            shares = f"{_percent(row[first])} against {_percent(row[second])}"
            most = f", most on {row['network']} ({shares})"
        else:
            most = ""
        parts.append(f"{KINDS[first]} loses more than {KINDS[second]} on {ahead.height}{most}")
    return f"In the median {'; '.join(parts)}."


def draw(rows: pl.DataFrame) -> "Figure":
    """Draw iterations over those on the default network, by network: the median, and a line up to the most.

    rows  as `slower` returns them
    """
    names = rows["network"].unique(maintain_order=True).to_list()
    drawn = style.figure(7.5, 1.3 + 0.3 * len(names))
    axes = drawn.subplots()
    axes.axvline(1, color=INK, linewidth=0.8)
    for number, (kind, word) in enumerate(KINDS.items()):
        own = rows.filter(kind=kind)
        at = [names.index(name) + 0.3 * (number - 0.5) for name in own["network"]]
        median, most = ((own[name] + 1).to_list() for name in ("median", "most"))
        colour, marker = style.SERIES[number], style.MARKERS[number]
        axes.hlines(at, median, most, color=colour, linewidth=1.2)
        axes.scatter(median, at, s=26, marker=marker, color=colour, label=f"{word}: median, up to the most")
    axes.set_xscale("log")
    axes.set_xticks(TICKS, map("{:g}".format, TICKS))
    axes.set_xticks([], minor=True)
    axes.set_xlim(0.9 * float((rows["median"] + 1).min()), 1.1 * float((rows["most"] + 1).max()))  # type: ignore[arg-type]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"iteration over that on a {DEFAULT_NETWORK} network (ratio, log scale)")
    axes.xaxis.grid(True)
    drawn.legend(loc="outside upper center", ncols=len(KINDS))
    return drawn


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.3g} %"


def _counted(networks: int) -> str:
    return "1 network" if networks == 1 else f"{networks} networks"


def _listed(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ""
