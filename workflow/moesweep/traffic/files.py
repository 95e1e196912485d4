"""The traffic stage's files: trace tables in, matrices and links out."""

from pathlib import Path

import polars as pl

from moesweep.store.layout import Results
from moesweep.store.parts import write_index
from moesweep.store.tablefile import check_workload, declaration, read_table, readable, write_table
from moesweep.traffic.links import links
from moesweep.traffic.matrices import Level, aggregated, rank_matrix, uneven_rank_matrix
from moesweep.traffic.messages import Placed


def read_matrix(results: Results, workload: str, placed: Placed) -> pl.DataFrame:
    """Return the rank matrix of a traced workload; raise BadInput if a trace table cannot be read."""
    program, groups, ranks = (
        read_table(results.trace(name, workload), name) for name in ("programs", "groups", "ranks")
    )
    path = results.trace("routing", workload)
    if not path.exists() or declaration(path) != "given_routing":
        return rank_matrix(program, groups, ranks, placed)
    each = _rank_programs(results.trace("ops", workload), ranks)
    routing = read_table(path, "given_routing")
    return uneven_rank_matrix(each, groups, ranks, routing, placed)


def _rank_programs(ops: Path, ranks: pl.DataFrame) -> pl.DataFrame:
    """Return the program of every stage and ep rank, as its first rank runs it."""
    first = ranks.group_by("stage", "ep_rank", maintain_order=True).agg(pl.col("rank").first())
    with readable(ops):
        check_workload(ops)
        rows = pl.scan_parquet(ops, hive_partitioning=False, glob=False)
        each = rows.filter(pl.col("rank").is_in(first["rank"].implode())).collect()
    return each.join(first.select("rank", "ep_rank"), on="rank", maintain_order="left")


def write_matrix(results: Results, workload: str, level: Level, gpus_per_node: int, out: Path) -> None:
    """Write one workload's matrix of one level."""
    matrix = read_matrix(results, workload, Placed(gpus_per_node))
    _write(aggregated(matrix, level, gpus_per_node), workload, level, out)


def write_traffic(results: Results, gpus_per_node: int) -> None:
    """Write every workload's node matrix, traffic/links.parquet, then the index of the matrices.

    Raises BadInput on an unusable trace.
    """
    workloads = read_table(results.workloads, "workloads").select("workload", "world_size")
    frames = [_node_traffic(results, id_, size, gpus_per_node) for id_, size in workloads.iter_rows()]
    write_table(pl.concat(frames), results.links, "links")
    matrices = (results.traffic("node", id_) for id_ in workloads["workload"])
    write_index(results.index("traffic"), results, matrices)


def _node_traffic(results: Results, workload: str, world_size: int, gpus_per_node: int) -> pl.DataFrame:
    matrix = read_matrix(results, workload, Placed(gpus_per_node))
    node = aggregated(matrix, "node", gpus_per_node)
    _write(node, workload, "node", results.traffic("node", workload))
    return links(matrix, world_size, gpus_per_node).with_columns(workload=pl.lit(workload))


def _write(matrix: pl.DataFrame, workload: str, level: Level, out: Path) -> None:
    write_table(matrix, out, "traffic", {"workload": workload, "level": level})
