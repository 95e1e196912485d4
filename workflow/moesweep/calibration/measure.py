"""`moesweep measure`: what was measured on a machine of one's own, as a cluster's file."""

import argparse
from pathlib import Path

from moesweep.edge.outputs import output_file
from moesweep.edge.problems import BadInput, Problem, collect


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    help_ = "make a cluster's file of logs of nccl-tests (docs/new-cluster.md)"
    command = commands.add_parser("measure", help=help_, description=help_)
    add = command.add_argument
    add("logs", nargs="+", metavar="LOG", help="output of nccl-tests: all_reduce, all_gather, ... alltoall")
    add("--out", required=True, metavar="CLUSTER.yaml", help="file to write: config/clusters/NAME.yaml")
    add("--like", default="", metavar="CLUSTER", help="cluster that says what no log does: GPU, cards, price")
    command.set_defaults(run=measure)


def measure(arguments: argparse.Namespace) -> int:
    """Write the file; print each fitted constant and how far its line misses the log."""
    from moesweep.study.cluster_import import import_cluster

    files = [Path(name) for name in arguments.logs]
    problems: list[Problem] = []
    out = collect(problems, output_file, arguments.out, files)
    found = collect(problems, import_cluster, files, out, arguments.like)
    if found is None:
        raise BadInput(problems)
    print(*found, sep="\n")
    print(f"{arguments.out}: a cluster as {arguments.like}, but for {len(found)} constants from logs")
    return 0
