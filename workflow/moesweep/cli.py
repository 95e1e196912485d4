"""The command line. Exit code 0 for success, 1 for failure, 2 for bad input, 130 when interrupted."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from moesweep.archive.command import add_commands as add_archive
from moesweep.calibration.command import add_commands as add_calibration
from moesweep.clean import add_commands as add_clean
from moesweep.commands import add_commands
from moesweep.diff.command import add_commands as add_diff
from moesweep.explain.command import add_commands as add_explain
from moesweep.export.command import add_commands as add_export
from moesweep.problems import BadInput
from moesweep.report.command import add_commands as add_report
from moesweep.runner import add_commands as add_run
from moesweep.traffic.command import add_commands as add_traffic


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; `run` of the parsed arguments is the command's function."""
    top = argparse.ArgumentParser(
        prog="moesweep", description="Sweeps of Mixture-of-Experts training, traced and costed."
    )
    top.add_argument("--version", action="version", version=f"moesweep {version('moesweep')}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_commands(commands)
    add_calibration(commands)
    add_export(commands)
    add_archive(commands)
    add_clean(commands)
    add_run(commands)
    add_traffic(commands)
    add_explain(commands)
    add_diff(commands)
    add_report(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; print a user's mistakes one a line, without a traceback."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except BadInput as error:
        print(*(problem.line() for problem in error.problems), sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away; Python must not fail again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"moesweep: {error}", file=sys.stderr)
        return 1
