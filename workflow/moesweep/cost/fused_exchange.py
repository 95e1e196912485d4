"""Seconds of the flex dispatcher's exchanges: a token goes once to a node, and from there to its ranks.

A token leaves for another node over the sender's own NIC, to the rank of the same place there, which passes
it on over NVLink (DeepEP `internode.cu`, HybridEP); results, summed on the node, come back the same way.
"""

import polars as pl

from moesweep.cost.collectives import (
    by_size,
    exchange_efficiency,
    members,
    nic_bandwidth,
    size,
    slowdown,
)
from moesweep.cost.skew import busiest_share
from moesweep.cost.timing import Timing, constant
from moesweep.cost.words import Words
from moesweep.shapes import sizes as s
from moesweep.shapes.spread import experts_of, share_of_tokens


def of_a_node() -> pl.Expr:
    """Return how many tokens have an expert on a node, over those that have one on a rank."""
    on_node = share_of_tokens(experts_of(members.cast(pl.Int64)))
    return (on_node / share_of_tokens(s.local_experts)).alias("tokens_of_a_node")


def fused_exchange(op: Words) -> Timing:
    """Return a fused dispatch or combine: NIC and NVLink at the same time, on the busiest rank.

    Of n members, g stand on one node; a rank has as many tokens for each of them, u. It sends
    u · `tokens_of_a_node` to each of n/g - 1 other nodes, and passes its own and theirs, n/g · u, on to each
    of g - 1 neighbours, as fast as links and the dispatcher's multiprocessors can.
    """
    each = pl.col("comm_bytes") * busiest_share() / size
    others = (size / members - 1).alias("other_nodes")
    copying = s.dispatcher_processors * constant("dispatcher_sm_bytes_per_second")
    links = pl.min_horizontal(by_size("node_all_to_all_{}_bytes_per_second"), copying)
    inside = ((members - 1) * (others + 1) * each / links).alias("node_seconds")
    network = others * each * of_a_node() / (exchange_efficiency() * nic_bandwidth()) * slowdown
    latency = constant("all_to_all_latency_seconds") + others * constant("all_to_all_peer_seconds")
    transfer = pl.max_horizontal(inside, network.alias("network_seconds"))
    return Timing.link(latency.alias("latency_seconds"), transfer)
