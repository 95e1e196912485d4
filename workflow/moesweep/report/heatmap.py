"""Small traffic maps as SVG paths: a square per pair of blocks of nodes, darker for more bytes."""

from collections.abc import Sequence

import polars as pl

from moesweep.report.evidence import Evidence

SIDE = 32
"""Squares along a side at most: beyond that neighbouring nodes share one."""
LEVELS = 5
"""Shades; each stands for a factor of ten, counted down from the workload's largest square."""

_MAP = ("workload", "group_kind")


def heat_maps(evidence: Evidence, ids: Sequence[str]) -> pl.DataFrame:
    """Return the maps of some workloads: one SVG path a shade in `path`, the faintest first.

    Columns workload, group_kind, nodes, nodes_per_square, shade, path, side.
    World's 4 bytes are left out. Squares of one shade that touch along a row are drawn as one.
    """
    nodes = (pl.col("world_size") + evidence.gpus_per_node - 1) // evidence.gpus_per_node
    chosen = evidence.workloads.filter(pl.col("workload").is_in(list(ids)))
    sizes = chosen.select("workload", nodes=nodes).with_columns(
        nodes_per_square=(pl.col("nodes") + SIDE - 1) // SIDE
    )
    cells = pl.concat(
        evidence.matrix(id_).with_columns(workload=pl.lit(id_)) for id_ in sizes["workload"]
    ).filter(pl.col("group_kind") != "world")
    squares = (
        cells.join(sizes, on="workload")
        .with_columns(pl.col("src", "dst") // pl.col("nodes_per_square"))
        .group_by(*_MAP, "nodes", "nodes_per_square", "src", "dst")
        .agg(pl.col("bytes").sum())
        .with_columns(shade=_shade())
    )
    return (
        _runs(squares)
        .group_by(*_MAP, "nodes", "nodes_per_square", "shade")
        .agg(pl.col("path").str.join(""))
        .sort(*_MAP, "shade")
        .group_by(*_MAP, "nodes", "nodes_per_square", maintain_order=True)
        .agg("shade", "path")
        .with_columns(side=(pl.col("nodes") + pl.col("nodes_per_square") - 1) // pl.col("nodes_per_square"))
    )


def _shade() -> pl.Expr:
    below = (pl.col("bytes").max().over("workload") / pl.col("bytes")).log10().floor()
    return LEVELS - below.clip(0, LEVELS - 1).cast(pl.Int64)


def _runs(squares: pl.DataFrame) -> pl.DataFrame:
    row = (*_MAP, "nodes", "nodes_per_square", "shade", "src")
    run = pl.col("dst") - pl.int_range(pl.len()).over(row)
    corner = pl.format("M{} {}h{}v1h-{}z", "x", "src", "width", "width")
    return (
        squares.sort(*row, "dst")
        .with_columns(run=run)
        .group_by(*row, "run")
        .agg(x=pl.col("dst").min(), width=pl.len())
        .sort(*row, "x")
        .with_columns(path=corner)
    )
