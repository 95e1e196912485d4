"""From a network of the catalogue to a topology for so many GPUs, with all that does not fit named."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

from moesweep.edge.problems import BadInput, Problem
from moesweep.network.dragonfly import Dragonfly
from moesweep.network.flows import Fabric
from moesweep.network.hashed import HashedTree
from moesweep.network.lattice import Lattice
from moesweep.network.topology import Order, Topology
from moesweep.network.tree import Tree, fitted
from moesweep.study.networks import Network


@dataclass(frozen=True)
class Rates:
    """Bytes per second of one GPU, one direction: its card's and its NVLink's."""

    nic: float
    nvlink: float


@dataclass(frozen=True)
class _Site:
    """What a fabric is built for: hosts in so many islands of so many GPUs."""

    network: Network
    islands: int
    island: int
    rates: Rates
    root: Path

    @property
    def shape(self) -> Mapping[str, Any]:
        """What the network's file says of its shape."""
        return self.network.shape

    @property
    def gpus(self) -> int:
        """GPUs of all islands."""
        return self.islands * self.island

    @property
    def link(self) -> float:
        """The rate of links between switches."""
        return self.network.link_bytes_per_second or self.rates.nic

    def problem(self, key: str, rule: str, message: str, advice: str = "") -> Problem:
        """Return a problem of a key of the shape."""
        value = self.shape.get(key, "")
        return Problem(self.network.file, f"shape.{key}", rule, str(value), message, advice)


def topology(
    network: Network, world_size: int, gpus_per_node: int, rates: Rates, root: Path = Path()
) -> Topology:
    """Return a network as it is built for a workload of so many GPUs.

    A network that says for how many GPUs it is keeps them; others have as many as the workload fills, in
    whole islands. Raises BadInput with everything that does not fit: numbers that do not divide one another,
    and more GPUs than it can hold.
    """
    island = network.island_gpus or gpus_per_node
    islands = ceil((network.gpus or world_size) / island)
    problems = []
    if world_size > islands * island:
        message = f"a workload of {world_size} GPUs is larger than the network's {network.gpus}"
        problems.append(
            Problem(network.file, "gpus", "too_large", str(network.gpus), message, f"nearest: {world_size}")
        )
    site = _Site(network, islands, island, rates, root)
    order, pod = _order(network)
    try:
        fabric = _FABRICS[network.topology](site)
    except BadInput as bad:
        raise BadInput([*problems, *bad.problems]) from None
    needed = islands if order == "apart" else site.gpus
    if fabric.hosts < needed:
        problems.append(_too_few(site, fabric, order))
    if problems:
        raise BadInput(problems)
    return Topology(islands * island, island, fabric, order, pod, network.pxn, rates.nvlink, rates.nic)


def _too_few(site: _Site, fabric: Fabric, order: Order) -> Problem:
    held = fabric.hosts * (site.island if order == "apart" else 1)
    key = next(iter(site.shape), "")
    message = f"holds {held} GPUs at most, and {site.gpus} are needed"
    return Problem(
        site.network.file, f"shape.{key}", "holds", str(site.shape.get(key, "")), message, "use a larger one"
    )


def _order(network: Network) -> tuple[Order, int]:
    if network.topology == "rail":
        return "rail", int(network.shape["leaf_islands"])
    apart = network.topology == "rail_only" or network.shape.get("vertices") == "rail"
    return ("apart" if apart else "rank"), 1


def _non_blocking(site: _Site) -> Fabric:
    return Tree(site.gpus, (site.gpus,), (1,), (site.rates.nic,))


def _leaf_spine(site: _Site) -> Fabric:
    return _leaves(site, "leaf_gpus", site.gpus)


def _rail(site: _Site) -> Fabric:
    # Leaves are whole: an island more opens a leaf on every rail.
    pod = site.shape["leaf_islands"]
    return _leaves(site, "leaf_islands", ceil(site.islands / pod) * pod * site.island)


def _rail_only(site: _Site) -> Fabric:
    return _leaves(site, "leaf_islands", site.islands)


