"""Full and read-only disks, damage, failures: `make sweep` again completes the sweep, byte by byte."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

import faults
from faults import ROWS, assert_whole, completes
from moesweep.store.tablefile import COMPRESSION, dtypes, write_table
from project import Project, make_project
from rerun_table import copied

pytestmark = [pytest.mark.slow, pytest.mark.long]
finished, new = faults.finished, faults.new


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


def test_one_failure_in_ten_with_keep_going(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    rows = "".join(
        f"  - {{model: tiny, world_size: 16, tp: 2, pp: 2, ep: 4, global_batch_size: {32 * n}}}\n"
        for n in range(1, 6)
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
    assert len(costs) == 9
    assert failing not in costs
    assert f"- {failing}\n" in (project.root / "results/summary.txt").read_text()
    project.shim("")
    again = project.make()
    assert again.returncode == 0, again.stderr
    assert len(pl.read_parquet(project.root / "results/costs.parquet")) == 10


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
