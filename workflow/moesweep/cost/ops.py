"""Seconds and bound of every op: chosen by its words, for one op alone or row by row."""

from collections.abc import Callable

import polars as pl

from moesweep.cost import collectives, compute
from moesweep.cost.fused_exchange import fused_exchange
from moesweep.cost.skew import busiest_share
from moesweep.cost.timing import Timing
from moesweep.cost.words import ROWS, Truth, Words, among, choose, missing, starts
from moesweep.shapes.expressions import by_word
from moesweep.shapes.spread import FUSED_EXCHANGES

TIMINGS: dict[str, Callable[[Words], Timing]] = {
    "gemm": compute.gemm,
    "grouped_gemm": compute.gemm,
    "attention": compute.attention,
    "elementwise": compute.memory_bound,
    "optimizer": compute.optimizer,
    "collective": collectives.ring,
    "all_to_all": collectives.all_to_all,
    "fused_exchange": fused_exchange,
    "p2p": collectives.message,
}
"""The timing of each kind of op. An all_to_all is not a ring, and a fused one knows of nodes."""

QUANTITIES = ("m", "n", "k", "groups", "flops", "hbm_bytes", "comm_bytes", "wire_bytes")
"""What the model reads of an op, as floats only: products of counts could pass 2^63."""


def timing(op: Words) -> Timing:
    """Return seconds of one execution and their bound, over quantities, place, workload and constants."""
    kinds = {name: choice(op) for name, choice in TIMINGS.items()} if isinstance(op.kind, pl.Expr) else {}
    if kinds:
        exchanged, plain = among(op.collective, "all_to_all"), op.kind.cast(pl.String)  # type: ignore[union-attr]
        one = pl.when(among(op.base, *FUSED_EXCHANGES)).then(pl.lit("fused_exchange"))
        model = one.when(exchanged).then(pl.lit("all_to_all")).otherwise(plain)
        seconds = by_word(model, {name: each.seconds for name, each in kinds.items()}, pl.lit(0.0))
        bound = by_word(model, {name: each.bound for name, each in kinds.items()}, pl.lit(None))
        chosen = Timing(seconds, bound)
    else:
        exchange = "fused_exchange" if op.base in FUSED_EXCHANGES else "all_to_all"
        chosen = TIMINGS[exchange if op.collective == "all_to_all" else str(op.kind)](op)
    return Timing(_loaded(op, chosen.seconds), chosen.bound)


def _loaded(op: Words, seconds: pl.Expr) -> pl.Expr:
    """Return the seconds on the rank whose experts have most to compute: everything has to wait for it."""
    expert: Truth = starts(op.base, "expert_")
    return choose(expert, choose(missing(op.collective), seconds * busiest_share(), seconds), seconds)


def timings() -> dict[str, pl.Expr]:
    """Return `seconds` of one execution and `bound`, over an op's row with place, workload and constants."""
    rows = timing(ROWS)
    return {"seconds": rows.seconds, "bound": rows.bound}


def timed(folded: pl.DataFrame, workloads: pl.DataFrame) -> pl.DataFrame:
    """Add to op rows their workload with its constants, where their communicators stand, and timings."""
    # Every op of a kind has the communicators of that kind.
    schema = {"workload": pl.String, "group_kind": pl.String} | collectives.PLACE
    places = [pl.DataFrame(schema=schema)]
    for kind in folded["group_kind"].cast(pl.String).drop_nulls().unique().sort():
        where = collectives.place_of(kind, workloads.columns)
        places.append(workloads.select("workload", group_kind=pl.lit(kind), **where))
    return (
        folded.lazy()
        .join(workloads.lazy(), on="workload", maintain_order="left")
        .join(
            pl.concat(places).lazy().with_columns(pl.col("group_kind").cast(folded.schema["group_kind"])),
            on=["workload", "group_kind"],
            how="left",
            maintain_order="left",
        )
        .with_columns(pl.col(*collectives.PLACE).fill_null(0), pl.col(QUANTITIES).cast(pl.Float64))
        .with_columns(**timings())
        .collect()
    )
