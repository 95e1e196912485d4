"""Pipelines whose chunks differ, stepped through: how long the micro-batches of an iteration take.

Every pass of a chunk lasts as long as its layers, the embedding before the first or the head after the last,
and the arrival of what its neighbour sends. A message that is overlapped (`overlaps_messages`) keeps no stage
busy, but who needs it waits for it.
"""

import numpy as np
import polars as pl

from moesweep.cost.iteration import overlaps_messages
from moesweep.cost.pairs import PHASES, pairs
from moesweep.shapes.expressions import total
from moesweep.shapes.placement import ARRIVALS, ENDS, alike, chunk_contents
from moesweep.shapes.schedule import GROUP
from moesweep.shapes.steps import makespans


def stepped(
    workloads: pl.DataFrame, stages: pl.DataFrame, passes: pl.DataFrame, layers: pl.DataFrame
) -> pl.DataFrame:
    """Return workload, num_microbatches and `stepped_seconds`, null where `filled_and_drained` is exact.

    workloads   with the columns of SHAPE
    stages      with their `own_seconds`
    passes      those of moesweep.cost.stages
    layers      rows of `layer_layout` whose kinds are those of the passes
    """
    chunks = chunk_contents(workloads, layers)
    last_is_slowest = pl.col("own_seconds").last() >= pl.col("own_seconds").max()
    in_order = stages.sort("workload", "stage", maintain_order=True).group_by("workload", maintain_order=True)
    differ = (
        alike(chunks)
        .join(in_order.agg(sets_the_pace=last_is_slowest), on="workload", maintain_order="left")
        .join(workloads, on="workload", maintain_order="left")
        .filter((pl.col("pp") > 1) & ~(pl.col("alike") & pl.col("sets_the_pace")))
    )
    lengths = _lengths(chunks.join(differ, on="workload", how="semi", maintain_order="left"), passes)
    delays = _delays(passes, chunks)
    seconds: dict[str, float] = {}
    shapes = ("pp", "virtual_pipeline", GROUP, "overlap_moe_expert_parallel_comm")
    for (pp, v, group, in_pairs), some in differ.group_by(shapes, maintain_order=True):
        ids = some.select("workload")
        each = ids.join(lengths, on="workload", maintain_order="left_right")
        waits = ids.join(delays, on="workload", maintain_order="left").select(PHASES).to_numpy().T
        ended = makespans(
            each.select(PHASES).to_numpy().reshape(some.height, -1).T,
            waits,
            (int(pp), int(v)),
            np.arange(some.height),
            some["num_microbatches"].to_numpy(),
            each["paired"].to_numpy().reshape(some.height, -1).T if in_pairs else None,
            int(group),
        )
        seconds |= dict(zip(ids["workload"], ended.tolist(), strict=True))
    return workloads.select(
        "workload",
        "num_microbatches",
        stepped_seconds=pl.col("workload").replace_strict(seconds, default=None, return_dtype=pl.Float64),
    )


def _lengths(chunks: pl.DataFrame, passes: pl.DataFrame) -> pl.DataFrame:
    """Return the seconds of each chunk's passes, chunk by chunk of all stages: workload, PHASES, `paired`."""
    at = ["workload", "stage"]
    kinds = [name for name in chunks.columns if name not in (*at, "chunk", *ENDS, *ARRIVALS)]
    frame = chunks.with_columns(_in_layers(chunks, pairs(passes), kinds, "paired"))
    for phase, arrival in zip(PHASES, ARRIVALS, strict=True):
        one = passes.filter(pl.col("phase") == phase)
        layers = one.filter(pl.col("layer_kind").is_not_null())
        around = (pl.col("first") + pl.col("last")) * pl.col("ends").fill_null(0.0)
        busy = pl.col(arrival) * (pl.col("busy") / pl.col(arrival).sum().over(at)).fill_nan(0.0).fill_null(
            0.0
        )
        frame = (
            frame.with_columns(_in_layers(chunks, layers, kinds, "seconds"))
            .join(_around(one), on=at, how="left", maintain_order="left")
            .with_columns((pl.col("seconds") + around + busy).alias(phase))
            .select(*frame.columns, phase)
        )
    ordered = frame.sort("workload", "chunk", "stage", maintain_order=True)
    return ordered.select("workload", *PHASES, "paired")


def _in_layers(chunks: pl.DataFrame, layers: pl.DataFrame, kinds: list[str], name: str) -> pl.Series:
    """Return what all layers of each chunk come to, of a value by workload, stage and layer_kind."""
    at = ["workload", "stage"]
    wide = layers.pivot("layer_kind", index=at, values=name, maintain_order=True)
    known = {kind: f"{kind} {name}" for kind in kinds if kind in wide.columns}
    held = chunks.join(wide.rename(known), on=at, how="left", maintain_order="left")
    each = (pl.col(kind) * pl.col(value).fill_null(0.0) for kind, value in known.items())
    return held.select(total([pl.lit(0.0), *each]).alias(name)).to_series()


def _around(passes: pl.DataFrame) -> pl.DataFrame:
    """Return what a stage runs around its layers: at the model's `ends`, and `busy` with arrivals."""
    beside = pl.when(overlaps_messages).then("pp_comm").otherwise(0.0)
    return passes.filter(pl.col("layer_kind").is_null()).select(
        "workload", "stage", ends=pl.col("seconds") - pl.col("arrivals"), busy=pl.col("arrivals") - beside
    )


def _delays(passes: pl.DataFrame, chunks: pl.DataFrame) -> pl.DataFrame:
    """Return the seconds of one overlapped message by workload: PHASES. All stages wait as long for one."""
    arrivals = chunks.group_by("workload", "stage", maintain_order=True).agg(pl.col(ARRIVALS).sum())
    around = passes.filter(pl.col("layer_kind").is_null()).join(
        arrivals, on=["workload", "stage"], maintain_order="left"
    )
    message = {
        phase: pl.when(overlaps_messages & (pl.col("phase") == phase))
        .then(pl.col("pp_comm") / pl.col(arrival))
        .fill_nan(0.0)
        .max()
        .fill_null(0.0)
        for phase, arrival in zip(PHASES, ARRIVALS, strict=True)
    }
    return around.group_by("workload", maintain_order=True).agg(**message)
