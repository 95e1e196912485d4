"""`moesweep diff` and `moesweep whatif`: which workloads move, by which terms and inputs."""

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from moesweep.edge.argument_numbers import plain_number, whole_number
from moesweep.edge.problems import BadInput, Problem
from moesweep.study.configured import add_options, asked

if TYPE_CHECKING:
    from moesweep.diff.comparison import Comparison

_HELP = "say which workloads moved between two result folders, through which terms, by which inputs"
_EXIT = "exit code 0: the costs are equal; 1: they differ; 2: the folders cannot be compared"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the parser of `moesweep diff`."""
    command = commands.add_parser("diff", help=_HELP, description=_HELP, epilog=_EXIT)
    command.add_argument("a", type=Path, metavar="RESULTS_A", help="the folder before")
    command.add_argument("b", type=Path, metavar="RESULTS_B", help="the folder after")
    _add_output_options(command)
    command.set_defaults(run=diff)
    add_what_if(commands)


def _add_output_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--format", choices=("text", "json", "csv"), default="text", help="(%(default)s)")
    command.add_argument(
        "--tolerance",
        type=plain_number,
        default=1e-9,
        metavar="SHARE",
        help="changes up to this share of a number do not count (%(default)s)",
    )
    command.add_argument(
        "--top", type=whole_number, default=10, metavar="N", help="workloads shown as text (%(default)s)"
    )


def diff(arguments: argparse.Namespace) -> int:
    """Print the comparison; return 1 if the costs differ."""
    from moesweep.diff.comparison import Comparison
    from moesweep.diff.folder import read_folders

    _check(arguments)
    found = Comparison(*read_folders(arguments.a, arguments.b), arguments.tolerance)
    _print(found, arguments)
    return 0 if found.equal else 1


def _print(found: "Comparison", arguments: argparse.Namespace) -> None:
    from moesweep.diff.listing import lines
    from moesweep.diff.output import as_csv, as_json

    if arguments.format == "json":
        print(json.dumps(as_json(found), indent=1, ensure_ascii=False))
    elif arguments.format == "csv":
        print(as_csv(found), end="")
    else:
        print(*lines(found, arguments.top), sep="\n")


def _check(arguments: argparse.Namespace) -> None:
    problems = []
    if not (math.isfinite(arguments.tolerance) and arguments.tolerance >= 0):
        message = f"{arguments.tolerance} is no share"
        problems.append(Problem("", "--tolerance", "range", str(arguments.tolerance), message, "nearest: 0"))
    if arguments.top < 1:
        message = f"{arguments.top} is below 1"
        problems.append(Problem("", "--top", "range", str(arguments.top), message, "nearest: 1"))
    if problems:
        raise BadInput(problems)


def add_what_if(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the parser of `moesweep whatif`."""
    help_ = "say how finished results would change with another constant or option; nothing is written"
    command = commands.add_parser("whatif", help=help_, description=help_)
    command.add_argument(
        "given",
        nargs="+",
        metavar="NAME=VALUE",
        help="such as nic_bytes_per_second=400Gbit/s, network=fat-tree-4to1, ep=8 or routing=zipf:1.2",
    )
    command.add_argument(
        "--workload", action="append", metavar="ID", help="these workloads alone, by id, beginning or glob"
    )
    _add_output_options(command)
    add_options(command)
    command.set_defaults(run=what_if)


def what_if(arguments: argparse.Namespace) -> int:
    """Print what would change."""
    from moesweep.diff.folder import read_folder
    from moesweep.diff.whatif import what_if
    from moesweep.study.assigned import assignments
    from moesweep.study.catalog import load_cluster
    from moesweep.study.naming import named

    _check(arguments)
    given, configuration = assignments(arguments.given), asked(arguments)
    folder = read_folder(configuration.results().root)
    if arguments.workload is not None:
        folder = replace(folder, workloads=named(folder.workloads, arguments.workload))
    cluster = load_cluster(configuration.root, folder.inputs.cluster)
    found = what_if(folder, cluster, given, arguments.tolerance, configuration.root)
    print(*found.notes, sep="\n", file=sys.stderr, end="\n" if found.notes else "")
    _print(found, arguments)
    return 0
