"""Which links carry what: the bytes that stay on a node's own links, and those that leave it."""

import polars as pl

from moesweep.traffic.matrices import leaves_node

_LINK = ("link", "group_kind", "phase")


def links(matrix: pl.DataFrame, world_size: int, gpus_per_node: int) -> pl.DataFrame:
    """Return link, group_kind, phase, total_bytes, bytes_per_gpu and busiest_gpu_bytes of a rank matrix.

    link is `node` where sender and receiver share a node and `network` where they do not. bytes_per_gpu =
    total / world_size, over all GPUs; the busiest GPU is the one that sends most.
    """
    # 128 bits: a sum that its table cannot hold is refused there and never wraps.
    sent = pl.col("bytes").cast(pl.Int128).sum()
    link = pl.when(leaves_node(gpus_per_node)).then(pl.lit("network")).otherwise(pl.lit("node"))
    return (
        matrix.group_by(link.alias("link"), "group_kind", "phase", "src")
        .agg(sent)
        .group_by(_LINK)
        .agg(total_bytes=pl.col("bytes").sum(), busiest_gpu_bytes=pl.col("bytes").max())
        .with_columns(bytes_per_gpu=pl.col("total_bytes") / world_size)
        .sort(_LINK)
    )
