"""`moesweep archive` and `moesweep verify`."""

import argparse
import sys
from pathlib import Path

from moesweep.study.configured import add_options, asked


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `archive` and `verify`."""
    help_ = "copy finished results into a self-contained, self-describing folder"
    command = commands.add_parser("archive", help=help_, description=help_)
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write, new or empty"
    )
    add_options(command)
    command.set_defaults(run=archive)
    help_ = "find every changed, missing, extra or renamed file of an archive or a results folder"
    command = commands.add_parser("verify", help=help_, description=help_)
    command.add_argument("folder", type=Path, metavar="DIR", help="an archive, or results")
    command.set_defaults(run=verify)


def archive(arguments: argparse.Namespace) -> int:
    """Write the archive."""
    from moesweep.archive.build import archive
    from moesweep.edge.outputs import among_results
    from moesweep.edge.problems import BadInput

    results = asked(arguments).results().root
    if problems := among_results(arguments.out, results):
        raise BadInput(problems)
    manifest = archive(results, arguments.out)
    size = sum(entry.bytes for entry in manifest.files)
    print(f"{arguments.out}: {len(manifest.files)} files, {size} bytes")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Compare a folder with its manifest; 1 if anything differs, each difference on a line of stderr."""
    from moesweep.archive.verify import verify

    verdict = verify(arguments.folder)
    if verdict.problems:
        print(*(problem.line() for problem in verdict.problems), sep="\n", file=sys.stderr)
        return 1
    print(f"{arguments.folder}: {verdict.files} files, {verdict.bytes} bytes, all as recorded")
    return 0
