"""Sparse traffic matrices: who sends how much to whom, by group kind and phase."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import polars as pl

from moesweep.traffic.messages import Communicators, Placed, copies_between
from moesweep.traffic.relayed import RELAYED, relayed
from moesweep.traffic.shares import EXCHANGES, RINGS, around, sent, to_copies, to_offsets

Level = Literal["rank", "node", "rail"]
LEVELS: tuple[Level, ...] = get_args(Level)

CELL = ("src", "dst", "group_kind", "phase")
"""What a row of a matrix stands for; its value is `bytes`."""


def rank_matrix(
    program: pl.DataFrame,
    groups: pl.DataFrame,
    ranks: pl.DataFrame,
    placed: Placed,
    workload: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Return src, dst, group_kind, phase and bytes of one iteration, one row per pair of GPUs that talk.

    Bytes are whole numbers of 128 bits. From the tables `programs`, `groups` and `ranks` of one workload;
    ordered by src, dst, kind and phase. The rows of a src sum to the wire bytes of its rank's trace, exactly,
    but for fused exchanges (`relayed`), which depend on nodes. Raises ValueError where there are any and no
    workload, its row in the catalogue.
    """
    fused = program.filter(RELAYED)
    each = sent(program.filter(~RELAYED), ["stage"])
    matrix = _matrix(each, to_offsets(each), ["stage"], Communicators(groups, ranks, placed))
    if fused.is_empty():
        return matrix
    if workload is None:
        raise ValueError("what fused exchanges send between nodes follows from their workload")
    passed = relayed(fused, groups, ranks, placed, workload)
    on_gpus = passed.with_columns(src=placed.of("src"), dst=placed.of("dst")).select(matrix.columns)
    return _cells(pl.concat([matrix, on_gpus.cast(matrix.schema)]))


def uneven_rank_matrix(
    program: pl.DataFrame, groups: pl.DataFrame, ranks: pl.DataFrame, routing: pl.DataFrame, placed: Placed
) -> pl.DataFrame:
    """Return the same where routing is given; `program` has a column `ep_rank` and one program for each."""
    who = ["stage", "ep_rank"]
    each = sent(program.filter(~EXCHANGES.fill_null(False)), who)
    exchanges = program.filter(EXCHANGES & (pl.col("wire_bytes") > 0))
    copies = to_copies(exchanges, copies_between(routing, ranks)).rename({"num_microbatches": "times"})
    offsets = to_offsets(each)
    both = pl.concat([offsets, copies.select(offsets.columns)])
    return _matrix(each, both, who, Communicators(groups, ranks, placed))


def _matrix(
    each: pl.DataFrame, offsets: pl.DataFrame, who: list[str], communicators: Communicators
) -> pl.DataFrame:
    """Return the matrix of rings among `each`, and of exchanges and messages at offsets."""
    key, placed = [*who, "group_kind", "phase"], communicators.placed
    there = communicators.at_offsets(_summed(offsets, [*key, "offset"], "bytes"), who, ["phase"])
    shared = communicators.rings(each.filter(RINGS)["group_kind"])
    rings = around(each, shared["channels"].unique().sort().to_list())
    sums = _summed(rings, [*key, "channels"], "evenly", "left")
    rung = communicators.in_rings(shared, sums, who, ["phase"])
    cells = pl.concat([there, rung], how="vertical_relaxed")
    standing = cells.with_columns(src=placed.of("src"), dst=placed.of("dst"))
    return _cells(standing)


def _cells(parts: pl.DataFrame) -> pl.DataFrame:
    # 128 bits: a sum that its table cannot hold is refused there and never wraps.
    total = pl.col("bytes").cast(pl.Int128).sum()
    return parts.group_by(CELL).agg(total).filter(pl.col("bytes") > 0).sort(CELL)


def _summed(parts: pl.DataFrame, key: list[str], *columns: str) -> pl.DataFrame:
    """Return bytes of one execution times how often it runs, summed."""
    # 128 bits: a sum that its table cannot hold is refused there and never wraps.
    total = (pl.col(*columns).cast(pl.Int128) * pl.col("times")).sum()
    found = parts.group_by(key, maintain_order=True).agg(total)
    # What is made of these rows is a row for each pair of ranks: half as wide where that holds them.
    narrow = found.with_columns(pl.col(*columns).cast(pl.Int64, strict=False))
    return found if sum(narrow.select(columns).null_count().row(0)) else narrow


def aggregated(matrix: pl.DataFrame, level: Level, gpus_per_node: int) -> pl.DataFrame:
    """Return a rank matrix summed over nodes or rails; as it is for level `rank`.

    node: ranks fill nodes in order, rank // gpus_per_node; the diagonal is what stays on a node's links.
    rail: rank % gpus_per_node, the GPUs that share a rail switch; only what leaves its node, because what
    stays inside travels on no rail.
    """
    if level == "rank":
        return matrix
    ends = pl.col("src", "dst")
    if level == "node":
        placed = matrix.with_columns(ends // gpus_per_node)
    else:
        placed = matrix.filter(leaves_node(gpus_per_node)).with_columns(ends % gpus_per_node)
    # 128 bits: a sum that its table cannot hold is refused there and never wraps.
    return placed.group_by(CELL).agg(pl.col("bytes").cast(pl.Int128).sum()).sort(CELL)


def leaves_node(gpus_per_node: int) -> pl.Expr:
    """Return whether the two ranks of a row stand on different nodes."""
    return pl.col("src") // gpus_per_node != pl.col("dst") // gpus_per_node
