"""Constants of a cluster that measured collectives say: t = latency + bytes / bandwidth, for each group.

The line's largest relative error over the sizes is least (a linear program). What the line of a group says of
which constant is the cost model's own formula turned round (docs/costs.md, "Collectives").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2

from moesweep.study.nccl_log import Run

SMALL, LARGE, EXCHANGED = 64 << 10, 1 << 20, 16 << 20
"""Buffers up to which the low-latency protocol runs, from which the full one does, and direct exchanges."""

MEASURED_SIZES = (2, 4, 8)
_RINGS = ("all_reduce", "reduce_scatter", "all_gather")
_RING_STEPS = ("ring_base_seconds", "node_hop_seconds", "network_hop_seconds")


@dataclass(frozen=True)
class Line:
    """latency + bytes / bandwidth; the largest relative error of its points; whether they say the latency."""

    latency: float
    bandwidth: float
    error: float
    says_latency: bool = True


@dataclass(frozen=True)
class Found:
    """A constant's value in base units, the log that says it, and how far its line misses a point at most."""

    value: float
    file: str
    error: float


def line(points: Sequence[tuple[float, float]], latency: float) -> Line:
    """Return the line through (bytes, seconds) with the least largest relative error.

    latency   that of a single point, which says only the bandwidth
    """
    from scipy.optimize import linprog

    if len({size for size, _ in points}) < 2:
        size, seconds = points[0]
        return Line(latency, size / max(seconds - latency, seconds / 10), 0.0, says_latency=False)
    # Largest error e, latency a, and b of t = a + b·w, scaled to numbers near 1: |a + b·w - t| <= e·t.
    most = max(size for size, _ in points)
    last = max(seconds for _, seconds in points)
    rows = [(size / most, seconds / last) for size, seconds in points]
    above = [[1 / t, w / t, -1] for w, t in rows]
    below = [[-1 / t, -w / t, -1] for w, t in rows]
    found = linprog([0, 0, 1], above + below, [1] * len(rows) + [-1] * len(rows), bounds=[(0, None)] * 3)
    a, b, error = (float(each) for each in found.x)  # type: ignore[union-attr]
    return Line(a * last, most / last / max(b, 1e-12), error)


def fitted(runs: Sequence[Run], values: Mapping[str, float]) -> dict[str, Found]:
    """Return the constants that runs say; `values` are those of the cluster that gives the others."""
    groups: dict[tuple[str, int, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.collective, run.ranks, run.nodes), []).append(run)
    found: dict[str, Found] = {}
    # Larger groups come last: they say what several groups say.
    for collective, ranks, nodes in sorted(groups, key=lambda key: (key[2], key[1], -_order(key[0]))):
        same = groups[collective, ranks, nodes]
        points = [point for run in same for point in run.points]
        now = dict(values) | {name: each.value for name, each in found.items()}
        of = _exchange if collective == "all_to_all" else _ring
        said = of(collective, ranks, nodes, points, now)
        found |= {name: Found(value, same[0].file, error) for name, (value, error) in said.items()}
    return found


def _order(collective: str) -> int:
    """Rank of a collective among those that say the same constants: an all_reduce has the last word."""
    return _RINGS.index(collective) if collective in _RINGS else len(_RINGS)


Said = dict[str, tuple[float, float]]


def _ring(
    collective: str, n: int, nodes: int, points: list[tuple[int, float]], values: Mapping[str, float]
) -> Said:
    """What a collective over a ring says: bus bandwidth and latency, and the low-latency protocol's."""
    passes = 2 if collective == "all_reduce" else 1
    share = passes * (n - 1) / n
    wire = [(share * size, seconds) for size, seconds in points]
    long = [each for each, (size, _) in zip(wire, points, strict=True) if size >= LARGE]
    short = [each for each, (size, _) in zip(wire, points, strict=True) if size <= SMALL]
    hops = passes * (nodes - 1)
    inner = passes * (n - 1) - hops
    said: Said = {}
    if long and nodes == 1 and n in MEASURED_SIZES:
        known = values[f"node_latency_{n}_seconds"] * passes / 2
        whole = line(long, known)
        said[f"node_bus_{n}_bytes_per_second"] = (whole.bandwidth, whole.error)
        if whole.says_latency:
            said[f"node_latency_{n}_seconds"] = (whole.latency * 2 / passes, whole.error)
    elif long and nodes > 1:
        base, node_hop, network_hop = (values[name] for name in _RING_STEPS)
        known = base + inner * node_hop + hops * network_hop
        whole = line(long, known)
        cards = values["nic_bytes_per_second"] * values["fabric_efficiency"] * n / nodes
        said["ring_efficiency"] = (whole.bandwidth / cards, whole.error)
        if whole.says_latency:
            slower = max(whole.latency / known, 0.05)
            said |= {name: (values[name] * slower, whole.error) for name in _RING_STEPS}
    if short and nodes == 1:
        steps = inner * values["ll_node_hop_seconds"]
        quick = line(short, values["ll_ring_base_seconds"] + steps)
        if quick.says_latency:
            said["ll_ring_base_seconds"] = (max(quick.latency - steps, 1e-6), quick.error)
    return said


def _exchange(
    collective: str, n: int, nodes: int, points: list[tuple[int, float]], values: Mapping[str, float]
) -> Said:
    """What an all_to_all says: bandwidth inside a node, or the share of the cards; its latencies."""
    base, peer = values["all_to_all_latency_seconds"], values["all_to_all_peer_seconds"]
    members = n // nodes
    if nodes == 1:
        whole = line([((n - 1) / n * size, seconds) for size, seconds in points], base)
        said: Said = {}
        if whole.says_latency:
            said["all_to_all_latency_seconds"] = (max(whole.latency, 1e-6), whole.error)
        if n in MEASURED_SIZES:
            said[f"node_all_to_all_{n}_bytes_per_second"] = (whole.bandwidth, whole.error)
        return said
    remote = n - members
    large = [(remote / n * size, seconds) for size, seconds in points if size >= EXCHANGED]
    if not large:
        return {}
    whole = line(large, base + remote * peer)
    share = whole.bandwidth / (values["nic_bytes_per_second"] * values["fabric_efficiency"])
    said = {}
    if whole.says_latency:
        said["all_to_all_peer_seconds"] = (max(whole.latency - base, 0.0) / remote, whole.error)
    if nodes == 2:
        return said | {"all_to_all_efficiency": (share, whole.error)}
    kept = (share / values["all_to_all_efficiency"]) ** (1 / (log2(nodes) - 1))
    return said | {"all_to_all_doubling_efficiency": (kept, whole.error)}
