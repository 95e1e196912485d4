"""`moesweep clean`: remove results that no longer belong to the sweep, that are damaged, or of a stage."""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from moesweep.store.checksums import damaged, note
from moesweep.store.layout import Results
from moesweep.store.memo import forget
from moesweep.store.parts import unfit_parts
from moesweep.store.provenance import ENTRY
from moesweep.study.configured import Configuration, add_options, asked

if TYPE_CHECKING:
    from moesweep.run.plan import Plan


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `clean`."""
    help_ = "list and remove results that no longer belong to the sweep, are damaged, or are to be made anew"
    command = commands.add_parser("clean", help=help_, description=help_)
    add_options(command)
    command.add_argument(
        "--stale",
        action="store_true",
        help="files of workloads, tables and outputs that the configured sweep no longer has",
    )
    command.add_argument("--damaged", action="store_true", help="files that differ from what was written")
    command.add_argument(
        "--stage", choices=sorted(ENTRY), help="all that a stage has made, and what it remembers of it"
    )
    command.add_argument("--dry-run", action="store_true", help="only list them")
    command.set_defaults(run=clean, parser=command)


def clean(arguments: argparse.Namespace) -> int:
    """List the files on stdout and remove them; no other file of the results is touched."""
    if not (arguments.stale or arguments.damaged or arguments.stage):
        arguments.parser.error("say what to clean: --stale, --damaged, --stage or several")
    results = asked(arguments).results()
    found = [
        *(stale(asked(arguments)) if arguments.stale else []),
        *(unusable(results) if arguments.damaged else {}),
        *(made_by(asked(arguments), arguments.stage) if arguments.stage else []),
    ]
    if arguments.stage and not arguments.dry_run:
        forget(results, arguments.stage)
    for path in sorted(set(found)):
        print(path)
        if not arguments.dry_run:
            remove(path, results)
    return 0


def stale(configuration: Configuration) -> Iterator[Path]:
    """Yield the workflow's own files that the configured sweep does not make.

    What a killed run left half-written counts too. Files that no rule ever makes are not the workflow's.
    """
    from moesweep.run.plan import load_plan

    plan = load_plan(configuration)
    wanted = {Path(file) for file in [*plan.recorded, *plan.wanted]}
    root = plan.results.root
    own = [
        *root.glob("*/*/workload=*/*.parquet"),
        *root.glob("tables/*.*"),
        *plan.results.indexes(),
        *half_written(plan.results),
        *(path for path in unmade(plan) if path.exists()),
    ]
    yield from sorted({path for path in own if path not in wanted and not path.is_symlink()})


def made_by(configuration: Configuration, stage: str) -> Iterator[Path]:
    """Yield the files that a stage has made of the configured sweep; the next run makes them all again."""
    from moesweep.run.plan import load_plan

    plan = load_plan(configuration)
    files = map(Path, [*plan.outputs(stage), *plan.parts(stage), *plan.on_demand(stage)])
    yield from (path for path in files if path.exists() and not path.is_symlink())


def unmade(plan: "Plan") -> Iterator[Path]:
    """Yield the outputs of stages that a configuration does not run; what is there, another one made."""
    for stage in ENTRY:
        if stage not in plan.stages:
            yield from map(Path, [*plan.outputs(stage), *plan.on_demand(stage)])


def unusable(results: Results) -> dict[Path, str]:
    """Return the results that are to be made again, and why.

    Of parts Snakemake knows nothing, so the index goes with a part that is damaged or lost. A file in the
    place of a workload's folder would end Snakemake itself, and with it the jobs of all other workloads.
    """
    found = dict.fromkeys(damaged(results.root), "checksum: is not what was written")
    folders = [path for path in results.root.glob("*/*/workload=*") if not path.is_symlink()]
    found |= dict.fromkeys((path for path in folders if path.is_file()), "is a file where a folder belongs")
    for index in results.indexes():
        unfit = unfit_parts(index, results, found)
        found |= {part: "is gone" for part in unfit if part not in found}
        if unfit:
            found.setdefault(index, f"names {unfit[0]}")
    return found


def half_written(results: Results) -> Iterator[Path]:
    """Yield the temporary files that killed jobs left."""
    yield from results.root.rglob(".*.partial")


def remove(path: Path, results: Results) -> None:
    """Remove a result, the record of its checksum, and the folder of results that it leaves empty."""
    path.unlink(missing_ok=True)
    note(path).unlink(missing_ok=True)
    folder = path.parent
    if folder == results.root or folder.is_symlink() or not folder.is_dir():
        return
    if not any(folder.iterdir()):
        folder.rmdir()


def forget_others(plan: "Plan") -> None:
    """Remove every file that is not of the plan's workloads, so that no table holds rows of other ones.

    With them go the indexes of trace jobs that it has not, and the outputs that its configuration does not
    have made again (`unmade`). What cannot be removed is said on stderr and left: no stage reads it.
    """
    results = plan.results
    wanted = {f"workload={id_}" for id_ in plan.ids}
    others = [path for path in results.root.glob("*/*/workload=*") if path.name not in wanted]
    gone = {path.name for path in others if not path.is_symlink() and _removed(path, results)}
    if gone:
        message = f"removed the files of {len(gone)} workloads that are not in the sweep"
        print(f"{results.root}: {message}", file=sys.stderr)
    indexes = {str(path) for path in results.indexes()}.difference(plan.outputs("trace"), plan.wanted)
    for index in indexes:
        _removed(Path(index), results)
    old = [path for path in unmade(plan) if path.exists() and not path.is_symlink()]
    if count := sum(_removed(path, results) for path in old):
        print(f"{results.root}: removed {count} files of outputs that are not made any more", file=sys.stderr)


def _removed(path: Path, results: Results) -> bool:
    """Remove a file, or a folder with all that it holds; say so and return False if that is not allowed."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
            shutil.rmtree(note(path), ignore_errors=True)
        else:
            remove(path, results)
    except OSError as error:
        print(f"{path}: cannot be removed, and is left: {error.strerror or error}", file=sys.stderr)
        return False
    return True
