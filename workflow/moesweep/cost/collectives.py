"""Seconds of one collective or message between GPUs placed on nodes.

latency + wire_bytes / bandwidth. Inside a node latency and bandwidth are measured per group size;
across nodes a ring has the latency of its hops (NCCL `tuning.cc`) and the node's NICs, shared by the
communicators that cross at the same time. Ranks fill nodes in order.
"""

import polars as pl

from moesweep.cost.skew import busiest_share, known
from moesweep.cost.timing import Timing, constant
from moesweep.cost.words import Words, among, choose
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.shapes.expressions import by_word
from moesweep.shapes.parallelism import extent, standing

MEASURED_SIZES = (2, 4, 8)
DATA_PARALLEL = ("dp", "edp", "embedding")
"""Kinds whose rings reach `dp_efficiency` of the network."""

size = pl.col("group_size").cast(pl.Float64)
members = pl.col("members_per_node").cast(pl.Float64)
nodes = pl.col("nodes").cast(pl.Float64)
crosses = pl.col("nodes") > 1
sharing = constant("gpus_per_node") / members
"""Communicators of the kind whose members share a node's NICs: one per GPU that is nobody's neighbour."""


PLACE = ("stride", "members_per_node", "nodes")


def place_of(group_kind: str | None) -> dict[str, pl.Expr]:
    """Return PLACE of the communicators of one kind; nothing for ops without one."""
    if group_kind is None:
        return {}
    ranks, stride, runs = extent(group_kind)
    node = pl.col("gpus_per_node").cast(pl.Int64)
    return dict(zip(PLACE, (stride, *standing(ranks, stride, pl.col("world_size"), node, runs)), strict=True))


def places() -> dict[str, pl.Expr]:
    """Return PLACE of the communicator of each op's row; 0 for ops without one."""
    extents = {kind: extent(kind) for kind in GROUP_KINDS}
    ranks, stride, runs = (
        by_word(pl.col("group_kind"), {kind: each[part] for kind, each in extents.items()}, pl.lit(1))
        for part in range(3)
    )
    node = pl.col("gpus_per_node").cast(pl.Int64)
    members_, nodes_ = standing(ranks, stride, pl.col("world_size"), node, runs)
    found = {"stride": stride, "members_per_node": members_, "nodes": nodes_}
    alone = pl.col("group_kind").is_null()
    return {part: pl.when(alone).then(0).otherwise(place) for part, place in found.items()}


def _by_size(name: str) -> pl.Expr:
    """Interpolate a node's measured constant between group sizes 2, 4 and 8, flat outside."""
    two, four, eight = (constant(name.format(n)) for n in MEASURED_SIZES)
    n = members.clip(2, 8)
    between = (
        pl.when(n <= 4).then(two + (four - two) * (n - 2) / 2).otherwise(four + (eight - four) * (n - 4) / 4)
    )
    return between.alias(name.replace("_{}", ""))


def nic_bandwidth() -> pl.Expr:
    """Return what one GPU's share of the node's NICs carries, one direction."""
    carried = constant("nic_bytes_per_second") * constant("fabric_efficiency")
    return carried.alias("gpu_network_bytes_per_second")


def _inside_bandwidth() -> pl.Expr:
    """Return a ring's bus bandwidth inside a node: that of its size, or less where its members stand apart.

    All groups of a kind run at once; without a switch, rings of members 2 or 4 apart share bridges.
    """
    apart = (
        pl.when(pl.col("stride") <= 1)
        .then(float("inf"))
        .when(pl.col("stride") <= 2)
        .then(constant("node_bus_2_apart_bytes_per_second"))
        .otherwise(constant("node_bus_4_apart_bytes_per_second"))
    )
    ring = pl.min_horizontal(_by_size("node_bus_{}_bytes_per_second"), apart)
    return ring.alias("node_ring_bytes_per_second")


