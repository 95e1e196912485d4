"""Sparse traffic matrices: who sends how much to whom, by group kind and phase."""

from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl

from moesweep.shapes.rings import ring_shares
from moesweep.study.routing import sent_between
from moesweep.traffic.shares import IN_RINGS, shares, uneven_shares

Level = Literal["rank", "node", "rail"]
LEVELS: tuple[Level, ...] = get_args(Level)

CELL = ("src", "dst", "group_kind", "phase")
"""What a row of a matrix stands for; its value is `bytes`."""


@dataclass(frozen=True)
class Placed:
    """Where ranks stand: on nodes of so many GPUs, rank r on GPU `gpus[r]`; on GPU r where there is none."""

    gpus_per_node: int
    gpus: pl.Series | None = None

    def of(self, rank: str) -> pl.Expr:
        """Return the GPU of a column of ranks."""
        return pl.col(rank) if self.gpus is None else pl.lit(self.gpus).gather(pl.col(rank))


def rank_matrix(
    program: pl.DataFrame, groups: pl.DataFrame, ranks: pl.DataFrame, placed: Placed
) -> pl.DataFrame:
    """Return src, dst, group_kind, phase and bytes of one iteration, one row per pair of GPUs that talk.

    From the tables `programs`, `groups` and `ranks` of one workload; ordered by src, dst, kind and phase.
    The rows of a src sum to the wire bytes of its rank's trace, exactly.
    """
    return _between(shares(program), groups, ranks, placed)


def uneven_rank_matrix(
    program: pl.DataFrame, groups: pl.DataFrame, ranks: pl.DataFrame, routing: pl.DataFrame, placed: Placed
) -> pl.DataFrame:
    """Return the same where routing is given; `program` has a column `ep_rank` and one program for each."""
    ep, etp = (1 + int(ranks[f"{kind}_rank"].max()) for kind in ("ep", "etp"))  # type: ignore[arg-type]
    return _between(uneven_shares(program, sent_between(routing, ep, etp)), groups, ranks, placed)


def _between(sent: pl.DataFrame, groups: pl.DataFrame, ranks: pl.DataFrame, placed: Placed) -> pl.DataFrame:
    """Return the matrix of ranks that send `sent`: by stage, or by stage and ep rank."""
    who = [name for name in ("stage", "ep_rank") if name in sent.columns]
    senders = ranks.select("rank", *who)
    round_rings = pl.col("offset") == IN_RINGS
    there = _at_offsets(sent.filter(~round_rings), groups, senders)
    around = _in_rings(sent.filter(round_rings), groups, senders, placed)
    cells = pl.concat([there, around]).with_columns(src=placed.of("src"), dst=placed.of("dst"))
    return cells.group_by(CELL).agg(pl.col("bytes").sum()).filter(pl.col("bytes") > 0).sort(CELL)


def _at_offsets(sent: pl.DataFrame, groups: pl.DataFrame, senders: pl.DataFrame) -> pl.DataFrame:
    """Return what exchanges and messages send, to members so many places further on."""
    # A group's members stand one after the other in `groups`, so a peer is found by its distance.
    row = pl.int_range(pl.len(), dtype=pl.Int64)
    members = groups.with_columns(first=row - pl.col("position"))
    peer = pl.col("first") + (pl.col("position") + pl.col("offset")) % pl.col("group_size")
    sends = (
        members.join(senders, on="rank")
        .join(sent, on=[*senders.columns[1:], "group_kind"])
        .select(pl.col("rank").alias("src"), "group_kind", "phase", "bytes", peer=peer)
    )
    return sends.with_columns(dst=groups["rank"].gather(sends["peer"])).select(*CELL, "bytes")


def _in_rings(
    sent: pl.DataFrame, groups: pl.DataFrame, senders: pl.DataFrame, placed: Placed
) -> pl.DataFrame:
    """Return what goes round rings, to the neighbours in their channels."""
    rings = groups.filter(pl.col("group_kind").is_in(sent["group_kind"].unique().implode()))
    standing = rings.with_columns(node=placed.of("rank") // placed.gpus_per_node)
    if placed.gpus is not None:
        standing = standing.sort("group_kind", "group_id", "node", maintain_order=True)
    shared = ring_shares(standing)
    evenly, rest = pl.col("bytes") // pl.col("channels"), pl.col("bytes") % pl.col("channels")
    return (
        shared.join(senders, on="rank")
        .join(sent, on=[*senders.columns[1:], "group_kind"])
        .with_columns(bytes=pl.col("share") * evenly + pl.col("rest") * rest, src="rank", dst="peer")
        .select(*CELL, "bytes")
    )


def aggregated(matrix: pl.DataFrame, level: Level, gpus_per_node: int) -> pl.DataFrame:
    """Return a rank matrix summed over nodes or rails; as it is for level `rank`.

    node: ranks fill nodes in order, rank // gpus_per_node; the diagonal is what stays on a node's links.
    rail: rank % gpus_per_node, the GPUs that share a rail switch; only what leaves its node, because what
    stays inside travels on no rail.
    """
    if level == "rank":
        return matrix
    ends = pl.col("src", "dst")
    if level == "node":
        placed = matrix.with_columns(ends // gpus_per_node)
    else:
        placed = matrix.filter(leaves_node(gpus_per_node)).with_columns(ends % gpus_per_node)
    # 128 bits: a sum that its table cannot hold is refused there and never wraps.
    return placed.group_by(CELL).agg(pl.col("bytes").cast(pl.Int128).sum()).sort(CELL)


def leaves_node(gpus_per_node: int) -> pl.Expr:
    """Return whether the two ranks of a row stand on different nodes."""
    return pl.col("src") // gpus_per_node != pl.col("dst") // gpus_per_node
