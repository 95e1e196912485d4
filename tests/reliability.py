"""Print the figures of docs/reliability.md, or those named: `python tests/reliability.py archive strange`."""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import hostile
import scale_faults
import strange_tables
from archives import archived, finished, flips
from edits import noticed
from kills import LIMIT_SECONDS, killed
from malformed import attempt
from project import make_project
from test_untrusted import prepared, tried

FLIPS = 1000
MUTATIONS = 100
STRANGE = 400
KILLS = 100
WORKLOADS = 10_000
LOST = 2 * 64
"""Workloads of the two trace jobs that a kill interrupts, at the most."""


def archive(folder: Path) -> bool:
    """Flip bytes of an archive."""
    made = archived(finished(folder / "project"), folder / "archive")
    found, named = flips(made, FLIPS)
    size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    print(f"archive: of {FLIPS} flipped bytes in {size} bytes, {found} found, {named} named by their file")
    return found == named == FLIPS


def untrusted(folder: Path) -> bool:
    """Hand malformed inputs to the command line."""
    outcomes = tried(prepared(folder), MUTATIONS)
    codes = Counter(outcome.code for outcome in outcomes)
    faulty = [outcome for outcome in outcomes if outcome.faults]
    for outcome in faulty:
        print(f"untrusted: {outcome.name}: {outcome.faults}")
    total, valid = len(outcomes), codes[0]
    print(f"untrusted: {total} inputs, {total - valid} refused, {valid} still valid, {len(faulty)} faults")
    return not faulty


def strange(folder: Path) -> bool:
    """Hand results of strangers to every command that reads some."""
    project = finished(folder / "project")
    outcomes = [attempt(project, case) for case in strange_tables.strange(project, STRANGE, seed=0)]
    faulty = [outcome for outcome in outcomes if outcome.faults]
    for outcome in faulty:
        print(f"strange: {outcome.name}: {outcome.faults}")
    refused = sum(outcome.code != 0 for outcome in outcomes)
    print(f"strange: {len(outcomes)} tables (seed 0), {refused} refused, {len(faulty)} faults")
    return not faulty


def kills(folder: Path) -> bool:
    """Kill the sweep again and again."""
    tally = killed(make_project(folder), KILLS)
    print(
        f"kills: {tally.recovered} of {tally.kills} recovered byte by byte; {tally.locked} left a lock; "
        f"the slowest ended after {tally.slowest_seconds:.1f} s"
    )
    return tally.recovered == tally.kills and tally.slowest_seconds < LIMIT_SECONDS


def edits(folder: Path) -> bool:
    """Edit files while stages run, and put them back."""
    found = noticed(make_project(folder))
    print(f"edits: {sum(found)} of {len(found)} files edited while a stage ran are in no result")
    return all(found)


def malformed(folder: Path) -> bool:
    """Hand malformed inputs of every kind to every command."""
    outcomes = list(hostile.outcomes(prepared(folder), share=1))
    faulty = [outcome for outcome in outcomes if outcome.faults]
    for outcome in faulty:
        print(f"malformed: {outcome.name}: {outcome.faults}")
    accepted = sum(outcome.code == 0 for outcome in outcomes)
    print(
        f"malformed: {len(outcomes)} inputs (seed 0), {len(outcomes) - accepted} refused, {accepted} still "
        f"valid, {len(faulty)} faults"
    )
    return not faulty


def scale(folder: Path) -> bool:
    """Disturb a large sweep, and take disk, file locks and memory away."""
    there, again, seconds = scale_faults.cut_in_half(folder / "large", WORKLOADS)
    print(
        f"scale: killed with {there} of {WORKLOADS} workloads traced; of these {again} were traced again; "
        f"completed in {seconds:.0f} s"
    )
    missing = scale_faults.disk_full_at_the_end(folder / "full")
    print(f"scale: a disk that fills with {missing} figures and pages missing: completed byte by byte")
    print(f"scale: without file locks a second run says: {scale_faults.without_locks(folder / 'lockless')}")
    print(f"scale: out of memory, a run says: {scale_faults.out_of_memory(folder / 'memory')}")
    return again <= LOST


FIGURES = {
    "archive": archive,
    "untrusted": untrusted,
    "strange": strange,
    "malformed": malformed,
    "kills": kills,
    "edits": edits,
    "scale": scale,
}


def main(names: list[str]) -> int:
    """Print the named figures, or all; 1 if one is not reached."""
    reached = True
    for name in names or FIGURES:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            reached &= FIGURES[name](Path(folder))
        print(f"{name}: {time.perf_counter() - start:.0f} s")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
