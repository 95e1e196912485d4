"""Faults that a small sweep does not meet: a sweep cut in half, disks full, file locks and memory missing.

Each function disturbs a run and completes it, and returns what it found; `python tests/reliability.py scale`
prints them. They need root, strace and a cgroup of their own.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kills import RUN, kill
from project import SWEEP, Project, make_project

ROWS = SWEEP[SWEEP.index("rows:") :]
GRID = """\
grids:
  - model: tiny
    world_size: 16
    tp: [1, 2]
    pp: [1, 2]
    ep: 2
    global_batch_size: {{from: 16, to: {last}, step: 16}}
"""
POINTS = 8
"""Workloads of one batch of the grid: two tp, two pp, MoE and twin."""

LITTLE_MEMORY = 48 << 20
"""Bytes: less than a trace job takes before it has read anything."""

INJECTED = ("-e", "trace=flock", "-e", "inject=flock:error=ENOLCK")
"""What makes strace say that a file system has no locks."""


class Unavailable(Exception):
    """The machine lacks what a fault is made with."""


def of_size(folder: Path, workloads: int) -> Project:
    """Return a project whose sweep has so many workloads, a multiple of POINTS, 64 a job."""
    project = make_project(folder)
    project.edit("config/sweeps/small.yaml", ROWS, GRID.format(last=16 * workloads // POINTS))
    project.edit("config/config.yaml", "workloads_per_trace_job: 1\n", "workloads_per_trace_job: 64\n")
    return project


def cut_in_half(folder: Path, workloads: int) -> tuple[int, int, float]:
    """Kill a run with all that it started when half of its traces are there, and run it again.

    Returns how many workloads were traced when it was killed, how many of these were traced again, and the
    seconds of the second run. Raises AssertionError unless that makes all results of the sweep.
    """
    project = of_size(folder, workloads)
    traces = project.root / "results/traces/ops"
    process = project.start(*RUN)
    while process.poll() is None and len(list(traces.glob("*"))) < workloads // 2:
        time.sleep(0.2)
    assert process.poll() is None, process.communicate()[1]
    kill(process, signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in traces.rglob("*.parquet")}
    start = time.monotonic()
    done = project.make()
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    after = {path: path.stat().st_mtime_ns for path in traces.rglob("*.parquet")}
    assert len(after) == workloads
    assert not list((project.root / "results").rglob("*.partial"))
    assert "Nothing to be done" in project.run().stderr
    return len(before), sum(after[path] != moment for path, moment in before.items()), seconds


def disk_full_at_the_end(folder: Path) -> int:
    """Let the disk fill while figures and page are written; return how many of those files were missing.

    Raises AssertionError unless the run says so in words, leaves nothing half written, and ends with the
    bytes of an undisturbed run once there is room.
    """
    project = make_project(folder)
    results = project.root / "results"
    with mounted(results, "-t", "tmpfs", "-o", "size=64m", "tmpfs"):
        assert project.make().returncode == 0
        project.edit("config/config.yaml", "outputs: []", "outputs: [figures, report, manifest]")
        used = sum(file.stat().st_blocks * 512 for file in results.rglob("*") if file.is_file())
        subprocess.run(["mount", "-o", f"remount,size={used + 150_000}", str(results)], check=True)
        done = project.make()
        assert done.returncode != 0
        assert "No space left on device" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert not list(results.rglob("*.partial"))
        there = set(project.files())
        subprocess.run(["mount", "-o", "remount,size=64m", str(results)], check=True)
        assert project.make().returncode == 0
        made = project.files()
        shutil.rmtree(project.root / ".snakemake")
        for file in list(results.iterdir()):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        assert project.make().returncode == 0
        assert project.files() == made
        return len(made.keys() - there)


def without_locks(folder: Path) -> str:
    """Run where the file system has no locks, twice at once; return what the second run said.

    Raises AssertionError unless the first makes the bytes of an undisturbed run, and the second nothing.
    """
    if shutil.which("strace") is None:
        raise Unavailable("strace")
    project = make_project(folder)
    assert project.make().returncode == 0
    reference = project.files()
    project.forget()
    lockless = ["strace", "-f", "-qq", "-o", "/dev/null", *INJECTED]
    project.shim('[ "$1" = trace ] && mkdir "$PWD/tracing" 2>/dev/null && sleep 20')
    command = [str(project.bin / "moesweep"), *RUN[1:]]
    first = project.start(*lockless, *command)
    while first.poll() is None and not (project.root / "tracing").exists():
        time.sleep(0.1)
    second = project.call(*lockless, *command)
    said = first.communicate()[1]
    assert first.returncode == 0, said
    assert second.returncode == 1, second.stderr
    assert project.files() == reference
    return second.stderr.strip()


def out_of_memory(folder: Path) -> str:
    """Let the kernel kill a trace job that takes more than its cgroup has; return what the run said of it.

    Raises AssertionError unless nothing half written stays, and the next run ends with the bytes of an
    undisturbed one.
    """
    project = make_project(folder)
    assert project.make().returncode == 0
    reference = project.files()
    project.forget()
    with memory_group(LITTLE_MEMORY) as joined:
        project.shim(f'[ "$1" = trace ] && echo $$ > {joined}')
        done = project.make()
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not list((project.root / "results").rglob("*.partial"))
    project.shim("")
    assert project.make().returncode == 0
    assert project.files() == reference
    return next(line for line in done.stderr.splitlines() if "SIGKILL" in line).rpartition("'")[2].strip()


@contextmanager
def memory_group(most_bytes: int) -> Iterator[Path]:
    """Yield the file of a cgroup that whoever shall have no more memory writes its id to."""
    root = Path("/sys/fs/cgroup")
    old = (root / "memory").is_dir()
    group = (root / "memory" if old else root) / f"moesweep-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(most_bytes))
    except OSError as error:
        raise Unavailable(f"a cgroup: {error}") from error
    try:
        yield group / "cgroup.procs"
    finally:
        deadline = time.monotonic() + 10
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        group.rmdir()


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """Mount something on a folder; raise Unavailable where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mount(arguments, folder)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def mount(arguments: Sequence[str], folder: Path) -> None:
    """Mount something on a folder; raise Unavailable where that is not allowed."""
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"a mount: {done.stderr.strip()}")
