"""`moesweep run`: Snakemake as `make sweep` starts it, safe to kill, to start twice and to go on with.

This module is also the program that it starts, Snakemake with interrupts that end it at any moment without a
traceback: python -m moesweep.run.runner ARGUMENTS.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from moesweep.edge.leaving import leave
from moesweep.edge.paths import SHIPPED
from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
from moesweep.edge.said import QUIET
from moesweep.edge.yaml_reader import read_yaml
from moesweep.run.closing import closing
from moesweep.run.failures import said
from moesweep.run.family import end, started_by
from moesweep.run.lock import STARTED, Refused, locked, only_run, recover
from moesweep.study.catalog import in_project
from moesweep.study.configured import DEFAULT_FILE, Configuration, add_options, asked, settings_of

INTERRUPTED = 128 + signal.SIGINT
GRACE_SECONDS = 2.0
"""How long a terminal's Ctrl-C, which reaches every process, may take before it is passed on."""

LAST_SECONDS = 5.0
"""How long what it is passed on to may take to end: then it is killed, with all that it started."""
_OWN_LINES = ("--quiet", "-q", "--verbose", "--logger", "--printshellcmds", "-p")
"""What Snakemake is told to say by: who uses one of them means its own lines, not ours."""

_LOOKS_ONLY = {"-n", "--dry-run", "--dryrun", "--unlock"}


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `run`."""
    help_ = "run the workflow: make sweep"
    command = commands.add_parser("run", help=help_, description=help_)
    add_options(command)
    command.add_argument(
        "--profile", default="default", help="Snakemake profile: a folder, or one in profiles/ (%(default)s)"
    )
    command.add_argument(
        "arguments", nargs="*", metavar="-- ARGUMENTS", help="for Snakemake, such as -- --dry-run --cores 1"
    )
    command.set_defaults(run=run, starts_programs=True)


def run(arguments: argparse.Namespace) -> int:
    """Run the workflow; 130 when interrupted, else Snakemake's exit code."""
    in_project(Path.cwd())
    told = _told(arguments)
    command = [sys.executable, "-m", STARTED, *_snakefile(), *_profile(arguments.profile), *told.arguments]
    if _LOOKS_ONLY & set(told.arguments):
        os.execv(command[0], command)
    results = told.configuration.results()
    if shown := _shows_progress(told.arguments):
        command[3:3] = ["--logger", "moesweep"]
        os.environ[QUIET] = "1"
    started = time.monotonic()
    try:
        with only_run(results) as (lock, killed):
            recover(results, killed)
            code = _with_failures_left_out(command, told.configuration, lock)
    except Refused as reason:
        print(f"moesweep: {reason}", file=sys.stderr)
        return 1
    if code == 0 and shown:
        print(*closing(results, time.monotonic() - started), sep="\n")
    return code


def _shows_progress(arguments: Sequence[str]) -> bool:
    """Say whether a line a stage is shown: not with VERBOSE=1, nor where Snakemake is told what to say."""
    if os.environ.get("VERBOSE", "") not in ("", "0"):
        return False
    return not any(word.partition("=")[0] in _OWN_LINES for word in arguments)


@dataclass(frozen=True)
class _Told:
    """What a run is told: its configuration, and the arguments by which Snakemake has the same one."""

    configuration: Configuration
    arguments: list[str]


def _told(arguments: argparse.Namespace) -> _Told:
    """Bring together what our options say and what Snakemake's own, --config and --configfile, do."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-C", nargs="*", default=[])
    parser.add_argument("--configfile", "--configfiles", nargs="+", default=[])
    own, rest = parser.parse_known_args(arguments.arguments)
    configuration = asked(arguments)
    files: dict[str, Any] = {}
    for file in own.configfile:
        found = read_yaml(Path(file), file)
        files |= found if isinstance(found, dict) else {}
    settings = files | settings_of(own.config) | dict(configuration.settings)
    words = list(own.configfile)
    if configuration.file != DEFAULT_FILE:
        words = [configuration.file, *words]
        rest = [*rest, "--replace-workflow-config"]
    if words:
        rest = [*rest, "--configfile", *words]
    told = settings_of(own.config) | dict(configuration.settings)
    if told:
        rest = [*rest, "--config", *(f"{key}={_text(value)}" for key, value in told.items())]
    places = dict(configuration.said_at)
    return _Told(Configuration(Path(), configuration.file, settings, places), rest)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _snakefile() -> list[str]:
    """Which Snakefile to run: a study's own, else the one that comes with the code."""
    return [] if Path("Snakefile").exists() else ["--snakefile", str(SHIPPED / "Snakefile")]


