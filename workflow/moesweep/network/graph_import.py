"""An imported graph as a fabric: GPUs in order, switches after them, NVSwitches left to the islands."""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from moesweep.edge.paths import inside
from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.network.flows import Ints
from moesweep.network.graph import Graph
from moesweep.network.graph_files import GraphFile, read_graph
from moesweep.study.networks import Network

SHOWN_PAIRS = 3


def imported(network: Network, root: Path, gpus: int, island: int, nic: float) -> Graph:
    """Return the graph of a network's file for at least so many GPUs, in islands.

    `nic` is the rate of links that say none. Raises BadInput: a link that leads nowhere or to itself,
    NVSwitches that do not join the GPUs of islands, too few GPUs, pairs that nothing joins.
    """
    name = str(network.shape["file"])
    path = inside(root, name)
    stat = path.stat() if path.exists() else None
    graph = _graph(path, name, nic, stat and (stat.st_mtime_ns, stat.st_size))
    file, fabric, islands = graph
    problems = [*_island_problems(file, islands, island), *_pair_problems(name, fabric, island, network.pxn)]
    if fabric.hosts < gpus:
        message = f"holds {fabric.hosts} GPUs, and {gpus} are needed"
        problems.append(Problem(name, "", "holds", str(fabric.hosts), message, "use a larger graph"))
    if problems:
        raise BadInput(problems)
    return fabric


@lru_cache(maxsize=4)
def _graph(path: Path, name: str, nic: float, _: object) -> tuple[GraphFile, Graph, list[list[int]]]:
    """Return what the file says, the fabric, and the GPUs of each NVSwitch."""
    file = read_graph(path, name)
    order = [*_in_order(file.kinds), *(node for node, kind in file.kinds.items() if kind == "switch")]
    number = {node: i for i, node in enumerate(order)}
    hosts = sum(kind == "gpu" for kind in file.kinds.values())
    problems, ends, rates = [], [], []
    islands: dict[str, list[int]] = {}
    for link in file.links:
        unknown = [node for node in link.ends if node not in file.kinds]
        if unknown or link.ends[0] == link.ends[1]:
            what = (
                f"there is no node {shown(unknown[0])}"
                if unknown
                else f"{shown(link.ends[0])} is joined to itself"
            )
            problems.append(Problem(name, link.place, "link", shown(list(link.ends)), what))
            continue
        nvswitch = [node for node in link.ends if file.kinds[node] == "nvswitch"]
        if nvswitch:
            gpu = [number[node] for node in link.ends if file.kinds[node] == "gpu"]
            islands.setdefault(nvswitch[0], []).extend(gpu)
            continue
        ends.append((number[link.ends[0]], number[link.ends[1]]))
        rates.append(link.bytes_per_second or nic)
    if problems:
        raise BadInput(problems)
    both = np.array(ends, dtype=np.int64).reshape(-1, 2)
    fabric = Graph(
        hosts,
        tuple(f"host {i}" if i < hosts else node for i, node in enumerate(order)),
        np.concatenate([both[:, 0], both[:, 1]]),
        np.concatenate([both[:, 1], both[:, 0]]),
        np.tile(np.array(rates, dtype=np.float64), 2),
    )
    return file, fabric, list(islands.values())


def _in_order(kinds: dict[str, str]) -> list[str]:
    """Return the GPUs by the numbers in their names where every name has one, else as they come."""
    gpus = [node for node, kind in kinds.items() if kind == "gpu"]
    numbers = [re.findall(r"\d+", node) for node in gpus]
    if not all(numbers):
        return gpus
    return [gpu for _, gpu in sorted(zip(([int(n) for n in each] for each in numbers), gpus, strict=True))]


def _island_problems(file: GraphFile, islands: Iterable[list[int]], island: int) -> list[Problem]:
    """Return NVSwitches whose GPUs are not those of one island."""
    problems = []
    for gpus in islands:
        if len({gpu // island for gpu in gpus}) > 1 or len(set(gpus)) not in (0, island):
            message = (
                f"an NVSwitch joins the GPUs {_some(sorted(set(gpus)))}, which are no island of {island}"
            )
            advice = f"set island_gpus to {len(set(gpus))}, and number GPUs node by node"
            problems.append(Problem(file.file, "", "islands", str(len(gpus)), message, advice))
    return problems[:SHOWN_PAIRS]


def _pair_problems(name: str, fabric: Graph, island: int, pxn: bool) -> list[Problem]:
    """Return pairs of GPUs that no way leads between, from island to island."""
    part, gpu = fabric.apart, np.arange(fabric.hosts)
    lanes = gpu % island if pxn else gpu * 0
    first: dict[int, int] = {}
    pairs: list[tuple[int, int]] = []
    for lane in range(int(lanes.max()) + 1):
        members = gpu[lanes == lane]
        here = part[members]
        leader = members[0]
        strange = members[((here != here[0]) | (here < 0)) & (members // island != leader // island)]
        pairs += [(int(leader), int(other)) for other in strange]
        first[lane] = int(leader)
    if not pairs:
        return []
    message = f"nothing joins GPUs {', '.join(f'{a} and {b}' for a, b in pairs[:SHOWN_PAIRS])}"
    more = f" ({len(pairs)} GPUs cannot be reached so)" if len(pairs) > SHOWN_PAIRS else ""
    advice = "" if pxn else "with rails that only NVLink joins, write pxn: true"
    return [Problem(name, "", "connected", "", message + more, advice)]


def _some(numbers: list[int]) -> str:
    shown_ = ", ".join(map(str, numbers[:8]))
    return shown_ + (", ..." if len(numbers) > 8 else "")


def direct_only(fabric: Graph) -> Ints:
    """Return the hosts without a link to a switch."""
    return np.flatnonzero(fabric.apart < 0)
