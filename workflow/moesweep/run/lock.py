"""One run at a time in a directory, and what a run that was killed has left.

A run holds a lock of the operating system for as long as it or the Snakemake that it started lives, and
notes in the lock file who it is until it ends in good order. So a free lock file with a note in it means that
a run was killed: then, and only then, Snakemake's own lock is stale and is removed, with the temporary files
that killed jobs left.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moesweep.store.layout import Results

STATE = Path(".snakemake")
SNAKEMAKE_LOCKS = STATE / "locks"

STARTED = "moesweep.run.runner"
"""The module by which a run starts Snakemake."""


class Refused(Exception):
    """The run may not start; the message says why."""


@contextmanager
def only_run(results: Results) -> Iterator[tuple[int, bool]]:
    """Hold the directory's lock; yield its descriptor, and whether the run before was killed.

    Raises Refused while another run holds it, OSError where nothing can be written.
    """
    for folder in (STATE, results.root):
        folder.mkdir(parents=True, exist_ok=True)
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
        if not locked():
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder() -> str:
    """Return what tells the run that holds the directory from any other; empty where there is none."""
    try:
        return hashlib.sha256((STATE / "run.lock").read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def locked() -> bool:
    """Say whether a Snakemake has locked the directory."""
    return SNAKEMAKE_LOCKS.is_dir() and any(SNAKEMAKE_LOCKS.iterdir())


def recover(results: Results, killed: bool) -> None:
    """Make a directory ready for Snakemake; report on stderr what had to be mended.

    killed   the run before was killed: what it left is removed
    Raises Refused if Snakemake's lock is held by a run that is alive, or that `moesweep run` did not start.
    """
    from moesweep.run.clean import half_written, remove, unusable

    if locked():
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
        for path in list(half_written(results)):
            path.unlink(missing_ok=True)
    for path, reason in unusable(results).items():
        remove(path, results)
        print(f"{path}: {reason}; removed, to be made again", file=sys.stderr)


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


def _write_something(folder: Path) -> None:
    probe = folder / f".{os.getpid()}.partial"
    probe.touch()
    probe.unlink()


def _snakemakes_here() -> list[int]:
    """The other processes of this host that run Snakemake in this directory, as far as the system tells."""
    here, found = Path.cwd(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").readlink() == here and {"snakemake", STARTED} & _program(process):
                found.append(int(process.name))
        except OSError:
            continue
    return sorted(found)


def _program(process: Path) -> set[str]:
    """The names at the head of a command line: the program, and the script or module that Python runs."""
    words = process.joinpath("cmdline").read_bytes().split(b"\0")[:3]
    return {Path(os.fsdecode(word)).name for word in words}
