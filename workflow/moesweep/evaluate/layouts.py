"""Stages that hold the same: a workload's layers in chunks, and its stages in classes of equal contents.

A layout is what the placement of layers depends on. Few layouts serve many workloads, and the stages of one
fall into few classes (first, last, and one or two in between), so stages are costed once a class.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from moesweep.shapes.distinct import Array
from moesweep.shapes.layer_kinds import KINDS
from moesweep.shapes.placement import ARRIVALS, ENDS, READS, alike, chunk_contents, kinds_of, layer_layout

CLASS_LAYERS = tuple(f"{kind}_layers" for kind in KINDS)
"""Columns of a class: its layers of each kind, whatever their loads."""


@dataclass(frozen=True)
class Layouts:
    """The classes of some layouts, one layout after the other, and their chunks, one class after the other.

    classes     layout, count (stages of the class), stage (its lowest), is_first, is_last, and how many
                layers of each kind, CLASS_LAYERS
    starts      the first class of each layout; `sizes` how many it has
    contents    classes × scopes: how often a stage runs what a scope stands for, all chunks together
    chunked     chunks × scopes: the same of each chunk; `chunk_starts` is the first chunk of each class
    staged      the class of each stage; `stage_starts` is the first stage of each layout
    scopes      the layer kinds, ENDS and ARRIVALS
    alike       whether all stages of a layout hold as many layers of each kind, in one chunk
    """

    classes: pl.DataFrame
    starts: Array
    sizes: Array
    contents: Array
    chunked: Array
    chunk_starts: Array
    staged: Array
    stage_starts: Array
    scopes: tuple[str, ...]
    alike: Array


def layouts(
    distinct: pl.DataFrame, layers: pl.DataFrame | None = None, apart: pl.DataFrame | None = None
) -> Layouts:
    """Return the layouts of a frame with READS, one row each.

    layers   the rows of `layer_layout`, with the row's number as `workload`; made if not given
    apart    further columns of the classes by workload and stage, if every stage is a class of its own
    """
    numbered = distinct.select(*READS, workload=pl.int_range(pl.len(), dtype=pl.Int64))
    placed = layer_layout(numbered) if layers is None else layers
    chunks = chunk_contents(numbered, placed).rename({"workload": "layout"})
    kinds = kinds_of(placed)
    scopes = (*kinds, *ENDS, *ARRIVALS)
    told = scopes if apart is None else ("stage", *scopes)
    holds = pl.format(" ".join("{}" for _ in told), *told)
    stages = chunks.group_by("layout", "stage", maintain_order=True).agg(
        holds.str.join(",").alias("holds"),
        *(pl.col(scope).sum() for scope in scopes),
    )
    classes = (
        stages.group_by("layout", "holds", maintain_order=True)
        .agg(pl.col("stage").min(), *(pl.col(name).first() for name in scopes), count=pl.len())
        .sort("layout", "stage")
        .with_columns(number=pl.int_range(pl.len(), dtype=pl.Int64))
    )
    staged = stages.join(
        classes.select("layout", "holds", "number"), on=["layout", "holds"], how="left", maintain_order="left"
    )
    held = classes.select("layout", "stage", "number").join(
        chunks, on=["layout", "stage"], maintain_order="left_right"
    )
    columns = classes.select(
        "layout",
        "stage",
        pl.col("count").cast(pl.Int64),
        is_first=pl.col("first") > 0,
        is_last=pl.col("last") > 0,
        **{name: _sum_of(loaded, kinds) for name, loaded in zip(CLASS_LAYERS, KINDS, strict=True)},
    )
    if apart is not None:
        own = apart.rename({"workload": "layout"})
        columns = columns.join(own, on=["layout", "stage"], how="left", maintain_order="left")
        columns = columns.with_columns(pl.col(apart.columns[2:]).fill_null(0))
    return Layouts(
        columns,
        *_runs(classes["layout"], distinct.height),
        classes.select(scopes).to_numpy().astype(np.float64),
        held.select(scopes).to_numpy().astype(np.float64),
        _runs(held["number"], classes.height)[0],
        staged["number"].to_numpy(),
        _runs(staged["layout"], distinct.height)[0],
        scopes,
        alike(chunks.rename({"layout": "workload"}))["alike"].to_numpy(),
    )


def _sum_of(kind: str, told_apart: list[str]) -> pl.Expr:
    """Return the layers of a kind; those of different loads have a number behind it."""
    of_kind = [each for each in told_apart if each.split(" ")[0] == kind]
    return pl.sum_horizontal(of_kind) if of_kind else pl.lit(0, dtype=pl.Int64)


def _runs(numbers: pl.Series, size: int) -> tuple[Array, Array]:
    """Return where the rows of each number from 0 start, and how many there are; the numbers ascend."""
    counts = np.bincount(numbers.to_numpy(), minlength=size)
    return np.cumsum(counts) - counts, counts
