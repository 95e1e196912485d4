"""ASTRA-sim's network file: one entry a dimension for topology, members, bandwidth in 2^30 bytes/s and ns.

A HyperX or torus is one only as a shape: a message across dimensions pays one of them and nothing contends.
The congestion-aware binary takes a single dimension.
"""

from math import prod

from moesweep.edge.problems import BadInput, Problem
from moesweep.export.network_request import beside, built, network_of, not_modelled
from moesweep.export.request import Request
from moesweep.network.hashed import HashedTree
from moesweep.network.lattice import Lattice
from moesweep.network.topology import Topology
from moesweep.network.tree import Tree
from moesweep.store.tablefile import whole
from moesweep.study.networks import Network, load_parts

Dimension = tuple[str, int, float, float]
"""Topology, members, bytes per second and seconds."""


def export(world_size: int, request: Request) -> None:
    """Write `<network>-<world>gpus.yml` and the command that runs it. Raises BadInput."""
    network, topology = network_of(request), built(request, world_size)
    parts = {name: constant.value for name, constant in load_parts(request.configuration.root).items()}
    found = dimensions(network, topology, world_size, parts)
    path = request.out / f"{network.name}-{world_size}gpus.yml"
    with whole(path) as partial:
        partial.write_text(network_text(found), encoding="ascii")
    binary = (
        "AstraSim_Analytical_Congestion_Aware"
        if len(found) == 1
        else "AstraSim_Analytical_Congestion_Unaware"
    )
    with whole(beside(path)) as partial:
        partial.write_text(
            "# It exits with 0 on a deadlock: every rank has to say that it finished.\n"
            f"{binary} --workload-configuration=SET/trace --comm-group-configuration=SET/comm_groups.json "
            f"--system-configuration=SYSTEM.json --remote-memory-configuration=MEMORY.json "
            f"--network-configuration={path.name}\n",
            encoding="ascii",
        )


def dimensions(
    network: Network, topology: Topology, world_size: int, parts: dict[str, float]
) -> list[Dimension]:
    """Return the dimensions of a network, those of one member left out. Raises BadInput."""
    fabric = topology.fabric.tree if isinstance(topology.fabric, HashedTree) else topology.fabric
    hop, per_rail = parts["link_seconds"] + parts["switch_seconds"], topology.order != "rank"
    found: list[Dimension] = []
    if topology.island > 1:
        found.append(
            ("Switch", topology.island, topology.nvlink_bytes_per_second, 2 * parts["nvlink_seconds"])
        )
    if isinstance(fabric, Tree):
        inner = 1 if per_rail else topology.island
        found += _of_tree(fabric, inner, topology, hop)
    elif isinstance(fabric, Lattice) and (per_rail or topology.island == 1) and not fabric.vertex_hosts:
        word = "Ring" if fabric.rings else "FullyConnected"
        found += [(word, size, fabric.capacity, parts["link_seconds"]) for size in reversed(fabric.shape)]
    else:
        raise not_modelled(
            network, "astra-network", "it has rings, full meshes and switches, one around the other"
        )
    real = [dimension for dimension in found if dimension[1] > 1]
    if prod(members for _, members, _, _ in real) != world_size:
        shape = " x ".join(str(members) for _, members, _, _ in real)
        message = f"its dimensions {shape} do not make the {world_size} GPUs of the workload"
        raise BadInput([Problem(network.file, "shape", "dimensions", shape, message)])
    return real


def _of_tree(tree: Tree, inner: int, topology: Topology, hop: float) -> list[Dimension]:
    """Return one switch for each level, each with what a host has of the links up to it.

    `inner` hosts of a leaf stand in one island already.
    """
    found, left = [], topology.gpus // topology.island
    for level in range(tree.levels):
        below = tree.below[level] // (inner if level == 0 else 1)
        size = left if level == tree.levels - 1 else min(below, left)
        links, hosts = prod(tree.above[: level + 1]), prod(tree.below[:level])
        share = min(tree.capacities[level] * links / hosts, topology.nic_bytes_per_second)
        found.append(("Switch", size, share, 2 * hop))
        left = -(-left // max(size, 1))
    return found


def network_text(found: list[Dimension]) -> str:
    """Return the YAML text."""
    topology, members, rates, delays = zip(*found, strict=True)
    rows = {
        "topology": ", ".join(topology),
        "npus_count": ", ".join(map(str, members)),
        "bandwidth": ", ".join(f"{rate / 2**30:.2f}" for rate in rates),
        "latency": ", ".join(f"{delay * 1e9:.1f}" for delay in delays),
    }
    return "".join(f"{key}: [ {text} ]\n" for key, text in rows.items())
