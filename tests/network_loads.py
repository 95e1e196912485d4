"""Traffic of few hosts, and what it loads in a network."""

import numpy as np
import polars as pl

from moesweep.network.flows import Fabric, Flows
from moesweep.network.tree import Tree
from naive_network import per_link

Pairs = dict[tuple[int, int], int]


def flows(pairs: Pairs) -> Flows:
    """One kind's flows."""
    source, target = (np.array([ends[i] for ends in pairs], dtype=np.int64) for i in range(2))
    return Flows(1, source * 0, source, target, np.array(list(pairs.values()), dtype=np.float64))


def everyone(hosts: int) -> Pairs:
    """One unit between each pair."""
    return {(a, b): 1 for a in range(hosts) for b in range(hosts) if a != b}


def shifted(hosts: int, places: int) -> Pairs:
    """One unit to the host so many places further on."""
    return {(host, (host + places) % hosts): 1 for host in range(hosts)}


def by_class(fabric: Fabric, pairs: Pairs) -> dict[str, list[float]]:
    """The different loads of the links of each class."""
    loads = per_link(fabric, flows(pairs))
    return {
        str(class_): sorted({round(size, 9) for size in loads.filter(pl.col("class") == class_)["bytes"]})
        for class_ in loads["class"].unique(maintain_order=True)
    }


def total(fabric: Fabric, pairs: Pairs) -> float:
    return float(fabric.loads(flows(pairs)).mean(axis=0).sum())


def leaf_spine(spines: int) -> Tree:
    """Golden A: 16 GPUs on 4 leaves."""
    return Tree(16, (4, 4), (1, spines), (1.0, 1.0))
