"""What a network card has to carry for exposed ep communication to be a small part of an iteration."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from moesweep.evaluate.costs import constants_frame, costed, on_networks
from moesweep.evaluate.distinct import Array
from moesweep.study.catalog import Cluster

SHARES = (0.05, 0.1, 0.2)
"""The parts of an iteration that exchanges of ep may take."""

RATES = 1e9 / 8 * 2.0 ** np.arange(3, 15.25, 0.25)
"""Bytes per second that are tried, 8 Gbit/s to 16 Tbit/s in steps of a quarter of an octave."""

HALVINGS = 12
"""How often the step that holds the answer is halved."""


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
    # Rates × workloads, evaluated together.
    every = pl.concat([slower] * len(RATES))
    tried = _share(every, cluster, np.repeat(RATES, moe.height)).reshape(len(RATES), -1).T
    above = np.repeat(tried, len(shares), axis=0) > share[:, None]
    # The first rate after the last one that does not suffice.
    first = len(RATES) - np.argmax(above[:, ::-1], axis=1)
    first = np.where(above.any(axis=1), first, 0)
    reached = first < len(RATES)
    high = RATES[np.minimum(first, len(RATES) - 1)]
    low = np.where(first > 0, RATES[np.maximum(first - 1, 0)], high)
    each = asked.select("workload").join(slower, on="workload", how="left", maintain_order="left")
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        fits = _share(each, cluster, middle) <= share
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    now = pl.Series("ep_share", np.repeat(_share(slower, cluster, None), len(shares)))
    return asked.with_columns(now, nic_bytes_per_second=pl.Series(np.where(reached, high, 0.0)))


def _share(workloads: pl.DataFrame, cluster: Cluster, rates: Array | None) -> Array:
    """Return ep's part of each workload's iteration at a card's rate; the cluster's own if None."""
    constants = constants_frame([cluster])
    if rates is not None:
        number = pl.int_range(pl.len()).cast(pl.String)
        many = pl.concat([constants] * workloads.height)
        constants = many.with_columns(number.alias("cluster"), pl.Series("nic_bytes_per_second", rates))
        workloads = workloads.with_columns(number.alias("cluster"))
    costs = costed(workloads, constants)
    found: Array = (costs["ep_comm_seconds"] / costs["iteration_seconds"]).to_numpy()
    return found
