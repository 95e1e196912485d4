"""What networks do to MoE and to dense workloads, in three sentences, from the table `topologies`."""

from collections.abc import Iterator, Sequence

import polars as pl

from moesweep.study.networks import DEFAULT_NETWORK

KINDS = {"moe": "MoE", "dense": "dense"}

NOTHING = 1e-9
"""Below it a difference is one of rounding."""


def slower(topologies: pl.DataFrame) -> pl.DataFrame:
    """Return network, kind and by how much longer iterations are than on the default: `median`, `most`."""
    own = topologies.filter(network=DEFAULT_NETWORK).select("workload", free="iteration_seconds")
    more = pl.col("iteration_seconds") / pl.col("free") - 1
    return (
        topologies.join(own, on="workload", how="inner", maintain_order="left")
        .group_by("network", "kind", maintain_order=True)
        .agg(median=more.median(), most=more.max())
    )


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
            longest.append(f"{word} ones by {percent(own['median'][0])} on {own['network'][0]}")
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
            shares = f"{percent(row[first])} against {percent(row[second])}"
            most = f", most on {row['network']} ({shares})"
        else:
            most = ""
        parts.append(f"{KINDS[first]} loses more than {KINDS[second]} on {ahead.height}{most}")
    return f"In the median {'; '.join(parts)}."


def percent(share: float | None) -> str:
    """Return a share of one as a percentage; nothing for none, and 0 for what is rounding."""
    if share is None:
        return ""
    return f"{100 * share if abs(share) > NOTHING else 0.0:.3g} %"


def _counted(networks: int) -> str:
    return "1 network" if networks == 1 else f"{networks} networks"


def _listed(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ""
