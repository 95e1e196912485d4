"""The traffic stage's files: trace tables in, matrices and links out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.problems import BadInput, Problem
from moesweep.store.layout import Results
from moesweep.store.memo import MADE_FROM, Memo, remade
from moesweep.store.parts import content_of, is_current, made_from, write_index
from moesweep.store.tablefile import (
    READ_AS_TEXT,
    collected,
    conform,
    declaration,
    dictionary,
    facts_of,
    read_table,
    scan_table,
    write_table,
)
from moesweep.store.values import check_values
from moesweep.study.routing import given
from moesweep.traffic.links import links
from moesweep.traffic.matrices import Level, aggregated, rank_matrix, uneven_rank_matrix
from moesweep.traffic.messages import Placed
from moesweep.traffic.relayed import RELAYED


def read_matrix(results: Results, workload: str, placed: Placed) -> pl.DataFrame:
    """Return the rank matrix of a traced workload.

    Raises BadInput if a trace table cannot be read, or moves more than a table can hold.
    """
    matrix = _rank_matrix(results, workload, placed)
    check_values(matrix, dictionary("traffic"), str(results.traffic("node", workload)))
    return matrix.cast({"bytes": pl.Int64})


def _rank_matrix(results: Results, workload: str, placed: Placed) -> pl.DataFrame:
    program, groups, ranks = (
        read_table(results.trace(name, workload), name) for name in ("programs", "groups", "ranks")
    )
    path = results.trace("routing", workload)
    if not path.exists() or declaration(path) != "given_routing":
        told = None if program.filter(RELAYED).is_empty() else _workload(results, workload)
        return rank_matrix(program, groups, ranks, placed, told)
    each = _rank_programs(results.trace("ops", workload), ranks)
    routing = read_table(path, "given_routing")
    return uneven_rank_matrix(each, groups, ranks, routing, placed)


def _workload(results: Results, id_: str) -> dict[str, Any]:
    listed = scan_table(results.workloads, "workloads").filter(pl.col("workload") == id_)
    return collected(listed, results.workloads, "workloads").row(0, named=True)


def _rank_programs(ops: Path, ranks: pl.DataFrame) -> pl.DataFrame:
    """Return the program of every stage and ep rank, as its first rank runs it."""
    first = ranks.group_by("stage", "ep_rank", maintain_order=True).agg(pl.col("rank").first())
    chosen = scan_table(ops, "ops").filter(pl.col("rank").is_in(first["rank"].implode()))
    each = collected(chosen, ops, "ops").with_columns(pl.col(READ_AS_TEXT).cast(pl.String))
    return each.join(first.select("rank", "ep_rank"), on="rank", maintain_order="left")


def write_matrix(results: Results, workload: str, level: Level, gpus_per_node: int, out: Path) -> None:
    """Write one workload's matrix of one level."""
    matrix = read_matrix(results, workload, Placed(gpus_per_node))
    _write(aggregated(matrix, level, gpus_per_node), workload, level, out)


def read_links(results: Results, gpus_per_node: int) -> pl.DataFrame:
    """Read what `write_traffic` writes of all workloads; raise BadInput if it is for other nodes."""
    found = read_table(results.links, "links")
    counted = facts_of(results.links).get("moesweep.gpus_per_node", str(gpus_per_node))
    if counted != str(gpus_per_node):
        message = f"counts nodes of {counted} GPUs, and the costs' cluster has {gpus_per_node} a node"
        raise BadInput([Problem(str(results.links), "", "nodes", counted, message, "run moesweep traffic")])
    return found


def write_traffic(results: Results, gpus_per_node: int) -> None:
    """Write every workload's node matrix, traffic/links.parquet, then the index of the matrices.

    What was made before from the same traces stays. Raises BadInput on an unusable trace.
    """
    listed = read_table(results.workloads, "workloads").select("workload", "world_size", given=given)
    digests = [_digest(results, gpus_per_node, *row) for row in listed.iter_rows()]
    wanted = listed.with_columns(pl.Series(MADE_FROM, digests, dtype=pl.String))
    (found,) = remade(
        [Memo(results, "traffic", "links")],
        wanted,
        lambda some: [pl.concat(_node_traffic(results, gpus_per_node, row) for row in some.to_dicts())],
        lambda row: is_current(results.traffic("node", row["workload"]), row[MADE_FROM]),
    )
    write_table(found, results.links, "links", {"gpus_per_node": str(gpus_per_node)})
    matrices = (results.traffic("node", id_) for id_ in listed["workload"])
    write_index(results.index("traffic"), results, matrices)


def _digest(results: Results, gpus_per_node: int, workload: str, world_size: int, is_given: bool) -> str:
    """Return the digest of what a workload's matrix and links are made from."""
    tables = ("programs", "groups", "ranks", "routing", *(["ops"] if is_given else []))
    read = (content_of(results.trace(table, workload)) for table in tables)
    return made_from("traffic", workload, str(world_size), str(gpus_per_node), *read)


def _node_traffic(results: Results, gpus_per_node: int, wanted: Mapping[str, Any]) -> pl.DataFrame:
    """Write the node matrix of a workload; return its rows of links.parquet with their digest."""
    id_, digest = wanted["workload"], wanted[MADE_FROM]
    matrix = read_matrix(results, id_, Placed(gpus_per_node))
    node = aggregated(matrix, "node", gpus_per_node)
    rows = links(matrix, wanted["world_size"], gpus_per_node).with_columns(workload=pl.lit(id_))
    check_values(rows, dictionary("links"), str(results.links))
    _write(node, id_, "node", results.traffic("node", id_), digest)
    return conform(rows.lazy(), "links").collect().with_columns(pl.lit(digest).alias(MADE_FROM))


def _write(matrix: pl.DataFrame, workload: str, level: Level, out: Path, digest: str = "") -> None:
    write_table(matrix, out, "traffic", {"workload": workload, "level": level}, digest)
