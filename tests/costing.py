"""Costs of small workloads with round constants, for tests that work numbers out by hand."""

from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.cost.model import Costs, cost, with_constants
from moesweep.study.catalog import Cluster, load_cluster
from moesweep.trace.programs import folded
from small import small

ROOT = Path(__file__).resolve().parents[1]


@cache
def cluster(name: str = "dgx-a100-80gb-8xhdr200") -> Cluster:
    """Return a cluster of the catalogue."""
    return load_cluster(ROOT, name)


# Round numbers: 100 Tflop/s, 1 TB/s of memory, no launch, perfect kernels; 8 GPUs a node with 100 GB/s inside
# and 10 GB/s each outside, no latency but where a test sets one.
ROUND = {
    "matrix_flops_per_second": 100e12,
    "streaming_multiprocessors": 100.0,
    "hbm_bytes_per_second": 1e12,
    "hbm_bytes": 80e9,
    "kernel_seconds": 0.0,
    "gpus_per_node": 8.0,
    "nic_bytes_per_second": 10e9,
    "node_link_bytes_per_second": 100e9,
    "gemm_half_inner_dimension": 0.0,
    "ll_bytes_per_second": 1.0,
    "usd_per_gpu_hour": 2.0,
    "reserved_hbm_bytes": 0.0,
}
_ZERO = (
    "latency",
    "hop_seconds",
    "host",
    "skew",
    "half_heads",
    "ring_base",
    "variation",
    "fp16_accumulation",
    "peer_seconds",
)
_ONE = ("efficiency", "fraction", "gain", "ratio")


def constants(**changes: float) -> dict[str, float]:
    """Return constants that make costs easy to work out, some of them changed."""
    values = {name: _round(name, value) for name, value in cluster().values.items()}
    return values | {"tp_overlap": 0.0} | ROUND | changes


def _round(name: str, value: float) -> float:
    if any(word in name for word in _ZERO):
        return 0.0
    if "node_bus" in name or "node_all_to_all" in name:
        return 100e9
    return 1.0 if any(word in name for word in _ONE) else value


def costs(changes: dict[str, Any], **constant_changes: float) -> Costs:
    """Return the costs of a small workload with round constants."""
    workloads = small(**changes)
    return cost(folded(workloads), with_constants(workloads, constants(**constant_changes)))


def seconds(found: Costs, op: str, phase: str = "forward", stage: int = 0) -> float:
    """Return the seconds of one op."""
    rows = found.ops.filter((pl.col("op") == op) & (pl.col("phase") == phase) & (pl.col("stage") == stage))
    return float(rows["seconds"].item(0))
