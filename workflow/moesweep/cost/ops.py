"""Seconds and bound of every op row."""

import polars as pl

from moesweep.cost import collectives, compute
from moesweep.cost.skew import busiest_share
from moesweep.cost.timing import Timing
from moesweep.shapes.expressions import by_word

TIMINGS: dict[str, Timing] = {
    "gemm": compute.gemm(),
    "grouped_gemm": compute.gemm(),
    "attention": compute.attention(),
    "elementwise": compute.memory_bound(),
    "optimizer": compute.optimizer(),
    "collective": collectives.ring(),
    "all_to_all": collectives.all_to_all(),
    "p2p": collectives.message(),
}
"""The timing of each kind of op. An all_to_all is not a ring."""

# The model reads floats only: products of counts could pass 2^63.
_QUANTITIES = ("m", "n", "k", "groups", "flops", "hbm_bytes", "comm_bytes", "wire_bytes")


def timings() -> dict[str, pl.Expr]:
    """Return `seconds` of one execution and `bound`, over an op's row with place, workload and constants."""
    model = (
        pl.when(pl.col("collective") == "all_to_all")
        .then(pl.lit("all_to_all"))
        .otherwise(pl.col("kind").cast(pl.String))
    )
    seconds = {name: timing.seconds for name, timing in TIMINGS.items()}
    bound = {name: timing.bound for name, timing in TIMINGS.items()}
    # Everything has to wait for the rank whose experts have most to compute.
    expert = compute.base_op.str.starts_with("expert_") & pl.col("collective").is_null()
    load = pl.when(expert).then(busiest_share()).otherwise(1.0)
    return {
        "seconds": by_word(model, seconds, pl.lit(0.0)) * load,
        "bound": by_word(model, bound, pl.lit(None)),
    }


def timed(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Add places and timings to op rows joined with their workload and constants."""
    floats = rows.with_columns(**collectives.places()).with_columns(pl.col(_QUANTITIES).cast(pl.Float64))
    return floats.with_columns(**timings())
