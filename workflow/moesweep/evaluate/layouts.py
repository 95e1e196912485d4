"""Stages that hold the same: a workload's layers in chunks, and its stages in classes of equal contents.

A layout is what the placement of layers depends on. Few layouts serve many workloads, and the stages of one
fall into few classes (first, last, and one or two in between), so stages are costed once a class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from moesweep.evaluate.distinct import Array
from moesweep.shapes.placement import layer_layout

READS = ("kind", "num_layers", "pp", "virtual_pipeline", "first_k_dense")
"""The columns of a workload that place its layers."""

ENDS = ("first", "last")
"""Scopes of what a chunk runs besides layers: embedding and head."""

ARRIVALS = ("recv_forward", "recv_backward")
"""Messages that a chunk waits for."""


@dataclass(frozen=True)
class Layouts:
    """The classes of some layouts, one layout after the other, and their chunks, one class after the other.

    classes     layout, count (stages of the class), stage (its lowest), is_first, is_last, <kind>_layers
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


def layouts(distinct: pl.DataFrame, layers: pl.DataFrame | None = None) -> Layouts:
    """Return the layouts of a frame with READS, one row each.

    `layers` are the rows of `layer_layout`, with the row's number as `workload`; made if not given.
    """
    numbered = distinct.select(*READS, workload=pl.int_range(pl.len(), dtype=pl.Int64).cast(pl.String))
    placed = layer_layout(numbered) if layers is None else layers
    kinds = placed["layer_kind"].unique(maintain_order=True).to_list()
    chunks = _chunks(numbered, placed, kinds)
    scopes = (*kinds, *ENDS, *ARRIVALS)
    stages = (
        chunks.group_by("layout", "stage", maintain_order=True)
        .agg(
            pl.format(" ".join("{}" for _ in scopes), *scopes).str.join(",").alias("holds"),
            *(pl.col(scope).sum() for scope in scopes),
            chunks=pl.len().cast(pl.Int64),
        )
        .with_columns(
            pl.struct("layout", "holds").rle_id().alias("run"),  # neighbours first: few runs to compare
        )
    )
    classes = (
        stages.group_by("layout", "holds", maintain_order=True)
        .agg(pl.col("stage").min(), *(pl.col(name).first() for name in (*scopes, "chunks")), count=pl.len())
        .sort("layout", "stage")
        .with_columns(number=pl.int_range(pl.len(), dtype=pl.Int64))
    )
    staged = stages.join(
        classes.select("layout", "holds", "number"), on=["layout", "holds"], how="left", maintain_order="left"
    )
    held = classes.select("layout", "stage", "number").join(
        chunks, on=["layout", "stage"], maintain_order="left_right"
    )
    return Layouts(
        classes.select(
            "layout",
            "stage",
            pl.col("count").cast(pl.Int64),
            is_first=pl.col("first") > 0,
            is_last=pl.col("last") > 0,
            **{f"{kind}_layers": pl.col(kind) for kind in kinds},
        ),
        *_runs(classes["layout"], distinct.height),
        classes.select(scopes).to_numpy().astype(np.float64),
        held.select(scopes).to_numpy().astype(np.float64),
        _runs(held["number"], classes.height)[0],
        staged["number"].to_numpy(),
        _runs(staged["layout"], distinct.height)[0],
        scopes,
        _alike(stages, kinds),
    )


def _chunks(numbered: pl.DataFrame, placed: pl.DataFrame, kinds: Sequence[str]) -> pl.DataFrame:
    """Return one row a chunk, layout by layout and stage by stage: layout, stage, chunk and the scopes."""
    first = (pl.col("stage") == 0) & (pl.col("chunk") == 0)
    last = (pl.col("stage") == pl.col("pp") - 1) & (pl.col("chunk") == pl.col("virtual_pipeline") - 1)
    held = placed.group_by("workload", "stage", "chunk").agg(
        (pl.col("layer_kind") == kind).sum().cast(pl.Int64).alias(kind) for kind in kinds
    )
    several = pl.col("pp") > 1
    return (
        numbered.with_columns(
            stage=pl.int_ranges(0, "pp", dtype=pl.Int64),
            chunk=pl.int_ranges(0, "virtual_pipeline", dtype=pl.Int64),
        )
        .explode("stage")
        .explode("chunk")
        .join(held, on=["workload", "stage", "chunk"], how="left", maintain_order="left")
        .with_columns(
            pl.col(kinds).fill_null(0),
            layout=pl.col("workload").cast(pl.Int64),
            first=first.cast(pl.Int64),
            last=last.cast(pl.Int64),
            recv_forward=(several & ~first).cast(pl.Int64),
            recv_backward=(several & ~last).cast(pl.Int64),
        )
    )


def _runs(numbers: pl.Series, size: int) -> tuple[Array, Array]:
    """Return where the rows of each number from 0 start, and how many there are; the numbers ascend."""
    counts = np.bincount(numbers.to_numpy(), minlength=size)
    return np.cumsum(counts) - counts, counts


def _alike(stages: pl.DataFrame, kinds: Sequence[str]) -> Array:
    same = [pl.col(kind).n_unique() == 1 for kind in kinds]
    found = stages.group_by("layout", maintain_order=True).agg(
        alike=pl.all_horizontal(*same, (pl.col("chunks") == 1).all())
    )
    return found["alike"].to_numpy()
