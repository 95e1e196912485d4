"""Seconds of one collective or message between GPUs placed on nodes.

latency + wire_bytes / bandwidth, of the fastest of the ways that NCCL has. Inside a node latency and
bandwidth are measured per group size; across nodes a ring or tree has the latency of its hops (NCCL
`tuning.cc`) and the node's NICs, shared by the communicators that cross at the same time. Ranks fill nodes in
order. What a kind transfers across nodes takes its slowdown on the cluster's network longer
(moesweep.network.slowdown): 1 where that does not block.
"""

from collections.abc import Iterable

import polars as pl

from moesweep.cost.skew import busiest_share, known
from moesweep.cost.timing import Timing, Ways, constant
from moesweep.cost.words import Words, among, choose, expression, starts
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.shapes.expressions import by_word
from moesweep.shapes.standing import Extent, extent, standing, unit_of

MEASURED_SIZES = (2, 4, 8)
DATA_PARALLEL = ("dp", "edp", "embedding")
"""Kinds whose rings reach `dp_efficiency` of the network."""

size = pl.col("group_size").cast(pl.Float64)
members = pl.col("members_per_node").cast(pl.Float64)
nodes = pl.col("nodes").cast(pl.Float64)
crosses = pl.col("nodes") > 1
slowdown = pl.col("slowdown")
in_one_order = pl.col("deterministic_mode")
sharing = constant("gpus_per_node") / members
"""Communicators of the kind whose members share a node's NICs: one per GPU that is nobody's neighbour."""


PLACE = {"stride": pl.Int64(), "members_per_node": pl.Int64(), "nodes": pl.Int64(), "slowdown": pl.Float64()}
"""What is known of where communicators stand, with its type."""


def slowdown_of(group_kind: str, columns: Iterable[str]) -> pl.Expr:
    """Return how much slower a kind is on its network: a column of workloads, where any is slowed."""
    name = f"{group_kind}_slowdown"
    return pl.col(name) if name in columns else pl.lit(1.0)


OF_THE_WORLD = ("world_size", "gpus_per_node")
"""Columns of a workload on its cluster that `placed` reads beside extents."""


def extent_of(group_kind: str, columns: Iterable[str]) -> dict[str, pl.Expr]:
    """Return Extent and slowdown of a kind's communicators, over workloads of these columns."""
    return extent(group_kind)._asdict() | {"slowdown": slowdown_of(group_kind, columns)}


def placed(extents: pl.DataFrame) -> pl.DataFrame:
    """Add PLACE to rows of extents (`extent_of`) and OF_THE_WORLD."""
    node = pl.col("gpus_per_node").cast(pl.Int64)
    size, stride, runs, spread = (pl.col(name) for name in Extent._fields)
    stand = standing(size, stride, pl.col("world_size"), node, runs, pl.col("unit"), spread)
    held = extents.with_columns(unit=unit_of(size, stride, node, runs))
    return held.with_columns(members_per_node=stand[0], nodes=stand[1]).drop("unit")


def places(columns: Iterable[str]) -> dict[str, pl.Expr]:
    """Return PLACE of the communicator of each op's row; 0 for ops without one."""
    extents = {kind: extent(kind) for kind in GROUP_KINDS}
    ranks, stride, runs, spread = (
        by_word(pl.col("group_kind"), {kind: each[part] for kind, each in extents.items()}, pl.lit(1))
        for part in range(len(Extent._fields))
    )
    node = pl.col("gpus_per_node").cast(pl.Int64)
    members_, nodes_ = standing(ranks, stride, pl.col("world_size"), node, runs, spread=spread)
    slower = {kind: slowdown_of(kind, columns) for kind in GROUP_KINDS if f"{kind}_slowdown" in columns}
    of_kind = by_word(pl.col("group_kind"), slower, pl.lit(1.0)) if slower else pl.lit(1.0)
    found = {"stride": stride, "members_per_node": members_, "nodes": nodes_, "slowdown": of_kind}
    alone = pl.col("group_kind").is_null()
    return {part: pl.when(alone).then(0).otherwise(place) for part, place in found.items()}


def by_size(name: str) -> pl.Expr:
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
    ring = pl.min_horizontal(by_size("node_bus_{}_bytes_per_second"), apart)
    return ring.alias("node_ring_bytes_per_second")


def _short(wire: pl.Expr, bandwidth: pl.Expr) -> pl.Expr:
    """Return the transfer of NCCL's low-latency protocol (LL): flags beside the data halve the bandwidth."""
    slow = pl.min_horizontal(bandwidth / 2, constant("ll_bytes_per_second"))
    return (wire / slow).alias("ll_transfer_seconds")