def _leaves(site: _Site, below: str, hosts: int) -> Fabric:
    """Return leaves of so many hosts below spines."""
    down, over = site.shape[below], site.shape["oversubscription"]
    if down % over:
        near = _near_divisors(over, down)
        message = f"oversubscription {over} does not divide the {down} links down from a leaf"
        raise BadInput([site.problem("oversubscription", "divides", message, near)])
    tree = fitted(hosts, (down, site.shape["spine_ports"]), (1, down // over), (site.rates.nic, site.link))
    return _routed(site, tree)


def _fat_tree(site: _Site) -> Fabric:
    radix, over = site.shape["radix"], site.shape["oversubscription"]
    problems = []
    if radix % 2:
        message = f"half of the {radix} ports lead down"
        problems.append(site.problem("radix", "even", message, f"nearest: {radix - 1}, {radix + 1}"))
    elif radix // 2 % over:
        message = f"oversubscription {over} does not divide the {radix // 2} links down from an edge switch"
        problems.append(
            site.problem("oversubscription", "divides", message, _near_divisors(over, radix // 2))
        )
    if problems:
        raise BadInput(problems)
    half = radix // 2
    tree = fitted(
        site.gpus, (half, half, radix), (1, half // over, half), (site.rates.nic, site.link, site.link)
    )
    return _routed(site, tree)


def _routed(site: _Site, tree: Tree) -> Fabric:
    if tree.tops > tree.below[-1]:
        held = prod(tree.below)
        key = "radix" if "radix" in site.shape else "spine_ports"
        gpus = held * (site.island if site.network.topology == "rail_only" else 1)
        message = f"holds {gpus} GPUs at most, and {site.gpus} are needed"
        raise BadInput([site.problem(key, "holds", message, "use a larger one")])
    return HashedTree(tree, site.network.queue_pairs) if site.network.routing == "hashed" else tree


def _dragonfly(site: _Site) -> Fabric:
    shape = site.shape
    return _groups(site, shape["switches"], shape["switch_gpus"], 0, shape["global_ports"])


def _dragonfly_plus(site: _Site) -> Fabric:
    shape = site.shape
    return _groups(site, shape["leaves"], shape["leaf_gpus"], shape["spines"], shape["global_ports"])


def _groups(site: _Site, leaves: int, leaf_gpus: int, spines: int, ports: int) -> Fabric:
    groups = ceil(site.gpus / (leaves * leaf_gpus))
    most = (spines or leaves) * ports + 1
    if groups > most:
        message = f"{most - 1} global ports of a group join {most} groups at most, and {groups} are needed"
        raise BadInput([site.problem("global_ports", "holds", message, "use more of them, or larger groups")])
    valiant = site.network.routing == "valiant"
    return Dragonfly(
        groups, leaves, leaf_gpus, spines, ports, valiant, (site.rates.nic, site.link, site.link)
    )


def _torus(site: _Site) -> Fabric:
    return _lattice(site, rings=True)


def _hyperx(site: _Site) -> Fabric:
    return _lattice(site, rings=False)


def _lattice(site: _Site, rings: bool) -> Fabric:
    shape = site.shape
    at_vertex = int(shape.get("switch_gpus", 0))
    hosts = site.islands if shape["vertices"] == "rail" else site.gpus
    vertices = ceil(hosts / max(at_vertex, 1))
    sides = tuple(shape["sides"]) if "sides" in shape else even_sides(vertices, shape["dimensions"])
    if prod(sides) < vertices:
        message = f"{' x '.join(map(str, sides))} vertices are fewer than the {vertices} needed"
        raise BadInput([site.problem("sides", "holds", message, "use longer sides")])
    lattice = Lattice(sides, rings, site.network.routing == "valiant", at_vertex, site.link, site.rates.nic)
    if shape["ports"] == "full":
        return lattice
    share = site.link / max(lattice.links_of_a_vertex, 1)
    return Lattice(sides, rings, lattice.valiant, at_vertex, share, site.rates.nic)


def even_sides(vertices: int, dimensions: int) -> tuple[int, ...]:
    """Return sides as nearly equal as they can be, longest first, that hold so many vertices.

    Exactly as many where some sides at most twice as long as others do: 128 is 16 x 8, but 127 is 12 x 11.
    """
    if dimensions == 1:
        return (vertices,)
    least = ceil(round(vertices ** (1 / dimensions), 9))
    exact = [side for side in range(least, 2 * least + 1) if vertices % side == 0]
    for side in exact:
        rest = even_sides(vertices // side, dimensions - 1)
        if prod(rest) * side == vertices and side <= 2 * min(rest):
            return tuple(sorted((side, *rest), reverse=True))
    return tuple(sorted((least, *even_sides(ceil(vertices / least), dimensions - 1)), reverse=True))


def _graph(site: _Site) -> Fabric:
    # SciPy loads slowly, and few networks are graphs.
    from moesweep.network.graph_import import imported

    return imported(site.network, site.root, site.gpus, site.island, site.rates.nic)


def _near_divisors(value: int, number: int) -> str:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    near = [d for d in divisors if d < value][-1:] + [d for d in divisors if d > value][:1]
    return f"nearest: {', '.join(map(str, near))}"


_FABRICS: dict[str, Callable[[_Site], Fabric]] = {
    "non_blocking": _non_blocking,
    "leaf_spine": _leaf_spine,
    "fat_tree": _fat_tree,
    "rail": _rail,
    "rail_only": _rail_only,
    "dragonfly": _dragonfly,
    "dragonfly_plus": _dragonfly_plus,
    "hyperx": _hyperx,
    "torus": _torus,
    "graph": _graph,
}
