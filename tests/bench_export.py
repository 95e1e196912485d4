"""What the exports cost: throughput, file sizes and peak memory of each, one process an exporter.

Each figure is measured in a process of its own, so that peak memory is the exporter's. CPU time counts
all threads and leaves out the interpreter's start and the workload's costs.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl

from export_workloads import CLUSTER, ROOT, SWEEP, traced_workload
from moesweep.export import chakra, perfetto, simai_aicb, simai_megatron, unroll
from moesweep.export.chakra_check import check_folder
from moesweep.export.request import Request
from moesweep.export.source import traced
from moesweep.store.layout import Results
from moesweep.study.catalog import load_cluster
from moesweep.study.sweep import enumerate_sweep

DENSE_SWEEP = "config/sweeps/dense-a100-184.yaml"
LARGE = "gpt_13B-ws512-tp8-pp2-ep16-gbs1024-mbs1-seq4096-moe"
Prepared = Callable[[Path], float]
"""Writes into a folder and returns how many units of work that was."""


def _request(format_: str, out: Path) -> Request:
    return Request(format=format_, out=out)


def _large() -> Callable[[str], Callable[[Path], None]]:
    """Return one workload of the study, costed, with the exporter to be named."""
    frame = enumerate_sweep(ROOT, SWEEP).filter(pl.col("workload") == LARGE)
    (each,) = traced(frame, Results(Path("none")), load_cluster(ROOT, CLUSTER))
    exporters = {"perfetto": perfetto.export, "unrolled": unroll.export, "chakra": chakra.export}

    def named(format_: str) -> Callable[[Path], None]:
        options = {"chakra": {"ranks": "0-127,256-383"}, "unrolled": {"ranks": "0-63,256-319"}}.get(
            format_, {}
        )
        return lambda out: exporters[format_](each, replace(_request(format_, out), **options))

    return named


def _executed(ranks: int) -> float:
    """Return the ops that some ranks of each of the large workload's stages run, `ranks` of each."""
    frame = enumerate_sweep(ROOT, SWEEP).filter(pl.col("workload") == LARGE)
    (each,) = traced(frame, Results(Path("none")), load_cluster(ROOT, CLUSTER))
    return float(each.program["num_microbatches"].sum() * ranks)


def simai_aicb_files() -> Prepared:
    """Files of both sweeps in AICB's dialect."""
    frames = [enumerate_sweep(ROOT, sweep) for sweep in (SWEEP, DENSE_SWEEP)]

    def write(out: Path) -> float:
        for frame in frames:
            for row in frame.iter_rows(named=True):
                simai_aicb.export(row, out)
        return float(len(list(out.iterdir())))

    return write


def simai_megatron_files() -> Prepared:
    """Files of the default sweep, its costs included."""
    frame, cluster = enumerate_sweep(ROOT, SWEEP), load_cluster(ROOT, CLUSTER)

    def write(out: Path) -> float:
        for each in traced(frame, Results(Path("none")), cluster):
            simai_megatron.export(each, _request("simai", out))
        return float(frame.height)

    return write


def _timed_large(format_: str, ranks: int) -> Prepared:
    export, units = _large()(format_), _executed(ranks)

    def write(out: Path) -> float:
        export(out)
        return units

    return write


def unrolled_rows() -> Prepared:
    """Rows of 128 ranks of one workload of the study, unrolled."""
    return _timed_large("unrolled", 64)


def chakra_nodes() -> Prepared:
    """Nodes of 256 ranks of one workload of the study."""
    return _timed_large("chakra", 128)


def perfetto_slices() -> Prepared:
    """Slices of one pipeline of one workload of the study."""
    return _timed_large("perfetto", 1)


def chakra_nodes_checked() -> Prepared:
    """Nodes of a small set of 64 ranks, written and checked."""
    each = traced_workload("moe64")

    def write(out: Path) -> float:
        chakra.write_set(each, out)
        return float(check_folder(out).nodes)

    return write


EXPORTERS: dict[str, tuple[Callable[[], Prepared], str]] = {
    "simai aicb": (simai_aicb_files, "files"),
    "simai megatron": (simai_megatron_files, "files"),
    "unrolled parquet": (unrolled_rows, "rows"),
    "chakra": (chakra_nodes, "nodes"),
    "chakra --check": (chakra_nodes_checked, "nodes"),
    "perfetto": (perfetto_slices, "slices"),
}


def measure(name: str) -> dict[str, float]:
    """Return the figures of one exporter, measured in this process."""
    write = EXPORTERS[name][0]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        wall, started = time.perf_counter(), time.process_time()
        units = write(Path(folder))
        seconds, elapsed = time.process_time() - started, time.perf_counter() - wall
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"units": units, "cpu": seconds, "wall": elapsed, "bytes": size, "peak": peak, "before": before}


def bench() -> None:
    """Print the figures of every exporter."""
    heads = {"units": 17, "CPU s": 8, "wall s": 8, "units/CPU s": 13, "MB": 8, "B/unit": 9, "peak MB": 9}
    print(f"{'export':<17}" + "".join(f"{head:>{width}}" for head, width in heads.items()))
    for name, (_, unit) in EXPORTERS.items():
        command = [sys.executable, __file__, name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"{name:<17}{found['units']:>10,.0f} {unit:<6}{found['cpu']:>8.2f}{found['wall']:>8.2f}"
            f"{found['units'] / found['cpu']:>13,.0f}{found['bytes'] / 1e6:>8.1f}"
            f"{found['bytes'] / found['units']:>9.1f}{found['peak'] / 1024:>9.0f}"
        )


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1])))
    else:
        bench()
