"""`moesweep archive` and `moesweep verify`."""

import argparse
import sys
from pathlib import Path


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `archive` and `verify`."""
    help_ = "copy finished results into a self-contained, self-describing folder"
    command = commands.add_parser("archive", help=help_, description=help_)
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write, new or empty"
    )
    command.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of the results (%(default)s)"
    )
    command.set_defaults(run=archive)
    help_ = "find every changed, missing, extra or renamed file of an archive or a results folder"
    command = commands.add_parser("verify", help=help_, description=help_)
    command.add_argument("folder", type=Path, metavar="DIR", help="an archive, or results")
    command.set_defaults(run=verify)


def archive(arguments: argparse.Namespace) -> int:
    """Write the archive."""
    from moesweep.archive.build import archive
    from moesweep.outputs import among_results
    from moesweep.problems import BadInput

    if problems := among_results(arguments.out, arguments.results):
        raise BadInput(problems)
    manifest = archive(arguments.results, arguments.out)
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
