"""`moesweep diff`: which workloads moved between two result folders, by which terms and inputs."""

import argparse
import json
import math
from pathlib import Path

from moesweep.edge.problems import BadInput, Problem

_HELP = "say which workloads moved between two result folders, through which terms, by which inputs"
_EXIT = "exit code 0: the costs are equal; 1: they differ; 2: the folders cannot be compared"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the parser of `moesweep diff`."""
    command = commands.add_parser("diff", help=_HELP, description=_HELP, epilog=_EXIT)
    command.add_argument("a", type=Path, metavar="RESULTS_A", help="the folder before")
    command.add_argument("b", type=Path, metavar="RESULTS_B", help="the folder after")
    command.add_argument("--format", choices=("text", "json", "csv"), default="text", help="(%(default)s)")
    command.add_argument(
        "--tolerance",
        type=float,
        default=1e-9,
        metavar="SHARE",
        help="changes up to this share of a number do not count (%(default)s)",
    )
    command.add_argument(
        "--top", type=int, default=10, metavar="N", help="workloads shown as text (%(default)s)"
    )
    command.set_defaults(run=diff)


def diff(arguments: argparse.Namespace) -> int:
    """Print the comparison; return 1 if the costs differ."""
    from moesweep.diff.comparison import Comparison
    from moesweep.diff.folder import read_folders
    from moesweep.diff.listing import lines
    from moesweep.diff.output import as_csv, as_json

    _check(arguments)
    found = Comparison(*read_folders(arguments.a, arguments.b), arguments.tolerance)
    if arguments.format == "json":
        print(json.dumps(as_json(found), indent=1, ensure_ascii=False))
    elif arguments.format == "csv":
        print(as_csv(found), end="")
    else:
        print(*lines(found, arguments.top), sep="\n")
    return 0 if found.equal else 1


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
