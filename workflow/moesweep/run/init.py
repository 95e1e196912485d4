"""`moesweep init`: a folder with a first study of one's own, outside of any checkout."""

import argparse
import shlex
import shutil
from pathlib import Path

from moesweep.edge.problems import BadInput, Problem

FIRST_STUDY = Path(__file__).parent / "first_study"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `init`."""
    help_ = "write a folder with a first study: a sweep, a model, a configuration, and what to do next"
    command = commands.add_parser("init", help=help_, description=help_)
    command.add_argument("study", type=Path, metavar="STUDY", help="folder to write, new or empty")
    command.set_defaults(run=init)


def init(arguments: argparse.Namespace) -> int:
    """Write the study, and say what to do next; raise BadInput where something stands in the way."""
    study: Path = arguments.study
    if study.is_symlink() or (study.exists() and not study.is_dir()):
        problem = "is not a folder"
    elif study.is_dir() and any(study.iterdir()):
        problem = "is not empty"
    else:
        shutil.copytree(FIRST_STUDY, study, dirs_exist_ok=True)
        print(f"{study}: a study of one sweep; its README.md says what is what. Next:")
        folder = str(study)
        # A shell takes -1 for an option, and a space for the end of the name.
        print(
            f"  cd {shlex.quote(f'./{folder}' if folder.startswith('-') else folder)}",
            "  moesweep run",
            sep="\n",
        )
        return 0
    raise BadInput([Problem("", "STUDY", "folder", str(study), f"{study} {problem}", "name a new folder")])
