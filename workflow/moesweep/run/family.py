"""The processes that a process has started, and theirs: what is to be gone when it is."""

import os
import signal
from contextlib import suppress
from pathlib import Path

PARENT, STARTED = 1, 19
"""Places of a process's parent and of its start in /proc/<id>/stat, after its name (man 5 proc)."""

Process = tuple[int, str]
"""A process's id, and when it started: an id alone may be another one's by now."""


def started_by(id_: int) -> set[Process]:
    """Return the processes below a process, as far as the system tells."""
    found = {process: stat for process in _ids() if (stat := _stat(process))}
    below, family = {id_}, set[Process]()
    while below:
        below = {process for process, stat in found.items() if int(stat[PARENT]) in below}
        family |= {(process, found[process][STARTED]) for process in below}
    return family


def end(processes: set[Process]) -> None:
    """Kill those processes that still are."""
    for id_, started in processes:
        stat = _stat(id_)
        if stat and stat[STARTED] == started:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(id_, signal.SIGKILL)


def _ids() -> list[int]:
    return [int(process.name) for process in Path("/proc").glob("[0-9]*")]


def _stat(id_: int) -> list[str]:
    """Return what the system says of a process after its name, which may be anything; empty if it is gone."""
    try:
        return Path(f"/proc/{id_}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
