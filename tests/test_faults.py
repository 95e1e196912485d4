"""Kills, locks, interrupts, edits in between: `make sweep` again completes the sweep, byte by byte."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

import faults
from edits import A_FEW, noticed
from faults import assert_whole, completes, wait_until
from kills import KILLS, LIMIT_SECONDS, kill, killed
from project import Project, make_project

pytestmark = [pytest.mark.slow, pytest.mark.long]
finished, new = faults.finished, faults.new

SLOW_TRACE = '[ "$1" = trace ] && mkdir "$PWD/tracing" 2>/dev/null && sleep 20'
"""The first trace job takes its time."""

SNAKEMAKE = ["snakemake", "--cores", "2"]


def test_kills_at_random_moments(tmp_path: Path) -> None:
    tally = killed(make_project(tmp_path))
    print(tally)
    assert tally.recovered == tally.kills == KILLS
    assert tally.slowest_seconds < LIMIT_SECONDS


def test_files_that_are_edited_while_stages_run_get_into_no_result(tmp_path: Path) -> None:
    assert noticed(make_project(tmp_path), A_FEW) == [True] * len(A_FEW)


def test_a_killed_worker(new: Project, finished: Project) -> None:
    new.shim('[ "$1" = trace ] && kill -9 $$')
    done = new.make()
    assert done.returncode != 0
    assert re.search(r"moesweep trace .* tiny-\S+' died with <Signals.SIGKILL: 9>", done.stderr)
    assert_whole(new, finished)
    completes(new, finished)


def test_a_killed_snakemake_leaves_a_lock_that_the_next_run_removes(new: Project, finished: Project) -> None:
    new.shim(SLOW_TRACE)
    process = new.start(*new.make_sweep())
    wait_until((new.root / "tracing").exists)
    os.kill(child(process.pid, "moesweep.run.runner"), signal.SIGKILL)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()
    assert "removed the lock of a run that was killed" in completes(new, finished)


def child(pid: int, program: str) -> int:
    """The descendant of a process that runs a program."""
    found = [pid]
    while found:
        pid = found.pop()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:3]
        if program in words:
            return pid
        found += [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    raise AssertionError(program)


@pytest.mark.parametrize("program", ["make", "snakemake"])
def test_the_second_of_two_runs_stands_back(program: str, new: Project, finished: Project) -> None:
    new.shim(SLOW_TRACE)
    words = new.make_sweep() if program == "make" else SNAKEMAKE
    first = new.start(*words)
    wait_until((new.root / "tracing").exists)
    second = new.make()
    assert second.returncode != 0
    assert re.search(r"(another run|Snakemake) is at work in this directory .*nothing was", second.stderr)
    said = first.communicate()[1]
    assert first.returncode == 0, said
    assert new.files() == finished.files()


def test_a_lock_of_unknown_origin_is_left_alone(new: Project) -> None:
    lock = new.root / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("results/workloads.parquet\n")
    done = new.make()
    assert done.returncode != 0
    assert "not by make sweep" in done.stderr
    assert "Traceback" not in done.stderr
    assert lock.exists()
    assert new.make().returncode != 0
    assert new.make("--unlock").returncode == 0
    assert not lock.exists()


@pytest.mark.parametrize("program", ["make", "moesweep"])
def test_an_interrupt(program: str, new: Project, finished: Project) -> None:
    new.shim(SLOW_TRACE)
    words = new.make_sweep() if program == "make" else ["moesweep", "run", "--", "--cores", "2"]
    process = new.start("bash", "-c", '"$@"; exit $?', "bash", *words)
    wait_until((new.root / "tracing").exists)
    time.sleep(0.5)
    said, seconds = kill(process, signal.SIGINT)
    assert process.returncode in (130, -signal.SIGINT), said
    assert seconds < 10
    assert_whole(new, finished)
    completes(new, finished)


# Not the first instants, in which Python itself starts.
MOMENTS = [0.45, 0.8, *(pytest.param(seconds, marks=pytest.mark.endurance) for seconds in (0.3, 0.6, 0.9))]


@pytest.mark.parametrize("seconds", MOMENTS)
def test_an_interrupt_while_the_run_starts_is_quiet(seconds: float, new: Project, finished: Project) -> None:
    """The programs' imports and the reading of the Snakefile take a second."""
    process = new.start("moesweep", "run", "--", "--cores", "2")
    time.sleep(seconds)
    said, _ = kill(process, signal.SIGINT)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "KeyboardInterrupt" not in said
    completes(new, finished)
