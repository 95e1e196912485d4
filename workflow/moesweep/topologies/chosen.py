"""Which networks are compared where none is asked for."""

from pathlib import Path

from moesweep.edge.problems import BadInput, Problem, collect
from moesweep.study.catalog import Cluster
from moesweep.study.catalog_files import catalogued
from moesweep.study.networks import NON_BLOCKING, Network, load_network


def catalogue_networks(root: Path, cluster: Cluster) -> list[Network]:
    """Return the default network, the cluster's own, and those of the catalogue whose flows are not hashed.

    Raises BadInput with all faults of all of them.
    """
    problems: list[Problem] = []
    loaded = [collect(problems, load_network, root, name) for name in catalogued(root, "network")]
    if problems:
        raise BadInput(problems)
    fluid = [each for each in loaded if each is not None and each.routing != "hashed"]
    return list({each.name: each for each in (NON_BLOCKING, cluster.network, *fluid)}.values())
