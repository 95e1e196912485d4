"""The legal points of a part of a space, costed."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from moesweep.evaluate.costs import batch_of, constants_frame, costed, on_networks
from moesweep.evaluate.factored import costs
from moesweep.shapes.distinct import packed
from moesweep.store.tablefile import dtypes
from moesweep.study.blocks import CLUSTER
from moesweep.study.catalog import Cluster
from moesweep.study.routing import given
from moesweep.study.space import Batch, Part, Space

COLUMNS = ("workload", CLUSTER, *(name for name in dtypes("costs") if name != "workload"))
"""What a screen says of a point, in order."""

POSITION, TOKEN_SECONDS = "position", "token_seconds"
"""Where a point stands in its space; what a token of all GPUs together takes, so that batches compare."""

_TYPES = {name: {CLUSTER: pl.String(), **dtypes("costs")}[name] for name in COLUMNS}


def costed_points(space: Space, part: Part, batch: Batch, clusters: Mapping[str, Cluster]) -> pl.DataFrame:
    """Return POSITION, TOKEN_SECONDS and COLUMNS of the legal points of a part.

    `clusters` are those that the space names, or else the one that all points are for.
    """
    workloads, constants = batch.workloads, constants_frame(clusters.values())
    if workloads.is_empty():
        return pl.DataFrame(schema={POSITION: batch.positions.dtype, TOKEN_SECONDS: pl.Float64, **_TYPES})
    if CLUSTER not in workloads.columns:
        workloads = workloads.with_columns(pl.lit(next(iter(clusters))).alias(CLUSTER))
    workloads = on_networks(workloads, list(clusters.values()))
    if workloads.select(given.any()).item():
        found = costed(workloads, constants)
    else:
        together = batch_of(workloads, constants)
        numbers = {axis: batch.codes[axis].to_numpy().astype(np.int64) for axis in batch.codes.columns}
        codes = {axis: packed(own, int(own.max(initial=0)) + 1) for axis, own in numbers.items()}
        # What columns follow from is known: their values need not be looked at.
        for name, axes in space.axes_of(part).items():
            if name in workloads.columns:
                together.coded.add(name, {axis: codes[axis] for axis in axes})
        found = costs(together)
    tokens = pl.col("global_batch_size") * pl.col("seq_length")
    return (
        found.hstack(workloads.select(CLUSTER, tokens.alias("tokens")))
        .with_columns(batch.positions, (pl.col("iteration_seconds") / pl.col("tokens")).alias(TOKEN_SECONDS))
        .select(POSITION, TOKEN_SECONDS, *(pl.col(name).cast(dtype) for name, dtype in _TYPES.items()))
    )
