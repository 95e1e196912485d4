"""The commands and their options, read from the command line."""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from moesweep.archive import command as archive
from moesweep.calibration import command as calibration
from moesweep.cost import command as collectives
from moesweep.diff import command as diff
from moesweep.edge.problems import one_line
from moesweep.explain import command as explain
from moesweep.export import command as export
from moesweep.report import command as report
from moesweep.run import clean, init, runner
from moesweep.run import commands as stages
from moesweep.screen import command as screen
from moesweep.study.importers import command as importers
from moesweep.topologies import command as topologies
from moesweep.traffic import command as traffic


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong; --help says how to use the command."""

    def error(self, message: str) -> NoReturn:
        """Print a user's mistake and leave with exit code 2."""
        self.exit(2, one_line(f"{self.prog}: {message}") + "\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, each with its own options."""
    # A command takes any parser to add its own to.
    top: argparse.ArgumentParser = Parser(
        prog="moesweep", description="Sweeps of Mixture-of-Experts training, traced and costed."
    )
    top.add_argument("--version", action="version", version=f"moesweep {version('moesweep')}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    rooms = (init, importers, stages, calibration, collectives, export, archive, clean, runner)
    for module in (*rooms, traffic, topologies, explain, diff, report, screen):
        module.add_commands(commands)
    return top


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments, by default the process's own; `run` of them is the command's function."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    # NAME=VALUE may stand anywhere; argparse takes those that follow an option for strangers.
    given = [word for word in rest if "=" in word and not word.startswith("-")]
    if len(given) < len(rest) or (given and not hasattr(arguments, "given")):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if given:
        arguments.given = [*arguments.given, *given]
    return arguments
