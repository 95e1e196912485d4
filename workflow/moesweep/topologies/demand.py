"""What links have to carry while communication lasts: bursts, not sums.

An execution of an op is a *burst*: its bytes, in the seconds that the costs give it. What the busiest link
of a class has to carry in these seconds is a demand; where it is above the capacity the burst takes longer
on that network than the costs say. Kinds are told apart: what overlaps adds on links that both take.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from moesweep.network.flows import CLASSES, Flows, sample_mean
from moesweep.network.topology import Topology
from moesweep.network.unit import LAYOUT, unit_flows
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.topologies.compared import Compared

PHASES = {"forward": 1, "backward": -1, "optimizer": 0}
"""Which way messages between stages go: on, back, or both."""

_CARRIED: dict[str, pl.DataType] = {
    **{"class": pl.Enum(CLASSES), "group_kind": pl.String(), "phase": pl.String()},
    **{"share": pl.Float64(), "flows": pl.Float64(), "incast": pl.Int64()},
    "capacity_bytes_per_second": pl.Float64(),
}


def demand(found: Compared, ops: pl.DataFrame, seconds: pl.DataFrame) -> pl.DataFrame:
    """Return the table `network_demand`: what links of each class carry in bursts, by kind and phase.

    ops       the costed ops of the workloads (schemas/tables/distinct_ops.json)
    seconds   workload, iteration_seconds
    """
    bursts = _bursts(ops, seconds)
    frames = [
        _on_links(found.topologies[name, layout["world_size"]], layout).with_columns(
            network=pl.lit(name), workload=pl.lit(layout["workload"])
        )
        for layout in found.workloads.select("workload", *LAYOUT).iter_rows(named=True)
        for name in found.clusters
    ]
    carried = pl.concat(frames).join(bursts, on=["workload", "group_kind", "phase"], maintain_order="left")
    return carried.with_columns(
        burst_bytes=pl.col("burst_bytes") * pl.col("share"),
        peak_bytes_per_second=pl.col("peak_bytes_per_second") * pl.col("share"),
        mean_bytes_per_second=pl.col("mean_bytes_per_second") * pl.col("share"),
    )


def _bursts(ops: pl.DataFrame, seconds: pl.DataFrame) -> pl.DataFrame:
    """Return what a rank of the stage that sends most puts on links, by workload, kind and phase.

    bursts                  executions in an iteration
    burst_bytes, burst_seconds   of the op that sends fastest, whose rate is peak_bytes_per_second
    mean_bytes_per_second   of all of them, over the iteration
    """
    sends = ops.filter((pl.col("wire_bytes") > 0) & (pl.col("seconds") > 0)).with_columns(
        pl.col("group_kind", "phase").cast(pl.String),
        rate=pl.col("wire_bytes") / pl.col("seconds"),
        times=pl.col("layers") * pl.col("num_microbatches"),
    )
    fastest = pl.col("rate").arg_max()
    of_stages = sends.group_by("workload", "group_kind", "phase", "stage", maintain_order=True).agg(
        bursts=pl.col("times").sum(),
        burst_bytes=pl.col("wire_bytes").get(fastest).cast(pl.Float64),
        burst_seconds=pl.col("seconds").get(fastest),
        peak_bytes_per_second=pl.col("rate").max(),
        sent=(pl.col("wire_bytes") * pl.col("times").cast(pl.Float64)).sum(),
    )
    most = of_stages.sort("sent", descending=True, maintain_order=True).unique(
        ["workload", "group_kind", "phase"], keep="first", maintain_order=True
    )
    timed = most.join(seconds, on="workload", maintain_order="left")
    return timed.with_columns(mean_bytes_per_second=pl.col("sent") / pl.col("iteration_seconds")).drop(
        "sent", "stage", "iteration_seconds"
    )


def _on_links(built: Topology, layout: Mapping[str, Any]) -> pl.DataFrame:
    """Return what unit traffic puts on the busiest link of each class outside the islands.

    class, group_kind, phase, share (of what each rank sends), flows (of pairs of GPUs, at most on a link),
    incast (senders to one GPU), capacity_bytes_per_second
    """
    every = unit_flows(layout, built.island)
    frames = [frame for phase, way in PHASES.items() for frame in _of_phase(built, _going(every, way), phase)]
    return pl.concat([pl.DataFrame(schema=_CARRIED), *frames])


def _going(flows: Flows, way: int) -> Flows:
    """Return flows without the messages between stages that go the other way."""
    ahead = np.sign(flows.target - flows.source)
    other = (flows.key == GROUP_KINDS.index("pp")) & (ahead == -way)
    return flows.of(~other)


def _of_phase(built: Topology, flows: Flows, phase: str) -> Iterator[pl.DataFrame]:
    bundles = built.bundles
    pairs = Flows(flows.keys, flows.key, flows.source, flows.target, np.ones(len(flows.key)))
    bytes_, number = (sample_mean(built.loads(each)) * bundles.share for each in (flows, pairs))
    far = pairs.of(flows.source // built.island != flows.target // built.island)
    incast = far.sums(far.target, built.gpus).max(axis=1).astype(np.int64)
    for class_ in np.unique(bundles.class_):
        own = bundles.class_ == class_
        share = bytes_[:, own].max(axis=1)
        kinds = np.flatnonzero(share > 0)
        if CLASSES[class_] == "nvlink" or not len(kinds):
            continue
        columns = (
            [CLASSES[class_]] * len(kinds),
            [GROUP_KINDS[kind] for kind in kinds],
            [phase] * len(kinds),
            share[kinds],
            number[:, own].max(axis=1)[kinds],
            incast[kinds],
            [float(bundles.capacity[own].min())] * len(kinds),
        )
        yield pl.DataFrame(dict(zip(_CARRIED, columns, strict=True)), schema=_CARRIED)
