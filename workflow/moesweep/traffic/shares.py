"""What a rank sends in one execution of an op: round its group's rings, or to members so many places on."""

from collections.abc import Sequence

import polars as pl

RINGS = pl.col("collective").is_in(["all_gather", "reduce_scatter", "all_reduce"])
"""Collectives that run as rings; the others go to members that an offset names."""


EXCHANGES = (pl.col("collective") == "all_to_all") & (pl.col("group_kind") == "ep")
"""Exchanges of tokens between experts: what each member gets is given where routing is."""


def onward() -> pl.Expr:
    """Return whether an op is of a forward pass, or repeats it."""
    return (pl.col("phase") == "forward") | pl.col("op").str.starts_with("recompute_")


def sent(program: pl.DataFrame, who: Sequence[str]) -> pl.DataFrame:
    """Return how often ranks send how much: `who`, an op's communication, one such `op`, and `times`.

    who   what tells programs apart: the stage, and the ep rank where routing is given
    """
    return (
        program.filter(pl.col("wire_bytes") > 0)
        .with_columns(onward=onward())
        .group_by(
            *who,
            "group_kind",
            "phase",
            "onward",
            "collective",
            "group_size",
            "wire_bytes",
            maintain_order=True,
        )
        .agg(pl.col("op").first(), times=pl.col("num_microbatches").sum())
        .drop("onward")
    )


def to_offsets(ops: pl.DataFrame) -> pl.DataFrame:
    """Return exchanges and messages once for each destination, with its `offset` and `bytes`.

    The destination is the member at (position + offset) mod n of the sender's group. A message goes to the
    next stage forward and to the one before backward; so it does round a ring of cp ranks, where what is
    recomputed goes forward. An all_to_all of W wire bytes sends W/(n-1) to every
    other member; the remainder goes byte by byte to the nearest offsets, the same ones for every member, so
    that all send and receive W.
    """
    n, wire = pl.col("group_size"), pl.col("wire_bytes")
    exchanged = pl.col("collective") == "all_to_all"
    backward = ~onward() & ~exchanged
    part = wire // (n - 1) + (pl.col("offset") <= wire % (n - 1)).cast(pl.Int64)
    one = pl.concat_list(pl.when(backward).then(n - 1).otherwise(1))
    return (
        ops.filter(~RINGS)
        .with_columns(offset=pl.when(exchanged).then(pl.int_ranges(1, n)).otherwise(one))
        .explode("offset")
        .with_columns(bytes=pl.when(exchanged).then(part).otherwise(wire))
    )


def to_copies(exchanges: pl.DataFrame, routed: pl.DataFrame) -> pl.DataFrame:
    """Return all_to_alls of ep ranks once for each destination, where routing is given: `offset`, `bytes`.

    `routed` are the copies between members of an EP group (`sent_between`). An exchange sends each member its
    copies: the dispatched ones to their expert, forward, and the combined ones back; the other way round
    backward. Wire bytes are in proportion to the copies, exactly.
    """
    sends = ["layer", "ep_rank", "out"]
    there = routed.select("layer", "copies", out=pl.lit(True), ep_rank="source", peer="ep_rank")
    back = routed.select("layer", "copies", "ep_rank", out=pl.lit(False), peer="source")
    peers = (
        pl.concat([there, back.select(there.columns)])
        .filter((pl.col("peer") != pl.col("ep_rank")) & (pl.col("copies") > 0))
        .with_columns(part=pl.col("copies").cast(pl.Int128), whole=pl.col("copies").sum().over(sends))
    )
    return (
        exchanges.with_columns(out=pl.col("op").str.ends_with("moe_dispatch") == onward())
        .join(peers, on=sends, maintain_order="left_right")
        .with_columns(
            offset=(pl.col("peer") - pl.col("ep_rank")) % pl.col("group_size"),
            bytes=(pl.col("wire_bytes") * pl.col("part") // pl.col("whole")).cast(pl.Int64),
        )
        .select(*exchanges.columns, "offset", "bytes")
    )


def around(ops: pl.DataFrame, channels: Sequence[int]) -> pl.DataFrame:
    """Return rings once for each number of channels, with a channel's bytes, `evenly`, and what is `left`."""
    each = pl.DataFrame({"channels": channels}, schema={"channels": pl.Int64})
    wire, number = pl.col("wire_bytes"), pl.col("channels")
    return ops.filter(RINGS).join(each, how="cross").with_columns(evenly=wire // number, left=wire % number)
