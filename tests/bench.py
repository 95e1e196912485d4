"""What the stages cost: CPU seconds, rows per CPU second, sizes, peak memory (make bench).

Each stage runs in a process of its own on the default sweep. Wall times are not shown: they say more
about the machine than about the code.
"""

import os
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import bench_export

ROOT = Path(__file__).resolve().parents[1]
LARGEST = "gpt_175B-ws4096-tp8-pp32-ep16-gbs16384-mbs1-seq4096-moe"


def stage(arguments: list[str]) -> tuple[float, float]:
    """Run one command of the workflow; return its CPU seconds and its peak memory in MB."""
    from moesweep.cli import main

    assert main(arguments) == 0, arguments
    used = getrusage(RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3


def apart(arguments: list[str]) -> tuple[float, float]:
    """Run one command in a fresh process."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(stage, (arguments,))


def megabytes(folder: Path) -> float:
    """Return the size of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def rows(folder: Path) -> int:
    """Return the rows of the per-rank traces."""
    import polars as pl

    return int(pl.scan_parquet(folder / "traces/ops/*/*.parquet").select(pl.len()).collect().item())


def main() -> None:
    """Print the table of the stages, then those of the exports."""
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results"
        print(f"{'stage':<12}{'CPU s':>8}{'peak MB':>9}{'MB written':>12}")
        for name in ("enumerate", "validate", "trace", "cost", "traffic", "tables", "figures", "report"):
            before = megabytes(results)
            seconds, peak = apart([name, "--results", str(results)])
            print(f"{name:<12}{seconds:>8.2f}{peak:>9.0f}{megabytes(results) - before:>12.2f}", flush=True)
            if name == "trace":
                count = rows(results)
                print(f"{'':<12}{count:,} rows of ops, {count / seconds / 1e6:.1f} M per CPU second")
        matrix = ["traffic", "--workload", LARGEST, "--level", "rank", "--out", f"{scratch}/matrix.parquet"]
        seconds, peak = apart([*matrix, "--results", str(results)])
        print(f"{'':<12}{seconds:>8.2f}{peak:>9.0f}{'':>12}   rank by rank, 4,096 ranks")
        out = Path(scratch) / "out.csv"
        seconds, peak = apart(["predict", "tests/data/measured_runs.csv", "--out", str(out)])
        print(f"{'predict':<12}{seconds:>8.2f}{peak:>9.0f}{out.stat().st_size / 1e6:>12.2f}   1,201 runs")
    bench_export.bench()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    main()
