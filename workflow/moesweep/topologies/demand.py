"""What links have to carry while communication lasts: bursts, not sums.

An execution of an op is a *burst*: its bytes, in the seconds that the costs give it. What the busiest link
of a class has to carry in these seconds is a demand; where it is above the capacity the burst takes longer
on that network than the costs say. Kinds are told apart: what overlaps adds on links that both take.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from moesweep.network.flows import CLASSES, Flows, Ints, sample_mean
from moesweep.network.slowed import by_world, in_parts, told_apart
from moesweep.network.topology import Topology
from moesweep.network.unit import LAYOUT, pattern_flows, patterns
from moesweep.topologies.compared import Compared

PHASES = {"forward": 1, "backward": -1, "optimizer": 0}
"""Which way messages between stages go: on, back, or both."""

_KEY: dict[str, pl.DataType] = {"key": pl.Int64()}

_NAMES: dict[str, pl.DataType] = {"layout": pl.Int64(), "group_kind": pl.String(), "phase": pl.String()}

_LOADED: dict[str, pl.DataType] = {
    **{"class": pl.Enum(CLASSES), "share": pl.Float64(), "flows": pl.Float64(), "incast": pl.Int64()},
    "capacity_bytes_per_second": pl.Float64(),
}

_CARRIED = {"network": pl.String()} | _NAMES | _LOADED


def demand(found: Compared, ops: pl.DataFrame, seconds: pl.DataFrame) -> pl.DataFrame:
    """Return the table `network_demand`: what links of each class carry in bursts, by kind and phase.

    ops       the costed ops of the workloads (schemas/tables/distinct_ops.json)
    seconds   workload, iteration_seconds
    """
    layouts = found.layouts.with_columns(pl.col("layout").cast(pl.Int64))
    carried = (
        found.workloads.select("workload", *LAYOUT)
        .join(layouts, on=LAYOUT, how="left", maintain_order="left")
        .join(_on_links(found, layouts), on="layout", maintain_order="left_right")
        .join(_bursts(ops, seconds), on=["workload", "group_kind", "phase"], maintain_order="left")
    )
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


def _on_links(found: Compared, layouts: pl.DataFrame) -> pl.DataFrame:
    """Return what unit traffic puts on the busiest link of each class outside the islands, by layout.

    layout, network, class, group_kind, phase, share (of what each rank sends), flows (of pairs of GPUs, at
    most on a link), incast (senders to one GPU), capacity_bytes_per_second
    """
    frames = [pl.DataFrame(schema=_CARRIED)]
    for size, own in by_world(layouts):
        rows, ways = told_apart(
            ((row["layout"], kind, phase), (pattern, way if kind == "pp" else 0))
            for row in own.iter_rows(named=True)
            for kind, pattern in patterns(row).items()
            for phase, way in PHASES.items()
        )
        of_kinds = pl.DataFrame([(*names, key) for names, key in rows], _NAMES | _KEY, orient="row")
        one_way, flows = np.array([way for _, way in ways]), dict[int, Flows]()
        for name in found.clusters:
            built = found.topologies[name, size]
            if built.island not in flows:
                every = pattern_flows([pattern for pattern, _ in ways], built.island)
                flows[built.island] = _going(every, one_way[every.key])
            carried = pl.concat(
                frame.with_columns(pl.col("key") + first)
                for first, some in in_parts(built, flows[built.island])
                for frame in _of_classes(built, some)
            )
            told = of_kinds.join(carried, on="key", maintain_order="left_right")
            frames.append(told.select(pl.lit(name).alias("network"), *_NAMES, *_LOADED))
    return pl.concat(frames)


def _going(flows: Flows, way: Ints) -> Flows:
    """Return flows without those that go the other way: to higher ranks (1), to lower ones (-1), or any."""
    return flows.of(np.sign(flows.target - flows.source) != -way)


def _of_classes(built: Topology, flows: Flows) -> Iterator[pl.DataFrame]:
    """Yield `_CARRIED` of each class by `key`, of those that put anything on it."""
    bundles = built.bundles
    pairs = Flows(flows.keys, flows.key, flows.source, flows.target, np.ones(len(flows.key)))
    bytes_, number = (sample_mean(built.loads(each)) * bundles.share for each in (flows, pairs))
    far = pairs.of(flows.source // built.island != flows.target // built.island)
    incast = far.sums(far.target, built.gpus).max(axis=1).astype(np.int64)
    yield pl.DataFrame(schema=_KEY | _LOADED)
    for class_ in np.unique(bundles.class_):
        own = bundles.class_ == class_
        share = bytes_[:, own].max(axis=1)
        key = np.flatnonzero(share > 0)
        if CLASSES[class_] == "nvlink" or not len(key):
            continue
        columns = {
            "key": key,
            "class": [CLASSES[class_]] * len(key),
            "share": share[key],
            "flows": number[:, own].max(axis=1)[key],
            "incast": incast[key],
            "capacity_bytes_per_second": [float(bundles.capacity[own].min())] * len(key),
        }
        yield pl.DataFrame(columns, schema=_KEY | _LOADED)
