"""Whatever a run has started, and whatever that does with signals: a run that is told to end ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from moesweep.run import runner
from moesweep.run.family import end, started_by

DEAF = """
import signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(600)
"""
"""As Snakemake when it waits for its own lock: it heeds no signal, and has a job."""


def is_there(process: int) -> bool:
    """Whether a process runs: one that ended but was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_ends_though_snakemake_does_not(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner.GRACE_SECONDS + runner.LAST_SECONDS < 10
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(runner, "LAST_SECONDS", 0.5)
    note = tmp_path / "job"

    def tell() -> None:
        while not (note.exists() and note.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=tell).start()
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    code = runner._watched([sys.executable, "-c", DEAF, str(note)], lock, {})
    os.close(lock)
    assert code == 128 + number
    job = int(note.read_text())
    deadline = time.monotonic() + 5
    while is_there(job) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_there(job)


def test_only_what_was_started_is_ended() -> None:
    """An id that another process has by now is not killed: it started at another time."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        ((id_, started),) = {each for each in started_by(os.getpid()) if each[0] == child.pid}
        end({(id_, f"{started}0")})
        assert child.poll() is None
        end({(id_, started)})
        assert child.wait(timeout=5) == -signal.SIGKILL
    finally:
        child.kill()
