"""From what ranks send to who gets it: pairs of ranks, for sums over an iteration and for single ops."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from moesweep.shapes.rings import ring_shares
from moesweep.study.routing import sent_between
from moesweep.traffic.shares import EXCHANGES, RINGS, around, to_copies, to_offsets


@dataclass(frozen=True)
class Placed:
    """Where ranks stand: on nodes of so many GPUs, rank r on GPU `gpus[r]`; on GPU r where there is none."""

    gpus_per_node: int
    gpus: pl.Series | None = None

    def of(self, rank: str) -> pl.Expr:
        """Return the GPU of a column of ranks."""
        return pl.col(rank) if self.gpus is None else pl.lit(self.gpus).gather(pl.col(rank))


@dataclass(frozen=True)
class Communicators:
    """Tables `groups` and `ranks` of a workload, and where its ranks stand."""

    groups: pl.DataFrame
    ranks: pl.DataFrame
    placed: Placed

    def rings(self, kinds: pl.Series) -> pl.DataFrame:
        """Return whom the members of some kinds' groups send to in rings (`ring_shares`)."""
        members = self.groups.filter(pl.col("group_kind").is_in(kinds.unique().implode()))
        standing = members.with_columns(node=self.placed.of("rank") // self.placed.gpus_per_node)
        if self.placed.gpus is not None:
            standing = standing.sort("group_kind", "group_id", "node", maintain_order=True)
        return ring_shares(standing)

    def at_offsets(self, sends: pl.DataFrame, who: Sequence[str], keep: Sequence[str]) -> pl.DataFrame:
        """Return sends with an `offset`, once for each rank that makes them: src, dst, `keep` and bytes."""
        # A group's members stand one after the other in `groups`, so a peer is found by its distance.
        row = pl.int_range(pl.len(), dtype=pl.Int64)
        members = self.groups.with_columns(first=row - pl.col("position"))
        peer = pl.col("first") + (pl.col("position") + pl.col("offset")) % pl.col("group_size")
        made = (
            members.join(self.ranks.select("rank", *who), on="rank", maintain_order="left")
            .join(
                sends.select(*who, "group_kind", "offset", "bytes", *keep).filter(pl.col("bytes") > 0),
                on=[*who, "group_kind"],
                maintain_order="left_right",
            )
            .select(pl.col("rank").alias("src"), "group_kind", *keep, "bytes", peer=peer)
        )
        return made.with_columns(dst=self.groups["rank"].gather(made["peer"])).select(
            "src", "dst", "group_kind", *keep, "bytes"
        )

    def in_rings(
        self, shared: pl.DataFrame, sums: pl.DataFrame, who: Sequence[str], keep: Sequence[str]
    ) -> pl.DataFrame:
        """Return what goes round rings (`around`), by rank and neighbour: src, dst, `keep` and bytes."""
        bytes_ = pl.col("share") * pl.col("evenly") + pl.col("rest") * pl.col("left")
        return (
            shared.join(self.ranks.select("rank", *who), on="rank", maintain_order="left")
            .join(sums, on=[*who, "group_kind", "channels"], maintain_order="left_right")
            .with_columns(bytes=bytes_, src="rank", dst="peer")
            .select("src", "dst", "group_kind", *keep, "bytes")
        )


def op_messages(
    program: pl.DataFrame, communicators: Communicators, routing: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return who sends what to whom in one execution of each op: src, dst, group_kind, op_index, bytes.

    Over ranks, not the GPUs they stand on; a ring's bytes are those of all its steps. `program` has a column
    `ep_rank` where `routing`, the table given_routing, is given.
    """
    who = ["stage"] if routing is None else ["stage", "ep_rank"]
    ops = program.filter(pl.col("wire_bytes") > 0).with_columns(pl.col("group_kind").cast(pl.String))
    fixed = ops if routing is None else ops.filter(~EXCHANGES)
    sends = [to_offsets(fixed)]
    if routing is not None:
        copies = to_copies(ops.filter(EXCHANGES), copies_between(routing, communicators.ranks))
        sends.append(copies.select(sends[0].columns))
    shared = communicators.rings(ops.filter(RINGS)["group_kind"])
    rings = around(ops, shared["channels"].unique().sort().to_list())
    parts = [
        communicators.at_offsets(pl.concat(sends), who, ["op_index"]),
        communicators.in_rings(shared, rings, who, ["op_index"]),
    ]
    cell = ("src", "op_index", "dst", "group_kind")
    return pl.concat(parts).group_by(cell).agg(pl.col("bytes").sum()).filter(pl.col("bytes") > 0).sort(cell)


def copies_between(routing: pl.DataFrame, ranks: pl.DataFrame) -> pl.DataFrame:
    """Return the copies between members of an EP group, from the table given_routing."""
    ep, etp = (1 + int(ranks[f"{kind}_rank"].max()) for kind in ("ep", "etp"))  # type: ignore[arg-type]
    return sent_between(routing, ep, etp)
