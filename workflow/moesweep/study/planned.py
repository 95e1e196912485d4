"""Whether a job reads what the workflow was planned on: a file that is edited meanwhile gets into no result.

Snakemake records the digest that it planned a job with. A job that reads something else would leave results
which that digest does not describe, and no later run would know: so it ends instead, before it writes.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from moesweep.edge.paths import provided
from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.study.catalog import Cluster

OPTION = "--planned"


def digest(texts: Iterable[str]) -> str:
    """Return a digest of texts and of where each of them ends."""
    found = hashlib.sha256()
    for text in texts:
        found.update(hashlib.sha256(text.encode()).digest())
    return found.hexdigest()[:16]


def of_cluster(cluster: Cluster, root: Path = Path()) -> str:
    """Return the digest of what costs read of a cluster: constants, network and the graph of one."""
    told = asdict(cluster)
    graphs = (provided(root, file).read_text(encoding="utf-8") for file in cluster.network.graphs)
    return digest([cluster.name, json.dumps([told["constants"], told["network"]]), *graphs])


def add_planned_option(parser: argparse.ArgumentParser) -> None:
    """Add --planned."""
    help_ = "what the workflow was planned on: end where the files are no longer that"
    parser.add_argument(OPTION, metavar="DIGEST", help=help_)


def refuse_edited(arguments: argparse.Namespace, read: Callable[[], str]) -> None:
    """Raise BadInput if a command was planned on another digest than that of what it reads, `read()`."""
    if arguments.planned is not None and arguments.planned != read():
        message = "the configuration, or a file it names, was edited after the workflow had begun"
        raise BadInput([Problem("", OPTION, "edited", shown(arguments.planned), message, "run it again")])