def _outside_seconds(op: Words) -> tuple[pl.Expr, pl.Expr]:
    """Return latency and transfer time of a ring across nodes, by the faster of NCCL's protocols.

    Long messages run at full bandwidth with slow steps (Simple), short ones the other way round (LL:
    flags beside the data halve the bandwidth; NCCL `tuning.cc`).
    """
    passes = choose(among(op.collective, "all_reduce"), pl.lit(2.0), pl.lit(1.0))
    network_hops = (passes * (nodes - 1)).alias("network_hops")
    node_hops = (passes * (size - 1) - network_hops).alias("node_hops")
    node_network = constant("ring_efficiency") * nic_bandwidth() * constant("gpus_per_node")
    derate = choose(among(op.group_kind, *DATA_PARALLEL), constant("dp_efficiency"), pl.lit(1.0))
    reached = pl.min_horizontal(constant("node_bus_8_bytes_per_second"), node_network / sharing)
    bandwidth = (derate * reached).alias("network_ring_bytes_per_second")

    def latency(prefix: str) -> pl.Expr:
        base, inner, outer = (
            constant(f"{prefix}{part}_seconds") for part in ("ring_base", "node_hop", "network_hop")
        )
        hops = base + node_hops * inner + network_hops * outer
        return hops.alias(f"{prefix}latency_seconds")

    transfer = (pl.col("wire_bytes") / bandwidth).alias("transfer_seconds")
    slow_bandwidth = pl.min_horizontal(bandwidth / 2, constant("ll_bytes_per_second"))
    slow_transfer = (pl.col("wire_bytes") / slow_bandwidth).alias("ll_transfer_seconds")
    short = latency("ll_") + slow_transfer < latency("") + transfer
    return (
        pl.when(short).then(latency("ll_")).otherwise(latency("")),
        pl.when(short).then(slow_transfer).otherwise(transfer),
    )


def ring(op: Words) -> Timing:
    """Return a ring all_gather, reduce_scatter or all_reduce of `wire_bytes` a rank.

    An all_reduce takes 2(n-1) steps, the others n-1. Across nodes 2(nodes-1), or nodes-1, of them are
    network hops, and the bandwidth is the node's NICs over the communicators that share them, at most
    the node's own; data-parallel rings, many and long, reach `dp_efficiency` of it. Gathers of uneven
    parts run as one broadcast a part, whose links carry n parts instead of n-1.
    """
    half = choose(among(op.collective, "all_reduce"), pl.lit(1.0), pl.lit(0.5))
    inside_latency = _by_size("node_latency_{}_seconds") * half
    inside = (pl.col("wire_bytes") / _inside_bandwidth()).alias("transfer_seconds")
    outside_latency, outside = _outside_seconds(op)
    broadcasts = pl.when(known).then(1.0).otherwise(size / (size - 1) * busiest_share())
    return Timing.link(
        pl.when(crosses).then(outside_latency).otherwise(inside_latency),
        pl.when(crosses).then(outside).otherwise(inside)
        * choose(among(op.group_kind, "etp"), broadcasts, pl.lit(1.0)),
    )


def all_to_all(op: Words) -> Timing:
    """Return a direct all_to_all: every rank sends its shares over NVLink and its NIC at the same time.

    latency · log2(n) + max(share to the node / node bandwidth, share beyond / NIC), times the busiest
    rank's load. Of n members, g stand on one node: (g-1)/n and (n-g)/n of the send buffer.
    """
    buffer = pl.col("comm_bytes") / size
    inside = (members - 1) * buffer / _by_size("node_all_to_all_{}_bytes_per_second")
    beyond = (size - members) * buffer / (constant("all_to_all_efficiency") * nic_bandwidth())
    latency = constant("all_to_all_latency_seconds") * size.log(2)
    transfer = pl.max_horizontal(inside.alias("node_seconds"), beyond.alias("network_seconds"))
    return Timing.link(latency.alias("latency_seconds"), transfer * busiest_share())


def message(op: Words) -> Timing:
    """Return one send between neighbouring stages: over the NIC if the stages stand on different nodes."""
    between_nodes = pl.col("world_size") > constant("gpus_per_node")
    inside = pl.min_horizontal(constant("node_link_bytes_per_second"), _inside_bandwidth())
    link = pl.when(between_nodes).then(nic_bandwidth()).otherwise(inside)
    return Timing.link(
        constant("p2p_latency_seconds"),
        (pl.col("comm_bytes") / (constant("p2p_efficiency") * link)).alias("transfer_seconds"),
    )
