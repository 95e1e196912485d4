"""Seconds and bound of every op: chosen by its words, for one op alone or row by row."""

from collections.abc import Callable, Iterable

import polars as pl

from moesweep.cost import collectives, compute
from moesweep.cost.collectives import OF_THE_WORLD, PLACE, extent_of, placed
from moesweep.cost.fused_exchange import fused_exchange
from moesweep.cost.skew import busiest_share
from moesweep.cost.timing import Timing
from moesweep.cost.words import ROWS, Truth, Words, among, choose, missing, starts
from moesweep.shapes.communication import GROUP_KINDS
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


def timing(op: Words, models: Iterable[str] = TIMINGS) -> Timing:
    """Return seconds of one execution and their bound, over quantities, place, workload and constants.

    Of rows, `models` are the timings that some of them have: what none has need not be computed for all.
    """
    if isinstance(op.kind, pl.Expr):
        each = {name: TIMINGS[name](op) for name in models}
        model = _model(op)
        seconds = by_word(model, {name: one.seconds for name, one in each.items()}, pl.lit(0.0))
        bound = by_word(model, {name: one.bound for name, one in each.items()}, pl.lit(None))
        chosen = Timing(seconds, bound)
    else:
        exchange = "fused_exchange" if op.base in FUSED_EXCHANGES else "all_to_all"
        chosen = TIMINGS[exchange if op.collective == "all_to_all" else str(op.kind)](op)
    return Timing(_loaded(op, chosen.seconds), chosen.bound)


def _model(rows: Words) -> pl.Expr:
    """Return the name of each row's timing."""
    exchanged, plain = among(rows.collective, "all_to_all"), rows.kind.cast(pl.String)  # type: ignore[union-attr]
    one = pl.when(among(rows.base, *FUSED_EXCHANGES)).then(pl.lit("fused_exchange"))
    return one.when(exchanged).then(pl.lit("all_to_all")).otherwise(plain)


def _loaded(op: Words, seconds: pl.Expr) -> pl.Expr:
    """Return the seconds on the rank whose experts have most to compute: everything has to wait for it."""
    waits: Truth = starts(op.base, "expert_") & missing(op.collective)
    return seconds if waits is False else seconds * choose(waits, busiest_share(), pl.lit(1.0))


def timings(models: Iterable[str] = TIMINGS) -> dict[str, pl.Expr]:
    """Return `seconds` of one execution and `bound`, over an op's row with place, workload and constants."""
    rows = timing(ROWS, models)
    return {"seconds": rows.seconds, "bound": rows.bound}


def timed(folded: pl.DataFrame, workloads: pl.DataFrame) -> pl.DataFrame:
    """Add to op rows their workload with its constants, where their communicators stand, and timings."""
    models = folded.select(_model(ROWS)).to_series().unique().sort()
    return (
        folded.lazy()
        .join(workloads.lazy(), on="workload", maintain_order="left")
        # Every op of a kind has the communicators of that kind.
        .join(
            _places(workloads).lazy().with_columns(pl.col("group_kind").cast(folded.schema["group_kind"])),
            on=["workload", "group_kind"],
            how="left",
            maintain_order="left",
        )
        .with_columns(pl.col(*PLACE).fill_null(0), pl.col(QUANTITIES).cast(pl.Float64))
        .with_columns(**timings(models))
        .collect()
    )


def _places(workloads: pl.DataFrame) -> pl.DataFrame:
    """Return where the communicators of each kind stand on each workload."""
    extents = [
        workloads.select("workload", *OF_THE_WORLD, **extent_of(kind, workloads.columns)).with_columns(
            group_kind=pl.lit(kind)
        )
        for kind in GROUP_KINDS
    ]
    return placed(pl.concat(extents)).select("workload", "group_kind", *PLACE)
