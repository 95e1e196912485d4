"""Who sends what to whom where a token crosses to a node once: the flex dispatcher's exchanges.

A rank sends each other node of its etp × ep group one copy of every token that has an expert there, to the
member of its own place on that node. That one passes them on to its neighbours: to each, the tokens of each
of its senders that have an expert on it, as many as a trace says. Results, summed on a node, come the same
way back.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.expressions import exact
from moesweep.shapes.spread import FUSED_EXCHANGES, copies
from moesweep.traffic.messages import Placed
from moesweep.traffic.shares import onward

RELAYED = pl.col("op").str.strip_prefix("recompute_").is_in(FUSED_EXCHANGES)
"""Ops whose messages are found here."""

_NODE = ("group_kind", "group_id", "node")


def relayed(
    program: pl.DataFrame,
    groups: pl.DataFrame,
    ranks: pl.DataFrame,
    placed: Placed,
    workload: Mapping[str, Any],
) -> pl.DataFrame:
    """Return src, dst, group_kind, phase and bytes of the fused exchanges of an iteration, of ranks.

    From the tables `programs`, `groups` and `ranks` of one workload, its row in the catalogue, and where its
    ranks stand.
    """
    runs = _runs(program)
    members = _members(groups, ranks, placed, workload).join(
        runs.select("group_kind").unique(), on="group_kind"
    )
    legs = _legs(members).join(ranks.select("rank", "stage"), on="rank", maintain_order="left")
    made = legs.join(runs, on=["group_kind", "stage"], maintain_order="left_right")
    node_tokens, rank_tokens = pl.col("node_tokens"), pl.col("passed_on") * pl.col("rank_bytes")
    each = pl.when(pl.col("between")).then(node_tokens * _token_bytes(workload)).otherwise(rank_tokens)
    out = pl.col("out")
    return made.select(
        "group_kind",
        "phase",
        src=pl.when(out).then("rank").otherwise("peer"),
        dst=pl.when(out).then("peer").otherwise("rank"),
        bytes=(each.cast(pl.Int128) * pl.col("times")).cast(pl.Int64),
    )


def _token_bytes(workload: Mapping[str, Any]) -> int:
    return s.ELEMENT_BYTES * int(workload["hidden_size"])


def _runs(program: pl.DataFrame) -> pl.DataFrame:
    """Return how often tokens go out to experts, and back, with the bytes for a rank: `rank_bytes`."""
    towards = pl.col("op").str.ends_with("fused_dispatch") == onward()
    return (
        program.filter(RELAYED)
        .group_by("stage", "group_kind", "phase", out=towards, maintain_order=True)
        .agg(
            times=pl.col("num_microbatches").sum(),
            rank_bytes=(pl.col("comm_bytes") // pl.col("group_size")).first(),
        )
    )


def _members(
    groups: pl.DataFrame, ranks: pl.DataFrame, placed: Placed, workload: Mapping[str, Any]
) -> pl.DataFrame:
    """Return the members of exchanging groups with their node, place on it, and the tokens that it gets."""
    members = (
        groups.filter(pl.col("group_kind").is_in(["ep", "tp_ep"]))
        .join(ranks.select("rank", "ep_rank"), on="rank", maintain_order="left")
        .with_columns(node=placed.of("rank") // placed.gpus_per_node)
        .with_columns(
            place=pl.int_range(pl.len(), dtype=pl.Int64).over(_NODE),
            here=pl.len().cast(pl.Int64).over(_NODE),
            ep_ranks=pl.col("ep_rank").n_unique().cast(pl.Int64).over(_NODE),
        )
    )
    told = pl.DataFrame([dict(workload)], infer_schema_length=None)
    sizes = exact(members.select("ep_ranks").unique().join(told, how="cross"))
    held = sizes.select(
        pl.col("ep_ranks").cast(pl.Int64), node_tokens=copies(s.experts / s.ep * pl.col("ep_ranks"))
    )
    return members.join(held, on="ep_ranks", maintain_order="left")


def _legs(members: pl.DataFrame) -> pl.DataFrame:
    """Return rank, peer, whether a leg is `between` nodes, and inside one from how many it is `passed_on`."""
    nodes = members.group_by(_NODE, maintain_order=True).agg("here", "node_tokens", relays="rank")
    far = (
        members.select("group_kind", "group_id", "rank", "place", own="node")
        .join(nodes, on=["group_kind", "group_id"], maintain_order="left_right")
        .filter(pl.col("own") != pl.col("node"))
        .with_columns(at=pl.col("place") % pl.col("relays").list.len())
        .with_columns(
            peer=pl.col("relays").list.get(pl.col("at")), node_tokens=pl.col("node_tokens").list.first()
        )
        .select(
            "group_kind", "rank", "peer", "node_tokens", passed_on=pl.lit(0, pl.Int64), between=pl.lit(True)
        )
    )
    senders = far.group_by("group_kind", rank="peer", maintain_order=True).agg(
        senders=pl.len().cast(pl.Int64)
    )
    near = (
        members.join(senders, on=["group_kind", "rank"], how="left", maintain_order="left")
        .with_columns(passed_on=pl.col("senders").fill_null(0) + 1)
        .join(members.select(*_NODE, peer="rank"), on=_NODE, maintain_order="left_right")
        .filter(pl.col("rank") != pl.col("peer"))
        .select("group_kind", "rank", "peer", "node_tokens", "passed_on", between=pl.lit(False))
    )
    return pl.concat([far, near])
