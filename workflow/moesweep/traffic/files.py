"""The traffic stage's files: trace tables in, matrices and links out."""

from pathlib import Path

import polars as pl

from moesweep.layout import Results
from moesweep.tablefile import read_table, write_table
from moesweep.traffic.links import links
from moesweep.traffic.matrices import Level, aggregated, rank_matrix


def read_matrix(results: Results, workload: str) -> pl.DataFrame:
    """Return the rank matrix of a traced workload; raise BadInput if a trace table cannot be read."""
    tables = (read_table(results.trace(name, workload), name) for name in ("programs", "groups", "ranks"))
    return rank_matrix(*tables)


def write_matrix(results: Results, workload: str, level: Level, gpus_per_node: int, out: Path) -> None:
    """Write one workload's matrix of one level."""
    _write(aggregated(read_matrix(results, workload), level, gpus_per_node), workload, level, out)


def write_traffic(results: Results, gpus_per_node: int) -> None:
    """Write every workload's node matrix and traffic/links.parquet; raise BadInput on an unusable trace."""
    workloads = read_table(results.workloads, "workloads").select("workload", "world_size")
    frames = [_node_traffic(results, id_, size, gpus_per_node) for id_, size in workloads.iter_rows()]
    write_table(pl.concat(frames), results.links, "links")


def _node_traffic(results: Results, workload: str, world_size: int, gpus_per_node: int) -> pl.DataFrame:
    matrix = read_matrix(results, workload)
    node = aggregated(matrix, "node", gpus_per_node)
    _write(node, workload, "node", results.traffic("node", workload))
    return links(matrix, world_size, gpus_per_node).with_columns(workload=pl.lit(workload))


def _write(matrix: pl.DataFrame, workload: str, level: Level, out: Path) -> None:
    write_table(matrix, out, "traffic", {"workload": workload, "level": level})
