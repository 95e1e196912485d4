"""Which links carry what: a workload's traffic routed over a network."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from moesweep.network.flows import Flows
from moesweep.network.order import slots
from moesweep.network.topology import Topology
from moesweep.store.layout import Results
from moesweep.traffic.files import read_matrix
from moesweep.traffic.messages import Placed


def matrix_of(results: Results, layout: Mapping[str, Any], island: int, order: str | None) -> pl.DataFrame:
    """Return who sends what to whom among the GPUs that a traced workload's ranks stand on: src, dst, ..."""
    gpus = None if order is None else pl.Series(slots(layout, order))
    return read_matrix(results, layout["workload"], Placed(island, gpus))


def flows_of(matrix: pl.DataFrame) -> tuple[Flows, pl.DataFrame]:
    """Return a matrix as flows, told apart by kind and phase, and those: key, group_kind, phase."""
    kinds, phases = (matrix[word].to_physical().cast(pl.Int64).to_numpy() for word in ("group_kind", "phase"))
    told = kinds * 16 + phases
    there = np.bincount(told) > 0
    codes, key = np.flatnonzero(there), (np.cumsum(there) - 1)[told]
    words = pl.DataFrame(
        {
            "key": np.arange(len(codes)),
            "group_kind": _words(matrix, "group_kind").gather(codes // 16),
            "phase": _words(matrix, "phase").gather(codes % 16),
        }
    )
    source, target, bytes_ = (matrix[name].to_numpy() for name in ("src", "dst", "bytes"))
    return Flows(len(codes), key, source, target, bytes_.astype(np.float64)), words


def _words(matrix: pl.DataFrame, column: str) -> pl.Series:
    """Return the words of an Enum column in their order."""
    dtype = matrix.schema[column]
    return pl.Series(dtype.categories, dtype=dtype)  # type: ignore[attr-defined]


def link_table(topology: Topology, matrix: pl.DataFrame) -> pl.DataFrame:
    """Return what each link carries in an iteration, by kind and phase; links that carry nothing have no row.

    link, class, source, target, group_kind, phase, bytes, and the seconds that the link takes for them.
    """
    flows, words = flows_of(matrix)
    link, key, bytes_ = topology.link_loads(flows)
    links = topology.links[link]
    return links.drop("bundle", "bytes_per_second").hstack(
        [
            *words.drop("key")[key],
            pl.Series("bytes", bytes_),
            pl.Series("seconds", bytes_ / links["bytes_per_second"].to_numpy()),
        ]
    )


def by_kind(table: pl.DataFrame) -> pl.DataFrame:
    """Return how long each kind takes on its busiest link, and which that is, by phase.

    `seconds` over phases add where kinds and phases follow one another: overlapped ones share links.
    """
    busiest = pl.col("seconds").arg_max()
    return (
        table.group_by("group_kind", "phase", maintain_order=True)
        .agg(
            pl.col("class", "source", "target", "seconds").get(busiest),
            bytes_hops=pl.col("bytes").sum(),
        )
        .sort("group_kind", "phase")
    )
