"""What a rank sends to the member of its group that stands `offset` places further on."""

import polars as pl

_KEY = ("stage", "group_kind", "phase")


def shares(program: pl.DataFrame) -> pl.DataFrame:
    """Return stage, group_kind, phase, offset and bytes: a rank's sends in one iteration, by destination.

    The destination is the member at (position + offset) mod n of the sender's group. A ring sends all of
    its wire bytes to the next member. A message goes to the next stage forward and to the one before
    backward. An all_to_all of W wire bytes sends W/(n-1) to every other member; the remainder goes byte by
    byte to the nearest offsets, the same ones for every member, so that all send and receive W.
    """
    n, phase = pl.col("group_size"), pl.col("phase")
    exchanged = pl.col("collective") == "all_to_all"
    backward_message = (pl.col("collective") == "send") & (phase == "backward")
    offsets = (
        pl.when(exchanged)
        .then(pl.int_ranges(1, n))
        .when(backward_message)
        .then(pl.concat_list(n - 1))
        .otherwise(pl.concat_list(pl.lit(1, dtype=pl.Int64)))
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


def _sent(program: pl.DataFrame) -> pl.DataFrame:
    """Return the wire bytes of a stage's rank in one iteration by group kind, phase and collective."""
    once = pl.col("wire_bytes").cast(pl.Int128) * pl.col("num_microbatches")
    return (
        program.filter(pl.col("wire_bytes") > 0)
        .group_by(*_KEY, "collective", "group_size", maintain_order=True)
        # 128 bits: a sum that does not fit the table is an error and never wraps.
        .agg(bytes=once.sum().cast(pl.Int64))
    )
