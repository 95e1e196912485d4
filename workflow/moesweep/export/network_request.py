"""The network that an export is for: the one that --network names, else the one that the costs assume."""

from functools import cache
from pathlib import Path

from moesweep.edge.problems import BadInput, Problem
from moesweep.export.request import Request
from moesweep.network.slowed import built as built_for
from moesweep.network.topology import Topology
from moesweep.study.networks import DEFAULT_NETWORK, Network, named_network


def network_of(request: Request) -> Network:
    """Return the network asked for. Raises BadInput."""
    root, name = request.configuration.root, request.network or DEFAULT_NETWORK
    return named_network(root, name, ("", "--network"))


def built(request: Request, world_size: int) -> Topology:
    """Return it, as it is built for so many GPUs of the configured cluster. Raises BadInput."""
    cluster = request.configuration.cluster()
    return built_for(network_of(request), cluster.values, world_size, request.configuration.root)


@cache
def gbit(bytes_per_second: float, file: str) -> int:
    """Return a rate in whole Gbit/s. Raises BadInput where it is none."""
    rate = bytes_per_second * 8 / 1e9
    if rate != round(rate) or rate < 1:
        message = f"{rate:g} Gbit/s is no whole number of Gbit/s, as this format needs"
        raise BadInput([Problem(file, "", "whole_rate", f"{rate:g}", message)])
    return round(rate)


def not_modelled(network: Network, format_: str, why: str) -> BadInput:
    """Return the refusal of a network that a format cannot express."""
    message = f"a network of topology {network.topology} is not modelled in format {format_}: {why}"
    return BadInput([Problem(network.file, "topology", "not_modelled", network.topology, message)])


def beside(path: Path) -> Path:
    """Return the file with the command that runs an export."""
    return path.with_name(f"{path.name}.command.txt")