def inside_ways(op: Words) -> Ways:
    """Return the ways of a ring's collective inside a node: NCCL's protocols (Simple, LL).

    Latency and bandwidth of long messages are measured. An all_reduce runs in the switches instead where
    the node's can add and that is faster (NVLink SHARP; `nvls_bytes_per_second`, 0: none), but for
    `deterministic_mode`, which keeps to rings.
    """
    reduces, wire = among(op.collective, "all_reduce"), _wire(op)
    passes = choose(reduces, pl.lit(2.0), pl.lit(1.0))
    latency = by_size("node_latency_{}_seconds") * passes / 2
    bandwidth = _inside_bandwidth()
    short = constant("ll_ring_base_seconds") + passes * (size - 1) * constant("ll_node_hop_seconds")
    ways = {
        "ring": (latency, (wire / bandwidth).alias("transfer_seconds")),
        "ring LL": (short.alias("ll_latency_seconds"), _short(wire, bandwidth)),
    }
    if reduces is not False:
        switches = pl.when(in_one_order).then(0.0).otherwise(constant("nvls_bytes_per_second"))
        adding = pl.max_horizontal(bandwidth, switches)
        ways["NVLS"] = (latency, wire / choose(reduces, adding, bandwidth))
    return ways


def _ring_latency(op: Words, prefix: str) -> pl.Expr:
    """Return NCCL's latency of a ring across nodes: base + steps inside + steps between (`tuning.cc`)."""
    passes = choose(among(op.collective, "all_reduce"), pl.lit(2.0), pl.lit(1.0))
    network_hops = (passes * (nodes - 1)).alias("network_hops")
    node_hops = (passes * (size - 1) - network_hops).alias("node_hops")
    base, inner, outer = (
        constant(f"{prefix}{part}_seconds") for part in ("ring_base", "node_hop", "network_hop")
    )
    hops = base + node_hops * inner + network_hops * outer
    return hops.alias(f"{prefix}latency_seconds")


def _tree_latency(op: Words, prefix: str, inner: str, outer: str) -> pl.Expr:
    """Return NCCL's latency of a tree, up and down: base + 2((g-1) steps inside + log2(nodes) between)."""
    steps = (members - 1) * constant(inner) + nodes.log(2) * constant(outer)
    latency = (constant(f"{prefix}ring_base_seconds") + 2 * steps).alias(f"{prefix}tree_latency_seconds")
    # Of rows of all kinds the others take the ring's way.
    return choose(among(op.collective, "all_reduce"), latency, _ring_latency(op, prefix))


def outside_ways(op: Words) -> Ways:
    """Return the ways of a ring's collective across nodes: NCCL's algorithms and protocols.

    Long messages run at full bandwidth with slow steps (Simple), short ones the other way round (LL). An
    all_reduce runs over a ring or, with few steps and some bandwidth lost, a tree (NCCL `tuning.cc`); with
    `deterministic_mode` over rings alone (Megatron 0.19 `determinism.py` sets NCCL_ALGO).
    """
    slowed = _wire(op) * slowdown
    node_network = constant("ring_efficiency") * nic_bandwidth() * constant("gpus_per_node")
    derate = choose(among(op.group_kind, *DATA_PARALLEL), constant("dp_efficiency"), pl.lit(1.0))
    reached = pl.min_horizontal(constant("node_bus_8_bytes_per_second"), node_network / sharing)
    bandwidth = (derate * reached).alias("network_ring_bytes_per_second")
    ways = {
        "ring": (_ring_latency(op, ""), (slowed / bandwidth).alias("transfer_seconds")),
        "ring LL": (_ring_latency(op, "ll_"), _short(slowed, bandwidth)),
    }
    if among(op.collective, "all_reduce") is not False:
        tree = bandwidth * constant("tree_efficiency")
        short_tree = pl.min_horizontal(tree * constant("ll_tree_share"), constant("ll_bytes_per_second"))
        long_latency = _tree_latency(op, "", "tree_node_hop_seconds", "network_hop_seconds")
        short_latency = _tree_latency(op, "ll_", "ll_node_hop_seconds", "ll_tree_network_hop_seconds")
        trees = {
            "tree": (long_latency, (slowed / tree).alias("tree_transfer_seconds")),
            "tree LL": (short_latency, (slowed / short_tree).alias("ll_tree_transfer_seconds")),
        }
        ways |= {name: _unless_in_order(way, ways["ring"]) for name, way in trees.items()}
    return ways


