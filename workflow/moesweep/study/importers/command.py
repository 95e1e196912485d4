"""`moesweep import`: files that people have, as a model of the catalogue and a row of a sweep."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesweep.edge.outputs import output_file
from moesweep.edge.problems import BadInput, Problem, collect, one_line, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moesweep.study.importers.draft import Draft
    from moesweep.study.importers.written import Imported


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `import`."""
    help_ = (
        "make a model, and a row of a sweep, of a config.json, a launch script, a recipe, a simulator's "
        "input; a cluster of logs of nccl-tests"
    )
    command = commands.add_parser("import", help=help_, description=help_)
    add = command.add_argument
    add("files", nargs="+", metavar="FILE", help="files to read together (docs/models.md, new-cluster.md)")
    add("--out", metavar="MODEL.yaml", help="the model's file to write: config/models/NAME.yaml")
    add("--sweep-out", metavar="SWEEP.yaml", help="write a sweep of one row, too")
    add("--like", metavar="CLUSTER", help="cluster that says what logs do not: GPU, cards, price")
    command.set_defaults(run=import_files, given=[])


def import_files(arguments: argparse.Namespace) -> int:
    """Read files, write what was asked for; say on stderr what they say that is not modelled."""
    from moesweep.study.assigned import assignments, values
    from moesweep.study.importers.known import read_file
    from moesweep.study.importers.logs import any_log, import_logs
    from moesweep.study.importers.written import joined, write_model, write_row

    if any_log(arguments.files):
        return import_logs(arguments)
    problems: list[Problem] = []
    if arguments.like is not None:
        message = "--like is for logs of nccl-tests, and none is named"
        problems.append(Problem("", "--like", "no_effect", shown(arguments.like), message, "leave it out"))
    # Names of values may stand among the files.
    files = [name for name in arguments.files if "=" not in name]
    given = [*(name for name in arguments.files if "=" in name), *arguments.given]
    said = collect(problems, lambda: values(assignments(given)))
    out, sweep = (
        name and collect(problems, output_file, name, [Path(file) for file in files])
        for name in (arguments.out, arguments.sweep_out)
    )
    if arguments.out is None and arguments.sweep_out is None:
        message = "there is nothing to write"
        problems.append(Problem("", "--out", "missing", "", message, "add --out config/models/NAME.yaml"))
    drafts = [draft for file in files if (draft := collect(problems, read_file, Path(file)))]
    if not files:
        problems.append(Problem("", "FILE", "missing", "", "no file to import is named"))
    if said is None or problems:
        raise BadInput(problems)
    found = joined(drafts, said)
    name = _judged(found, said, out, sweep)
    if out:
        write_model(found, drafts, out)
    if sweep:
        write_row(found, drafts, name, sweep, with_model=out is not None)
    _say(drafts)
    for path, what in ((out, "a model"), (sweep, "a sweep of one row")):
        if path:
            print(f"{path}: {what}")
    return 0


def _judged(found: "Imported", said: "Mapping[str, Any]", out: Path | None, sweep: Path | None) -> str:
    """Return the name of the model that a row has; raise BadInput with all that is wrong."""
    from moesweep.study.forms import NAME
    from moesweep.study.importers.written import faults_of_model, faults_of_row

    problems = list(found.problems)
    problems += faults_of_model(found) if out else []
    problems += faults_of_row(found) if sweep else []
    name = out.stem if out else str(said.get("model", ""))
    if sweep and not name:
        message = "a row needs a model, and none is written"
        problems.append(
            Problem("", "model", "missing_key", "", message, "add --out, or model=NAME to the command")
        )
    elif out and not re.fullmatch(NAME["pattern"], name):
        problems.append(
            Problem("", "--out", "name", shown(name), f"{shown(name)} names no model", NAME["x-form"])
        )
    elif out and "model" in said:
        message = f"the model is called {name}, after --out"
        problems.append(Problem("", "model", "no_effect", shown(said["model"]), message, "leave model= out"))
    if problems:
        raise BadInput(problems)
    return name


def _say(drafts: "Sequence[Draft]") -> None:
    for draft in drafts:
        for name, value in draft.unread.items():
            print(one_line(f"{draft.file}: {name}: not modelled: {shown(value)}"), file=sys.stderr)
        if draft.idle:
            idle = ", ".join(sorted(set(draft.idle)))
            print(one_line(f"{draft.file}: of no effect here: {idle}"), file=sys.stderr)
