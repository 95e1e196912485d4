"""Seconds of collectives on a cluster as nccl-tests measures them: out of the expressions of the costs."""

from collections.abc import Mapping, Sequence

import polars as pl

from moesweep.cost.collectives import all_to_all, exchange_ways, inside_ways, outside_ways, ring
from moesweep.cost.timing import Ways
from moesweep.cost.words import Words

BUS_FACTORS = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}
"""Collectives, and f of their bus bandwidth, f·(n-1)/n of the buffer a second (nccl-tests, PERFORMANCE)."""

COLUMNS = (
    *("collective", "nodes", "ranks", "buffer_bytes", "seconds"),
    *("algbw_bytes_per_second", "busbw_bytes_per_second"),
)


def predicted(
    constants: Mapping[str, float], collectives: Sequence[str], nodes: int, ranks: int, sizes: Sequence[int]
) -> pl.DataFrame:
    """Return COLUMNS and the `way` taken of one communicator of neighbouring ranks, as many on each node.

    The network between the nodes blocks nothing.

    sizes   bytes of the buffer: what a rank has in the end (all_gather), at first (reduce_scatter,
            all_to_all), both (all_reduce)
    """
    frames = [_of(constants, collective, nodes, ranks, sizes) for collective in collectives]
    return pl.concat(frames).select(*COLUMNS, "way")


def _of(
    constants: Mapping[str, float], collective: str, nodes: int, ranks: int, sizes: Sequence[int]
) -> pl.DataFrame:
    op = Words(collective, "collective", "forward", collective, "world")
    wire = BUS_FACTORS[collective] * (ranks - 1) / ranks
    frame = pl.DataFrame({"comm_bytes": sizes}, schema={"comm_bytes": pl.Float64}).with_columns(
        wire_bytes=pl.col("comm_bytes") * wire,
        group_size=pl.lit(ranks),
        world_size=pl.lit(ranks),
        members_per_node=pl.lit(ranks // nodes),
        nodes=pl.lit(nodes),
        stride=pl.lit(1),
        slowdown=pl.lit(1.0),
        deterministic_mode=pl.lit(False),
        # Every rank brings as much as the others.
        routing=pl.lit("balanced"),
        moe_pad_expert_input_to_capacity=pl.lit(False),
        ep=pl.lit(1),
        num_experts=pl.lit(1),
        moe_router_topk=pl.lit(1),
        **{name: pl.lit(value) for name, value in constants.items()},
    )
    exchange = collective == "all_to_all"
    ways = exchange_ways(op) if exchange else outside_ways(op) if nodes > 1 else inside_ways(op)
    seconds = (all_to_all(op) if exchange else ring(op)).seconds
    return frame.select(
        collective=pl.lit(collective),
        nodes=pl.lit(nodes, pl.Int64),
        ranks=pl.lit(ranks, pl.Int64),
        buffer_bytes=pl.col("comm_bytes").cast(pl.Int64),
        seconds=seconds,
        algbw_bytes_per_second=pl.col("comm_bytes") / seconds,
        busbw_bytes_per_second=pl.col("wire_bytes") / seconds,
        way=_name(ways),
    )


def _name(ways: Ways) -> pl.Expr:
    """Return which way is the fastest, the first of equals."""
    totals = {name: latency + transfer for name, (latency, transfer) in ways.items()}
    least = pl.min_horizontal(*totals.values())
    first = [pl.when(total <= least).then(pl.lit(name)) for name, total in totals.items()]
    return pl.coalesce(*first)
