"""Signals at random moments: each run ends soon, and the next `make sweep` as if nothing had been."""

import itertools
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass

from project import SWEEP, Project

KILLS = 6
"""As many as CI has time for; `python tests/reliability.py kills` does more."""

SEED = 5
LIMIT_SECONDS = 10
"""A run that takes longer to end hangs."""
ROW = "  - {model: tiny, world_size: 16, tp: 2, pp: 2, ep: 4, global_batch_size: 32}\n"
"""One MoE workload and its twin: each of the kills costs two runs."""


RUN = ("moesweep", "run", "--profile", "default", "--", "--cores", "2")
"""What `make sweep` runs: make ends its commands in its own way."""

WAYS = (
    (signal.SIGKILL, True),
    (signal.SIGTERM, True),
    (signal.SIGINT, True),
    (signal.SIGTERM, False),
    (signal.SIGINT, False),
)
"""Signals in turn, and whether they go to the whole process group or to the run alone."""


@dataclass(frozen=True)
class Tally:
    """Of `kills`: `recovered` with the very bytes of an undisturbed run, `locked` left Snakemake's lock.

    `slowest_seconds` is the longest that a run took to end once it had its signal.
    """

    kills: int
    recovered: int
    locked: int
    slowest_seconds: float


def kill(process: subprocess.Popen[str], number: int, group: bool = True) -> tuple[str, float]:
    """Send a signal to a process or its whole group; return what it had said, and the seconds it took."""
    start = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, number)
    return process.communicate()[1], time.monotonic() - start


def killed(project: Project, kills: int = KILLS, seed: int = SEED) -> Tally:
    """Disturb the sweep and all that it started at random moments, each time from no results on."""
    project.edit("config/sweeps/small.yaml", SWEEP[SWEEP.index("rows:") :], f"rows:\n{ROW}")
    project.forget()
    start = time.monotonic()
    undisturbed = project.make()
    seconds = time.monotonic() - start
    assert undisturbed.returncode == 0, undisturbed.stderr
    reference, moments = project.files(), random.Random(seed)
    recovered, locked, slowest = 0, 0, 0.0
    for number, group in itertools.islice(itertools.cycle(WAYS), kills):
        project.forget()
        process = project.start(*(project.make_sweep() if group else RUN))
        time.sleep(moments.uniform(0, seconds))
        slowest = max(slowest, kill(process, number, group)[1])
        locked += any((project.root / ".snakemake").glob("locks/*"))
        resumed = project.make()
        recovered += resumed.returncode == 0 and project.files() == reference
    return Tally(kills, recovered, locked, slowest)
