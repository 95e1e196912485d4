"""What a rank sends: round its group's rings, or to the member that stands `offset` places further on."""

import polars as pl

_KEY = ("stage", "group_kind", "phase")


IN_RINGS = 0
"""The offset of what goes round rings: to the neighbours that a rank has in its group's channels."""


def shares(program: pl.DataFrame) -> pl.DataFrame:
    """Return stage, group_kind, phase, offset and bytes: a rank's sends in one iteration, by destination.

    The destination is the member at (position + offset) mod n of the sender's group. What a ring sends has
    the offset IN_RINGS: its channels say to whom. A message goes to the next stage forward and to the one
    before backward. An all_to_all of W wire bytes sends W/(n-1) to every other member; the remainder goes
    byte by byte to the nearest offsets, the same ones for every member, so that all send and receive W.
    """
    n, phase = pl.col("group_size"), pl.col("phase")
    exchanged, message = pl.col("collective") == "all_to_all", pl.col("collective") == "send"
    offsets = (
        pl.when(exchanged)
        .then(pl.int_ranges(1, n))
        .when(message)
        .then(pl.concat_list(pl.when(phase == "backward").then(n - 1).otherwise(1)))
        .otherwise(pl.concat_list(pl.lit(IN_RINGS, dtype=pl.Int64)))
    )
    evenly, rest = pl.col("bytes") // (n - 1), pl.col("bytes") % (n - 1)
    part = evenly + (pl.col("offset") <= rest).cast(pl.Int64)
    return (
        _sent(program)
        .with_columns(offset=offsets)
        .explode("offset")
        .with_columns(bytes=pl.when(exchanged).then(part).otherwise(pl.col("bytes")))
        .group_by(*_KEY, "offset", maintain_order=True)
        .agg(pl.col("bytes").sum())
        .filter(pl.col("bytes") > 0)
    )


def uneven_shares(program: pl.DataFrame, routed: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of `shares` and ep_rank, for ranks whose routing is given.

    `program` has one program for every stage and ep rank; `routed` are the copies between members of an
    EP group (`sent_between`). An all_to_all sends each member its copies: the dispatched ones to their
    expert, forward, and the combined ones back; the other way round backward.
    """
    exchanged = pl.col("collective") == "all_to_all"
    rings = [
        shares(each.filter(~exchanged.fill_null(False))).with_columns(ep_rank=pl.lit(ep_rank, dtype=pl.Int64))
        for (ep_rank,), each in program.partition_by("ep_rank", as_dict=True).items()
    ]
    return pl.concat([*rings, _exchanges(program.filter(exchanged), routed).select(rings[0].columns)])


def _exchanges(exchanges: pl.DataFrame, routed: pl.DataFrame) -> pl.DataFrame:
    """Return each exchange's wire bytes by destination: they are in proportion to the copies, exactly."""
    sends = ["layer", "ep_rank", "out"]
    there = routed.select("layer", "copies", out=pl.lit(True), ep_rank="source", peer="ep_rank")
    back = routed.select("layer", "copies", "ep_rank", out=pl.lit(False), peer="source")
    peers = (
        pl.concat([there, back.select(there.columns)])
        .filter((pl.col("peer") != pl.col("ep_rank")) & (pl.col("copies") > 0))
        .with_columns(part=pl.col("copies").cast(pl.Int128), whole=pl.col("copies").sum().over(sends))
    )
    forward = (pl.col("phase") == "forward") | pl.col("op").str.starts_with("recompute_")
    once = pl.col("wire_bytes") * pl.col("part") // pl.col("whole")
    return (
        exchanges.with_columns(out=pl.col("op").str.ends_with("moe_dispatch") == forward)
        .join(peers, on=sends)
        .with_columns(offset=(pl.col("peer") - pl.col("ep_rank")) % pl.col("group_size"))
        .group_by(*_KEY, "ep_rank", "offset", maintain_order=True)
        .agg(bytes=(once * pl.col("num_microbatches")).sum().cast(pl.Int64))
    )


def _sent(program: pl.DataFrame) -> pl.DataFrame:
    """Return the wire bytes of a stage's rank in one iteration by group kind, phase and collective."""
    once = pl.col("wire_bytes").cast(pl.Int128) * pl.col("num_microbatches")
    return (
        program.filter(pl.col("wire_bytes") > 0)
        .group_by(*_KEY, "collective", "group_size", maintain_order=True)
        # 128 bits: a sum that does not fit the table is an error and never wraps.
        .agg(bytes=once.sum().cast(pl.Int64))
    )