def _unless_in_order(
    way: tuple[pl.Expr, pl.Expr], of_ring: tuple[pl.Expr, pl.Expr]
) -> tuple[pl.Expr, pl.Expr]:
    """Return a way's latency and transfer, or those of a ring where sums have one order."""
    latency, transfer = (
        pl.when(in_one_order).then(own).otherwise(part) for part, own in zip(way, of_ring, strict=True)
    )
    return latency, transfer


def ring(op: Words) -> Timing:
    """Return a ring all_gather, reduce_scatter or all_reduce of `wire_bytes` a rank.

    An all_reduce takes 2(n-1) steps, the others n-1. Across nodes 2(nodes-1), or nodes-1, of them are
    network hops, and the bandwidth is the node's NICs over the communicators that share them, at most
    the node's own; data-parallel rings, many and long, reach `dp_efficiency` of it. Gathers of uneven
    parts run as one broadcast a part, whose links carry n parts instead of n-1.
    """
    inside, outside = Timing.fastest(inside_ways(op)), Timing.fastest(outside_ways(op))
    return Timing(
        pl.when(crosses).then(outside.seconds).otherwise(inside.seconds),
        pl.when(crosses).then(outside.bound).otherwise(inside.bound),
    )


def _wire(op: Words) -> pl.Expr:
    """Return the bytes on the wire; of uneven gathers over etp those of one broadcast a part."""
    broadcasts = pl.when(known).then(1.0).otherwise(size / (size - 1) * busiest_share())
    return choose(among(op.group_kind, "etp"), pl.col("wire_bytes") * broadcasts, pl.col("wire_bytes"))


def exchange_efficiency() -> pl.Expr:
    """Return the share of a NIC's rate that an all_to_all reaches: less with each doubling of its nodes."""
    kept = constant("all_to_all_doubling_efficiency").pow(pl.max_horizontal(nodes.log(2) - 1, 0.0))
    return (constant("all_to_all_efficiency") * kept).alias("exchange_efficiency")


def exchange_ways(op: Words) -> Ways:
    """Return latency and transfer of a direct all_to_all and of one in two steps (2D), over NIC and node.

    Of n members, g stand on one node: (g-1)/n and (n-g)/n of the send buffer.
    direct         base + a time for each of n-g remote peers; NVLink and NIC at the same time
    hierarchical   base + a time for each of n/g - 1 peers; what goes to a node is first gathered on one GPU
                   and there spread out again: two passes of (g-1)/g of the buffer inside nodes (Tutel,
                   arXiv:2206.03382)

    An exchange of tokens between experts is that of the busiest rank.
    """
    sent = pl.col("comm_bytes") * choose(among(op.group_kind, "ep"), busiest_share(), pl.lit(1.0))
    buffer = sent / size
    node_bandwidth = by_size("node_all_to_all_{}_bytes_per_second")
    inside = ((members - 1) * buffer / node_bandwidth).alias("node_seconds")
    beyond = (size - members) * buffer / (exchange_efficiency() * nic_bandwidth()) * slowdown
    network = beyond.alias("network_seconds")
    base, peer = constant("all_to_all_latency_seconds"), constant("all_to_all_peer_seconds")
    direct = (base + (size - members) * peer).alias("latency_seconds")
    gathered = 2 * (members - 1) / members * sent / node_bandwidth
    few = (base + (size / members - 1) * peer).alias("hierarchical_latency_seconds")
    return {
        "direct": (direct, pl.max_horizontal(inside, network)),
        "hierarchical": (few, gathered + network),
    }


def all_to_all(op: Words) -> Timing:
    """Return an all_to_all by the faster of its ways, on the busiest rank."""
    return Timing.fastest(exchange_ways(op))


def _ring_messages(op: Words) -> pl.Expr:
    """Return the messages of a block of keys round a ring of n: n - 1, with its gradient one more."""
    forward = choose(
        among(op.phase, "backward"), expression(starts(op.op, "recompute_")).cast(pl.Float64), pl.lit(1.0)
    )
    return (size - forward).alias("ring_messages")


def message(op: Words) -> Timing:
    """Return one send between neighbouring stages: over the NIC if their pipeline is on several nodes.

    Each takes as long as the slowest of its pipeline. Or what goes round a ring of cp ranks, one message
    after the other, each as slow as that of the ring's slowest link.
    """
    ring = among(op.group_kind, "cp", "cp_p2p")
    inside = pl.min_horizontal(constant("node_link_bytes_per_second"), _inside_bandwidth())
    link = pl.when(crosses).then(nic_bandwidth() / slowdown).otherwise(inside)
    latency = constant("p2p_latency_seconds")
    return Timing.link(
        choose(ring, latency * _ring_messages(op), latency),
        (pl.col("comm_bytes") / (constant("p2p_efficiency") * link)).alias("transfer_seconds"),
    )
