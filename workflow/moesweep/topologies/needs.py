"""What a network card has to carry for exposed ep communication to be a small part of an iteration."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from moesweep.evaluate.costs import constants_frame, on_networks, parts_of
from moesweep.shapes.distinct import Array
from moesweep.study.catalog import Cluster

SHARES = (0.05, 0.1, 0.2)
"""The parts of an iteration that exchanges of ep may take."""

RATES = 1e9 / 8 * 2.0 ** np.arange(3, 15.25, 0.25)
"""Bytes per second that are tried, 8 Gbit/s to 16 Tbit/s in steps of a quarter of an octave."""

PARTS, ROUNDS = 16, 3
"""Into how many parts the step that holds the answer is cut, and how often: to 1/4096 of it."""


def nic_need(workloads: pl.DataFrame, cluster: Cluster, shares: Sequence[float] = SHARES) -> pl.DataFrame:
    """Return the table `nic_need`: for each MoE workload whose ep groups leave nodes, and each share.

    nic_bytes_per_second is the least rate of RATES, refined, from which on upward `ep_comm_seconds` (which
    nothing hides) stay within the share of the iteration; 0 where none suffices: what remains are latencies
    and what stays inside nodes. On a network that blocks, its links are as much faster as the cards.
    """
    node = int(cluster.value("gpus_per_node"))
    moe = workloads.filter(
        (pl.col("kind") == "moe") & (pl.col("ep") > 1) & (pl.col("etp") * pl.col("ep") > node)
    )
    slower = on_networks(moe, [cluster])
    asked = slower.select("workload").join(pl.DataFrame({"share": list(shares)}), how="cross")
    share = asked["share"].to_numpy()
    tried = _shares(slower, cluster, np.tile(RATES, (moe.height, 1)))
    # The rates of one workload are the same for each share.
    first = first_that_suffices(np.repeat(tried, len(shares), axis=0), share)
    reached = first < len(RATES)
    high = RATES[np.minimum(first, len(RATES) - 1)]
    low = np.where(first > 0, RATES[np.maximum(first - 1, 0)], high)
    each = asked.select("workload").join(slower, on="workload", how="left", maintain_order="left")
    row = np.arange(len(share))
    for _ in range(ROUNDS):
        rates = low[:, None] * (high / low)[:, None] ** (np.arange(PARTS + 1) / PARTS)
        rates[:, -1] = high
        within = _shares(each, cluster, rates[:, 1:-1])
        first = first_that_suffices(within, share) + 1
        low, high = rates[row, first - 1], rates[row, first]
    now = pl.Series("ep_share", np.repeat(_shares(slower, cluster, None)[:, 0], len(shares)))
    return asked.with_columns(now, nic_bytes_per_second=pl.Series(np.where(reached, high, 0.0)))


def first_that_suffices(tried: Array, share: Array) -> Array:
    """Return the place of the first rate after the last that does not suffice; their number, if none is.

    tried  ep's part of the iteration, by row and rate
    """
    above = tried > share[:, None]
    rates: int = above.shape[1]
    return np.where(above.any(axis=1), rates - np.argmax(above[:, ::-1], axis=1), 0)


def _shares(workloads: pl.DataFrame, cluster: Cluster, rates: Array | None) -> Array:
    """Return ep's part of each workload's iteration at rates of a card; at the cluster's own if None.

    rates   workloads × rates, all evaluated together
    """
    constants, tried = constants_frame([cluster]), 1
    if rates is not None:
        tried = rates.shape[1]
        number = pl.int_range(pl.len()).cast(pl.String).alias("cluster")
        # Workloads at the same rate are on the same cluster.
        distinct, of = np.unique(rates, return_inverse=True)
        constants = constants[np.zeros(len(distinct), dtype=np.int64)].with_columns(
            number, pl.Series("nic_bytes_per_second", distinct)
        )
        on = pl.Series("cluster", of.ravel()).cast(pl.String)
        workloads = workloads[np.repeat(np.arange(workloads.height), tried)].with_columns(on)
    found = parts_of(workloads, constants, ["ep_comm_seconds", "iteration_seconds"])
    share: Array = (found["ep_comm_seconds"] / found["iteration_seconds"]).to_numpy()
    return share.reshape(-1, tried)
