"""Activations in the host's memory: what of their copies a pass waits for, and what the device keeps of them.

Copies run on streams of their own, one for either direction, while layers run (Megatron-Core 0.19.2,
`fine_grained_activation_offload.py`).
"""

import polars as pl

from moesweep.cost.timing import constant
from moesweep.shapes.expressions import Part
from moesweep.shapes.offloading import freed_bytes

AHEAD = 2
"""Layers whose activations are on the device besides: one on its way down, one on its way up or at work."""


def host_copy_seconds() -> pl.Expr:
    """Return what an op's bytes take over the link to the host, one direction."""
    link = constant("host_link_fraction") * constant("host_link_bytes_per_second")
    return (pl.col("hbm_bytes") / link).alias("host_copy_seconds")


def waits_for_copies(seconds: pl.Expr) -> pl.Expr:
    """Return how long a pass of some seconds waits for what it copies to the host, or from it.

    All of it but `offload_overlap` of the shorter of both; with blocking launches nothing runs beside it.
    """
    copied = pl.col("copied")
    beside = constant("offload_overlap") * pl.min_horizontal(copied, seconds)
    hidden = pl.when(pl.col("blocking_launches")).then(0.0).otherwise(beside)
    return (copied - hidden).alias("copies_waited_for_seconds")


def freed_activations(layers: dict[bool, pl.Expr], alive: pl.Expr, rows: pl.Expr, part: Part) -> pl.Expr:
    """Return the bytes of activations that a stage has on its host and not on its device.

    Of all sets of layers that are alive what is freed, but for that of AHEAD layers like the largest kind.

    layers   how many layers with experts a stage has, and how many without
    alive    sets of layers that are alive at once
    rows     a rank's expert rows
    """
    freed = {moe: part(f"freed {moe}", freed_bytes(moe, rows)) for moe in layers}
    of_all = alive * (layers[False] * freed[False] + layers[True] * freed[True])
    largest = pl.max_horizontal(
        pl.when(count > 0).then(freed[moe]).otherwise(0) for moe, count in layers.items()
    )
    return pl.max_horizontal(of_all - AHEAD * largest, 0.0).alias("freed_activations_bytes")
