"""What the page draws of each workload: traffic maps and both ends of its timeline, made where they moved."""

import json
from dataclasses import asdict
from typing import Any

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.heatmap import heat_maps
from moesweep.report.pipeline_map import pipeline_maps
from moesweep.store.memo import MADE_FROM, Memo, remade
from moesweep.store.parts import content_of, made_from

OF_A_WORKLOAD = ("workload", "world_size", "pp", "num_microbatches", "iteration_seconds")
"""The columns of a workload that its drawings are made from; the rest are its files."""


def drawings(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Return `maps` (rows of `heat_maps`) and `ends` (moesweep.report.pipeline_map.End) by workload."""
    rows = evidence.workloads.select(OF_A_WORKLOAD)
    digests = [_digest(evidence, row) for row in rows.iter_rows(named=True)]
    wanted = rows.select("workload").with_columns(pl.Series(MADE_FROM, digests, dtype=pl.String))
    (found,) = remade(
        [Memo(evidence.results, "report", "drawings")], wanted, lambda some: [_drawn(evidence, some)]
    )
    return {id_: json.loads(text) for id_, text in found.select("workload", "drawings").iter_rows()}


def _digest(evidence: Evidence, row: dict[str, Any]) -> str:
    results, id_ = evidence.results, row["workload"]
    files = (results.traffic("node", id_), results.cost_ops(id_), results.trace("schedules", id_))
    nodes = str(evidence.gpus_per_node)
    return made_from("report", json.dumps(row), nodes, *(content_of(file) for file in files))


def _drawn(evidence: Evidence, some: pl.DataFrame) -> pl.DataFrame:
    ids = some["workload"].to_list()
    maps = heat_maps(evidence, ids).sort("group_kind", maintain_order=True)
    by_workload = maps.partition_by("workload", as_dict=True, maintain_order=True, include_key=False)
    ends = pipeline_maps(evidence, ids)
    texts = [
        json.dumps(
            {
                "maps": by_workload[(id_,)].to_dicts() if (id_,) in by_workload else [],
                "ends": [asdict(end) for end in ends[id_]],
            }
        )
        for id_ in ids
    ]
    return some.with_columns(drawings=pl.Series(texts, dtype=pl.String))
