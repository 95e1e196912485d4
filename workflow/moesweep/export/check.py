"""Exports read back by their grammar: schedules, connection matrices, topologies and network files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from moesweep.edge.problems import BadInput, Problem
from moesweep.export.goal_check import check_schedule
from moesweep.export.htsim_check import read_matrix
from moesweep.export.simai_topology import RATES
from moesweep.network.graph_files import read_graph


@dataclass(frozen=True)
class CheckedFile:
    """A file, what it holds in words, and what is wrong with it."""

    path: Path
    content: str
    problems: list[Problem]


def check_files(root: Path) -> list[CheckedFile]:
    """Return every fault of the files below a folder, whose suffixes say their form."""
    found = sorted(path for path in root.rglob("*") if path.suffix in _CHECKS)
    return [CheckedFile(path, *_CHECKS[path.suffix](path)) for path in found]


def _schedule(path: Path) -> tuple[str, list[Problem]]:
    ops, problems = check_schedule(path)
    return f"{ops} ops", problems


def _matrix(path: Path) -> tuple[str, list[Problem]]:
    flows, problems = read_matrix(path)
    return f"{len(flows)} flows, {sum(size for _, _, size in flows)} bytes", problems


def _topology(path: Path) -> tuple[str, list[Problem]]:
    """SimAI takes few rates at ordinary switches, and reads GPUs of a server in order."""
    try:
        graph = read_graph(path, str(path))
    except BadInput as bad:
        return "no topology", bad.problems
    problems = [
        Problem(str(path), link.place, "simai_rate", "", f"has a rate that is none of {RATES} Gbit/s")
        for link in graph.links
        if not any(graph.kinds.get(end) == "nvswitch" for end in link.ends)
        and link.bytes_per_second * 8 / 1e9 not in RATES
    ]
    return f"{len(graph.kinds)} nodes, {len(graph.links)} links", problems


_DIMENSION: dict[str, type | tuple[type, ...]] = {
    "topology": str,
    "npus_count": int,
    "bandwidth": (int, float),
    "latency": (int, float),
}


def _network(path: Path) -> tuple[str, list[Problem]]:
    """ASTRA-sim's network file: as many entries under every key, two members or more in each dimension."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    data = data if isinstance(data, dict) else {}
    problems = [
        Problem(
            str(path), key, "astra_network", "", f"is no list of {len(data.get('topology') or [])} entries"
        )
        for key, type_ in _DIMENSION.items()
        if not isinstance(data.get(key), list)
        or len(data[key]) != len(data.get("topology") or [])
        or not all(isinstance(entry, type_) for entry in data[key])
    ]
    if not problems:
        words = [word for word in data["topology"] if word not in ("Ring", "FullyConnected", "Switch")]
        few = [count for count in data["npus_count"] if count < 2]
        idle = [rate for rate in data["bandwidth"] if rate <= 0]
        problems += [
            Problem(str(path), key, "astra_network", str(wrong[0]), f"{wrong[0]} {why}")
            for key, wrong, why in (
                ("topology", words, "is none of Ring, FullyConnected and Switch"),
                ("npus_count", few, "members make no dimension"),
                ("bandwidth", idle, "GiB a second carry nothing"),
            )
            if wrong
        ]
    return f"{len(data.get('topology') or [])} dimensions", problems


_CHECKS: dict[str, Callable[[Path], tuple[str, list[Problem]]]] = {
    ".goal": _schedule,
    ".cm": _matrix,
    ".topo": _topology,
    ".yml": _network,
}
