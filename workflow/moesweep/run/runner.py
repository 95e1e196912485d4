"""`moesweep run`: Snakemake as `make sweep` starts it, safe to kill, to start twice and to go on with.

One run at a time works in a directory. It holds a lock of the operating system for as long as it or the
Snakemake that it started lives, and notes in the lock file who it is until it ends in good order. So a
free lock file with a note in it means that a run was killed: then, and only then, Snakemake's own lock is
stale and is removed, with the temporary files that killed jobs left.
"""

import argparse
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from moesweep.run.failures import ALONE, WITHOUT
from moesweep.store.checksums import RESULTS
from moesweep.study.catalog import in_project

STATE = Path(".snakemake")
SNAKEMAKE_LOCKS = STATE / "locks"
DEFAULT_PROFILE = "workflow/profiles/default"
GRACE_SECONDS = 2.0
"""How long a terminal's Ctrl-C, which reaches every process, may take before it is passed on."""

_LOOKS_ONLY = {"-n", "--dry-run", "--dryrun", "--unlock"}


class Refused(Exception):
    """The run may not start; the message says why."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `run`."""
    help_ = "run the workflow: make sweep"
    command = commands.add_parser("run", help=help_, description=help_)
    command.add_argument("--profile", default=DEFAULT_PROFILE, help="Snakemake profile (%(default)s)")
    command.add_argument(
        "arguments", nargs="*", metavar="-- ARGUMENTS", help="for Snakemake, such as -- --dry-run --cores 1"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the workflow; 130 when interrupted, else Snakemake's exit code."""
    command = [
        sys.executable,
        "-m",
        "moesweep.run.interruptible",
        "--profile",
        arguments.profile,
        *arguments.arguments,
    ]
    in_project(Path.cwd())
    if _LOOKS_ONLY & set(arguments.arguments):
        os.execv(command[0], command)
    try:
        with only_run() as (lock, killed):
            recover(killed)
            return _with_failures_left_out(command, lock)
    except Refused as reason:
        print(f"moesweep: {reason}", file=sys.stderr)
        return 1


@contextmanager
def only_run() -> Iterator[tuple[int, bool]]:
    """Hold the directory's lock; yield its descriptor, and whether the run before was killed.

    Raises Refused while another run holds it, OSError where nothing can be written.
    """
    for folder in (STATE, Path(RESULTS)):
        folder.mkdir(exist_ok=True)
        _write_something(folder)
    descriptor = os.open(STATE / "run.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(descriptor)
        killed = os.fstat(descriptor).st_size > 0
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        try:
            yield descriptor, killed
        except BaseException:
            if not killed:
                os.ftruncate(descriptor, 0)
            raise
        # Still locked: Snakemake itself was killed, and the next run shall know.
        if not _locked():
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 1000, 0).decode().strip() or "unknown process"
        message = f"another run is at work in this directory ({holder}); nothing was changed"
        raise Refused(message) from None
    except OSError as error:
        # Without such locks nothing can be known of other runs: Snakemake's lock alone must do.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        os.ftruncate(descriptor, 0)


def _locked() -> bool:
    return SNAKEMAKE_LOCKS.is_dir() and any(SNAKEMAKE_LOCKS.iterdir())


def _write_something(folder: Path) -> None:
    probe = folder / f".{os.getpid()}.partial"
    probe.touch()
    probe.unlink()


def recover(killed: bool) -> None:
    """Make a directory ready for Snakemake; report on stderr what had to be mended.

    killed   the run before was killed: what it left is removed
    Raises Refused if Snakemake's lock is held by a run that is alive, or that `moesweep run` did not start.
    """
    from moesweep.run.clean import half_written, remove, unusable

    if _locked():
        if others := _snakemakes_here():
            message = f"Snakemake is at work in this directory (process {others[0]}); nothing was changed"
            raise Refused(message)
        if not killed:
            raise Refused(
                "Snakemake's lock is set, but not by make sweep; if no Snakemake, here or on another host, "
                "is at work in this directory: make sweep ARGS=--unlock"
            )
        shutil.rmtree(SNAKEMAKE_LOCKS)
        print("moesweep: removed the lock of a run that was killed", file=sys.stderr)
    if killed:
        for path in list(half_written()):
            path.unlink(missing_ok=True)
    for path, reason in unusable().items():
        remove(path)
        print(f"{path}: {reason}; removed, to be made again", file=sys.stderr)


def _snakemakes_here() -> list[int]:
    """The other processes of this host that run Snakemake in this directory, as far as the system tells."""
    here, found = Path.cwd(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").readlink() == here and "snakemake" in _program(process):
                found.append(int(process.name))
        except OSError:
            continue
    return sorted(found)


def _program(process: Path) -> set[str]:
    """The names at the head of a command line: the program, and the script or module that Python runs.

    Of a module inside a package the last name counts: moesweep.run.interruptible runs Snakemake too.
    """
    words = process.joinpath("cmdline").read_bytes().split(b"\0")[:3]
    return {Path(os.fsdecode(word)).name.rpartition(".")[2] for word in words}


def _with_failures_left_out(command: list[str], lock: int) -> int:
    """Run Snakemake; with --keep-going, go on without the workloads whose traces fail.

    The trace jobs of several workloads that failed run again one workload a job; then costs and tables are
    made of the workloads that have traces. Exit code 1 if any was left out.
    """
    alone: set[str] = set()
    without: set[str] = set()
    while True:
        environment = {ALONE: ",".join(sorted(alone)), WITHOUT: ",".join(sorted(without))}
        code = _watched(command, lock, environment)
        if code in (0, 130, 143) or not {"-k", "--keep-going"} & set(command):
            break
        os.environ.update(environment)
        jobs = _failed_traces()
        if not jobs:
            break
        alone |= {id_ for job in jobs if len(job) > 1 for id_ in job}
        without |= {job[0] for job in jobs if len(job) == 1}
    if without and code == 0:
        print(f"moesweep: {len(without)} workloads failed; costs and tables are without:", file=sys.stderr)
        print(*sorted(without), sep="\n", file=sys.stderr)
        return 1
    return code


def _failed_traces() -> list[list[str]]:
    """The workloads of each trace job that has left no output: Snakemake removes what a failed job wrote."""
    from moesweep.run.plan import load_plan
    from moesweep.study.configured import Configuration

    plan = load_plan(Configuration())
    return [
        ids
        for ids in plan.trace_jobs.values()
        if not all(Path(file).exists() for file in plan.trace_outputs(ids))
    ]


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Hold back interrupts, also of what the block starts: that takes them when it is ready to."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watched(command: list[str], lock: int, environment: Mapping[str, str]) -> int:
    """Run a command that shares the lock; return its exit code, 130 or 143 if a signal ended it or us.

    Ctrl-C in a terminal reaches the command too; an interrupt sent to this process alone is passed on.
    """
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _interrupts_kept():
            child = subprocess.Popen(command, env=os.environ | environment, pass_fds=(lock,))
        deadline = 0.0
        while True:
            try:
                code = child.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if caught and not deadline:
                    deadline = time.monotonic() + GRACE_SECONDS
                if caught and time.monotonic() > deadline:
                    child.terminate()
                    deadline = float("inf")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught and code != 0:
        return 128 + caught[0]
    return code if code >= 0 else 128 - code
