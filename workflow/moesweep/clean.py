"""`moesweep clean`: remove results that no longer belong to the sweep, and results that are damaged."""

import argparse
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from moesweep.checksums import RECORDS, RESULTS, damaged, lost
from moesweep.layout import Results


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `clean`."""
    help_ = "list and remove results that no longer belong to the sweep, or are damaged"
    command = commands.add_parser("clean", help=help_, description=help_)
    command.add_argument(
        "--config", default="config/config.yaml", help="configuration of the workflow (%(default)s)"
    )
    command.add_argument(
        "--stale", action="store_true", help="files of workloads and tables that the sweep no longer has"
    )
    command.add_argument("--damaged", action="store_true", help="files that differ from what was written")
    command.add_argument("--dry-run", action="store_true", help="only list them")
    command.set_defaults(run=clean, parser=command)


def clean(arguments: argparse.Namespace) -> int:
    """List the files on stdout and remove them; no other file of results/ is touched."""
    if not (arguments.stale or arguments.damaged):
        arguments.parser.error("say what to clean: --stale, --damaged or both")
    found = [
        *(stale(arguments.config) if arguments.stale else []),
        *(unusable() if arguments.damaged else {}),
    ]
    for path in sorted(set(found)):
        print(path)
        if not arguments.dry_run:
            remove(path)
    return 0


def stale(config: str) -> Iterator[Path]:
    """Yield the files of the workflow's own tables that the configured sweep does not make.

    What a killed run left half-written counts too. Files that no rule ever makes are not the workflow's.
    """
    from moesweep.plan import load_plan

    plan = load_plan(config)
    wanted = {Path(file) for file in [*plan.recorded, *plan.wanted]}
    root = Path(RESULTS)
    own = [*root.glob("*/*/workload=*/*.parquet"), *root.glob("tables/*.*"), *half_written()]
    yield from sorted({path for path in own if path not in wanted and not path.is_symlink()})


def unusable() -> dict[Path, str]:
    """Return the results that are to be made again, and why.

    Parts are files that a job writes besides those that its rule declares. Snakemake knows nothing of
    them, so the table that is made with them goes with a part that is damaged or lost.
    """
    found = dict.fromkeys(damaged(), "checksum: is not what was written")
    for table, pattern in Results(Path(RESULTS)).in_parts.items():
        broken = [path for path in found if path.match(pattern)]
        gone = dict.fromkeys(lost(pattern), "is gone")
        if broken or gone:
            found |= gone
            if table.exists():
                found.setdefault(table, f"is made with {next(iter([*broken, *gone]))}")
    return found


def half_written() -> Iterator[Path]:
    """Yield the temporary files that killed jobs left."""
    yield from Path(RESULTS).rglob(".*.partial")


def remove(path: Path) -> None:
    """Remove a result, the record of its checksum, and the folder of a workload that it leaves empty."""
    path.unlink(missing_ok=True)
    (RECORDS / path).unlink(missing_ok=True)
    folder = path.parent
    if folder.name.startswith("workload=") and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def forget_others(results: Path, ids: Iterable[str]) -> None:
    """Remove every file of workloads that are not among `ids`, so that no table holds rows of them."""
    wanted = {f"workload={id_}" for id_ in ids}
    others = [folder for folder in results.glob("*/*/workload=*") if folder.name not in wanted]
    for folder in others:
        if not folder.is_symlink():
            shutil.rmtree(folder)
            shutil.rmtree(RECORDS / folder, ignore_errors=True)
    if others:
        count = len({folder.name for folder in others})
        print(f"{results}: removed the files of {count} workloads that are not in the sweep", file=sys.stderr)
