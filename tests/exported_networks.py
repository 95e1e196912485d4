"""Traced workloads of few nodes, and what a file of them sends."""

from collections import Counter
from pathlib import Path

import polars as pl

from export_workloads import CLUSTER, ROOT, SMALL, traced_workload, workload
from moesweep.export.source import Traced, traced
from moesweep.shapes.parallelism import groups, ranks
from moesweep.store.layout import Results
from moesweep.study.catalog import load_cluster
from moesweep.study.configured import Configuration
from moesweep.study.routing import Routing
from moesweep.study.workload import resolve
from moesweep.trace.skewed_programs import rank_programs
from moesweep.traffic.matrices import rank_matrix, uneven_rank_matrix
from moesweep.traffic.messages import Placed

Pairs = Counter[tuple[int, int]]

# On two nodes of 8 GPUs: ep groups of every other rank cross them, and so do dp and edp.
WIDE = {"world_size": 16, "tp": 2, "pp": 1, "ep": 8}

HERE = Configuration(ROOT)


def made(name: str) -> Traced:
    """A small workload; `skewed` is WIDE with uneven experts."""
    if name in SMALL:
        return traced_workload(name)
    row = workload("moe16").row(0, named=True) | WIDE | {"global_batch_size": 64, "num_layers": 4}
    routing = {"routing": Routing("zipf", 1.1, 3).text} if name == "skewed" else {}
    (each,) = traced(resolve([row | routing]), Results(Path("none")), load_cluster(ROOT, CLUSTER))
    return each


def matrix_of(each: Traced, *phases: str) -> Pairs:
    """Bytes between each pair of ranks in an iteration, as `moesweep traffic` says them."""
    row, placed = each.workload, Placed(each.gpus_per_node)
    members, everyone = groups(row), ranks(row)
    if each.each is None:
        program = each.program.with_columns(pl.col("group_kind", "phase").cast(pl.String))
        matrix = rank_matrix(program, members, everyone, placed)
    else:
        own = rank_programs(resolve([row]), ROOT)
        assert each.routing is not None
        matrix = uneven_rank_matrix(own, members, everyone, each.routing, placed)
    sums: Pairs = Counter()
    for src, dst, size in (
        matrix.filter(pl.col("phase").is_in(phases)).select("src", "dst", "bytes").iter_rows()
    ):
        sums[src, dst] += size
    return sums
