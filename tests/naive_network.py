"""Link loads by walking a network's links one by one: what the columns are held against."""

from collections import defaultdict, deque
from fractions import Fraction

import polars as pl

from moesweep.network.flows import CLASSES, Fabric, Flows

Loads = dict[tuple[str, str], Fraction]


def link_ends(fabric: Fabric) -> list[tuple[str, str]]:
    """Source and target of every one-way link."""
    return [(row["source"], row["target"]) for row in fabric.links().iter_rows(named=True)]


def shortest(links: list[tuple[str, str]], target: str) -> dict[str, int]:
    """Hops from every node to a target; hosts forward nothing where there are switches."""
    switches = any(not end.startswith("host") for ends in links for end in ends)
    into = defaultdict(list)
    for source, end in links:
        into[end].append(source)
    hops, queue = {target: 0}, deque([target])
    while queue:
        node = queue.popleft()
        if switches and node.startswith("host") and node != target:
            continue
        for source in into[node]:
            if source not in hops:
                hops[source] = hops[node] + 1
                queue.append(source)
    return hops


def ecmp(fabric: Fabric, pairs: dict[tuple[int, int], int]) -> Loads:
    """Bytes on each pair of joined nodes: every node splits a flow evenly over its links one hop nearer."""
    links = link_ends(fabric)
    out = defaultdict(list)
    for source, end in links:
        out[source].append(end)
    loads: Loads = defaultdict(Fraction)
    for (source, target), size in pairs.items():
        hops = shortest(links, f"host {target}")
        held = {f"host {source}": Fraction(size)}
        for distance in range(hops[f"host {source}"], 0, -1):
            reached: dict[str, Fraction] = defaultdict(Fraction)
            for node, bytes_ in held.items():
                nearer = [end for end in out[node] if hops.get(end, -1) == distance - 1]
                nearer = [end for end in nearer if not end.startswith("host") or end == f"host {target}"]
                for end in nearer:
                    loads[node, end] += bytes_ / len(nearer)
                    reached[end] += bytes_ / len(nearer)
            held = reached
    return dict(loads)


def found(fabric: Fabric, flows: Flows) -> dict[tuple[str, str], float]:
    """Bytes on each pair of joined nodes, as the fabric says; parallel links are added."""
    loads = fabric.loads(flows).mean(axis=0).sum(axis=0)
    bundle = fabric.links()["bundle"].to_numpy()
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for ends, number in zip(link_ends(fabric), bundle, strict=True):
        sums[ends] += float(loads[number] * fabric.bundles.share[number])
    return {ends: size for ends, size in sums.items() if size}


def what_stays(loads: dict[tuple[str, str], float], pairs: dict[tuple[int, int], int]) -> dict[str, float]:
    """Bytes that come to each node less those that leave it, beyond what hosts send and get: 0 everywhere."""
    kept: dict[str, float] = defaultdict(float)
    for (source, target), size in loads.items():
        kept[source] -= size
        kept[target] += size
    for (source, target), size in pairs.items():
        kept[f"host {source}"] += size
        kept[f"host {target}"] -= size
    return kept


def per_link(fabric: Fabric, flows: Flows) -> pl.DataFrame:
    """class, source, target and bytes of every link, those without bytes too."""
    loads = fabric.loads(flows).mean(axis=0).sum(axis=0) * fabric.bundles.share
    links = fabric.links()
    bundle = links["bundle"].to_numpy()
    words = [CLASSES[number] for number in fabric.bundles.class_[bundle]]
    return links.with_columns(**{"class": pl.Series(words), "bytes": pl.Series(loads[bundle])})
