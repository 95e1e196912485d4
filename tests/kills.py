"""Kills at random moments: the next `make sweep` must end as if nothing had been."""

import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass

from project import SWEEP, Project

KILLS = 30
SEED = 5
ROW = "  - {model: tiny, world_size: 16, tp: 2, pp: 2, ep: 4, global_batch_size: 32}\n"
"""One MoE workload and its twin: each of the kills costs two runs."""


@dataclass(frozen=True)
class Tally:
    """Of `kills`: `recovered` with the very bytes of an undisturbed run, `locked` left Snakemake's lock."""

    kills: int
    recovered: int
    locked: int


def kill(process: subprocess.Popen[str], number: int) -> tuple[str, float]:
    """Send a signal to a whole process group; return what the process had said, and the seconds it took."""
    start = time.monotonic()
    os.killpg(process.pid, number)
    return process.communicate()[1], time.monotonic() - start


def killed(project: Project, kills: int = KILLS, seed: int = SEED) -> Tally:
    """Kill `make sweep` and all that it started at random moments, each time from no results on."""
    project.edit("config/sweeps/small.yaml", SWEEP[SWEEP.index("rows:") :], f"rows:\n{ROW}")
    project.forget()
    start = time.monotonic()
    undisturbed = project.make()
    seconds = time.monotonic() - start
    assert undisturbed.returncode == 0, undisturbed.stderr
    reference, moments = project.files(), random.Random(seed)
    recovered = locked = 0
    for _ in range(kills):
        project.forget()
        process = project.start(*project.make_sweep())
        time.sleep(moments.uniform(0, seconds))
        kill(process, signal.SIGKILL)
        locked += any((project.root / ".snakemake").glob("locks/*"))
        resumed = project.make()
        recovered += resumed.returncode == 0 and project.files() == reference
    return Tally(kills, recovered, locked)
