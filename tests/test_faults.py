"""Kills, full disks, damage, interrupts, failures: `make sweep` again completes the sweep, byte by byte."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from edits import A_FEW, noticed
from kills import KILLS, LIMIT_SECONDS, kill, killed
from moesweep.store.tablefile import COMPRESSION, dtypes, write_table
from project import SWEEP, Project, make_project
from rerun_table import copied, finished_project

pytestmark = [pytest.mark.slow, pytest.mark.long]

SLOW_TRACE = '[ "$1" = trace ] && mkdir "$PWD/tracing" 2>/dev/null && sleep 20'
"""The first trace job takes its time."""

SNAKEMAKE = ["snakemake", "--cores", "2"]
ROWS = SWEEP[SWEEP.index("rows:") :]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose sweep has run."""
    return finished_project(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def new(finished: Project, tmp_path: Path) -> Project:
    """The same project without results."""
    project = copied(finished, tmp_path)
    project.forget()
    return project


def completes(project: Project, reference: Project) -> str:
    """Run `make sweep`, which must end with the very results of the reference; return what it said."""
    project.shim("")
    done = project.make()
    assert done.returncode == 0, done.stderr
    assert project.files() == reference.files()
    return done.stderr


def assert_whole(project: Project, reference: Project) -> None:
    """Every result that is there must be the reference's."""
    expected = reference.files()
    assert all(content == expected[name] for name, content in project.files().items())


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_kills_at_random_moments(new: Project) -> None:
    tally = killed(new)
    print(tally)
    assert tally.recovered == tally.kills == KILLS
    assert tally.slowest_seconds < LIMIT_SECONDS


def test_files_that_are_edited_while_stages_run_get_into_no_result(new: Project) -> None:
    assert noticed(new, A_FEW) == [True] * len(A_FEW)


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


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """Mount something on a folder; skip the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(new: Project, finished: Project) -> None:
    results = new.root / "results"
    with mounted(results, "-t", "tmpfs", "-o", "size=200k", "tmpfs"):
        done = new.make()
        assert done.returncode != 0
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(results.rglob("*.partial"))
        assert_whole(new, finished)
        subprocess.run(["mount", "-o", "remount,size=50m", str(results)], check=True)
        completes(new, finished)


def test_a_disk_that_fills_at_any_byte_is_said_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a page's header is what no longer fits, polars loses the system's error."""
    monkeypatch.setitem(COMPRESSION, "data_page_size", 1000)
    path, lost = tmp_path / "full" / "ranks.parquet", 0
    for rows in range(3000, 9000, 400):
        frame = pl.DataFrame({name: pl.int_range(rows, eager=True).shuffle(1) for name in dtypes("ranks")})
        with mounted(path.parent, "-t", "tmpfs", "-o", "size=16k", "tmpfs"):
            with pytest.raises(OSError, match="No space left on device") as caught:
                write_table(frame, path, "ranks")
            lost += "transport error" in str(caught.value.__cause__)
            assert not list(path.parent.iterdir())
    assert lost


def test_a_read_only_folder(new: Project, finished: Project) -> None:
    results = new.root / "results"
    results.mkdir()
    with mounted(results, "--bind", str(results)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(results)], check=True)
        done = new.make()
        assert done.returncode != 0
        assert "Read-only file system" in done.stderr
        assert "Traceback" not in done.stderr
    completes(new, finished)


def damage(path: Path, how: str) -> None:
    """Flip a bit in the middle of a file, or cut the file in two; its time stays."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if how == "flip" else content[: len(content) // 2])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_damaged_files_are_found_before_use_and_made_again(finished: Project, tmp_path: Path) -> None:
    project = copied(finished, tmp_path)
    results = project.root / "results"
    files = {
        next(results.glob("traces/programs/*/programs.parquet")): "flip",
        next(results.glob("traces/ops/*/ops.parquet")): "cut",
        next(results.glob("costs/ops/*/ops.parquet")): "cut",
        results / "validation.parquet": "flip",
        results / "summary.txt": "flip",
    }
    for file, how in files.items():
        damage(file, how)
    cost = project.call("moesweep", "cost")
    assert cost.returncode == 2
    assert "programs.parquet: checksum: is not what was written" in cost.stderr
    said = completes(project, finished)
    for file in files:
        assert f"{file.relative_to(project.root)}: checksum: is not what was written; removed" in said


@pytest.mark.parametrize("part", ["costs/ops/*/ops.parquet", "traffic/node/*/traffic.parquet"])
def test_a_file_that_no_rule_declares_is_missed(finished: Project, tmp_path: Path, part: str) -> None:
    project = copied(finished, tmp_path)
    file = next((project.root / "results").glob(part))
    file.unlink()
    assert f"{file.relative_to(project.root)}: is gone; removed" in completes(project, finished)
    assert "is gone" not in completes(project, finished)


def test_one_failure_in_twenty_with_keep_going(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    rows = "".join(
        f"  - {{model: tiny, world_size: 16, tp: 2, pp: 2, ep: 4, global_batch_size: {32 * n}}}\n"
        for n in range(1, 11)
    )
    project.edit("config/sweeps/small.yaml", ROWS, f"rows:\n{rows}")
    project.edit("config/config.yaml", "workloads_per_trace_job: 1", "workloads_per_trace_job: 4")
    failing = "tiny-ws16-tp2-pp2-ep4-gbs96-mbs1-seq128-moe"
    jobs = "|".join(project.trace_jobs(failing))
    project.shim(f'[[ "$1" = trace && "${{!#}}" =~ ^({jobs})$ ]] && {{ echo out of luck >&2; exit 1; }}')
    done = project.make("--keep-going")
    assert done.returncode != 0
    assert f"1 workloads failed; costs and tables are without:\n{failing}\n" in done.stderr
    costs = pl.read_parquet(project.root / "results/costs.parquet")["workload"]
    assert len(costs) == 19
    assert failing not in costs
    assert f"- {failing}\n" in (project.root / "results/summary.txt").read_text()
    project.shim("")
    again = project.make()
    assert again.returncode == 0, again.stderr
    assert len(pl.read_parquet(project.root / "results/costs.parquet")) == 20


def test_clean_lists_and_removes_what_the_sweep_does_not_make(finished: Project, tmp_path: Path) -> None:
    project = copied(finished, tmp_path)
    before = project.files()
    stale = [
        "traces/ops/workload=gone/ops.parquet",
        "costs/ops/workload=gone/ops.parquet",
        "tables/gone.csv",
        "traces/.half.parquet.1.partial",
    ]
    mine = ["notes.txt", "traces/notes.txt"]
    for name in (*stale, *mine):
        path = project.root / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("left over")
    listed = project.call("moesweep", "clean", "--stale", "--dry-run")
    assert sorted(listed.stdout.split()) == sorted(f"results/{name}" for name in stale)
    assert set(stale) < set(project.files())
    removed = project.call("moesweep", "clean", "--stale")
    assert removed.stdout == listed.stdout
    assert project.files() == before | dict.fromkeys(mine, b"left over")
    assert not (project.root / "results/traces/ops/workload=gone").exists()
