"""The end of a process: what Python would do, but for freeing what is held."""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

HELD = """
import atexit, sys, threading, time
from moesweep.edge.leaving import leave
class Held:
    def __del__(self):
        print("freed", file=sys.stderr)
held = Held()
atexit.register(lambda: print("at exit"))
"""


def ended(code: str, stdout: IO[str] | int = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", HELD + code]
    return subprocess.run(
        command, text=True, check=False, stdout=stdout, stderr=subprocess.PIPE, env=environment
    )


def test_what_waits_for_the_end_runs_and_nothing_is_freed() -> None:
    done = ended("sys.stdout.write('unflushed '); leave(3); print('goes on')")
    assert (done.returncode, done.stdout, done.stderr) == (3, "unflushed at exit\n", "")


def test_a_thread_is_waited_for() -> None:
    wait = "def work(): time.sleep(0.2); print('worked')\n"
    done = ended(f"{wait}threading.Thread(target=work).start(); leave(3); sys.exit(4)")
    assert (done.returncode, done.stdout) == (4, "worked\nat exit\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_what_cannot_be_written_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        done = ended("leave(0)", full)
    assert done.returncode == 120
    assert "No space left" in done.stderr


def test_a_command_says_how_it_ended() -> None:
    for arguments, code in ((["--version"], 0), (["verify", "nowhere"], 2), (["no-command"], 2)):
        run = [
            sys.executable,
            "-c",
            "import sys; from moesweep.cli import main; sys.exit(main())",
            *arguments,
        ]
        assert subprocess.run(run, capture_output=True, check=False).returncode == code