def _profile(name: str) -> list[str]:
    """Name a profile's folder: a path, or a name in profiles/, here or beside the Snakefile that comes along.

    Raises BadInput if there is none: Snakemake would go on without.
    """
    folders = [Path(name), Path("profiles", name), SHIPPED / "profiles" / name]
    found = [folder for folder in folders if (folder / "config.yaml").is_file()]
    if found:
        return ["--workflow-profile", str(found[0])]
    known = {
        path.parent.name for folder in (Path(), SHIPPED) for path in folder.glob("profiles/*/config.yaml")
    }
    message, advice = f"there is no profile {name}", did_you_mean(name, known)
    raise BadInput([Problem("", "--profile", "known", shown(name), message, advice)])


def _with_failures_left_out(command: list[str], configuration: Configuration, lock: int) -> int:
    """Run Snakemake; with --keep-going, go on without the workloads whose traces fail.

    The trace jobs of several workloads that failed run again one workload a job; then costs and tables are
    made of the workloads that have traces. Exit code 1 if any was left out.
    """
    alone: set[str] = set()
    without: set[str] = set()
    while True:
        environment = said(alone, without)
        code = _watched(command, lock, environment)
        if code in (0, INTERRUPTED, 143) or not {"-k", "--keep-going"} & set(command):
            break
        os.environ.update(environment)
        jobs = _failed_traces(configuration)
        if not jobs:
            break
        alone |= {id_ for job in jobs if len(job) > 1 for id_ in job}
        without |= {job[0] for job in jobs if len(job) == 1}
    if without and code == 0:
        print(f"moesweep: {len(without)} workloads failed; costs and tables are without:", file=sys.stderr)
        print(*sorted(without), sep="\n", file=sys.stderr)
        return 1
    return code


def _failed_traces(configuration: Configuration) -> list[list[str]]:
    """The workloads of each trace job that has left no index: it is written last."""
    from moesweep.run.plan import load_plan

    plan = load_plan(configuration)
    return [ids for chunk, ids in plan.trace_jobs.items() if not plan.results.trace_index(chunk).exists()]


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
    Snakemake may wait for itself for ever when a signal comes while it handles one: it is killed then.
    """
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _interrupts_kept():
            child = subprocess.Popen(command, env=os.environ | environment, pass_fds=(lock,))
        code = _ended(child, caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught and code != 0:
        return 128 + caught[0]
    return code if code >= 0 else 128 - code


def _ended(child: "subprocess.Popen[bytes]", caught: Sequence[int]) -> int:
    """Wait for a process, but not for long once a signal is `caught`; return its exit code."""
    while not caught:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=0.2)
    workers = started_by(child.pid)
    with suppress(subprocess.TimeoutExpired):
        return child.wait(timeout=GRACE_SECONDS)
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        return child.wait(timeout=LAST_SECONDS)
    workers |= started_by(child.pid)
    child.kill()
    end(workers)
    return child.wait()


def interrupt(number: int, frame: FrameType | None) -> None:
    """End the process while it holds no lock; then let Snakemake clean up.

    Its imports and its reading of the Snakefile take a second, in which nothing is at stake. At first no
    exception: libraries would catch it, print it, or, where they are not Python, panic.
    """
    if not locked():
        os._exit(INTERRUPTED)
    raise KeyboardInterrupt


def snakemake(argv: Sequence[str]) -> int:
    """Run Snakemake on a command line; return its exit code, 130 if it was interrupted."""
    signal.signal(signal.SIGINT, interrupt)
    # The one who starts it blocks interrupts, so that none comes before this.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from snakemake.cli import main  # type: ignore[import-untyped]

    from moesweep.run.progress import register

    register()
    try:
        try:
            main(list(argv))
        finally:
            # What is left is Python's own end, which would print a traceback too.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    ended = snakemake(sys.argv[1:])
    leave(ended)
    sys.exit(ended)
