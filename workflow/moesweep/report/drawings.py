"""What the page draws of each workload, made where it moved: traffic maps, both ends of its timeline."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.heatmap import heat_maps
from moesweep.report.pipeline_map import pipeline_maps
from moesweep.shapes.schedule import SHAPE
from moesweep.store.memo import MADE_FROM, Memo, remade
from moesweep.store.parts import content_of, made_from

Drawn = dict[str, list[dict[str, Any]]]


def drawings(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Return `maps` (rows of `heat_maps`) and `ends` (moesweep.report.pipeline_map.End) by workload."""
    results, nodes = evidence.results, str(evidence.gpus_per_node)
    maps = _kept(
        evidence,
        "maps",
        evidence.workloads.select("workload", "world_size", told=pl.lit(nodes)),
        lambda id_: results.traffic("node", id_),
        lambda ids: _maps(evidence, ids),
    )
    ends = _kept(
        evidence,
        "ends",
        evidence.workloads.select("workload", *SHAPE, "iteration_seconds"),
        results.cost_ops,
        lambda ids: {id_: list(map(asdict, each)) for id_, each in pipeline_maps(evidence, ids).items()},
    )
    return {id_: {"maps": maps.get(id_, []), "ends": each} for id_, each in ends.items()}


def _kept(
    evidence: Evidence,
    name: str,
    rows: pl.DataFrame,
    file: Callable[[str], Path],
    drawn: Callable[[list[str]], Drawn],
) -> Drawn:
    """Return drawings by workload, made anew where a workload's row or its file has moved."""
    digests = [
        made_from("report", name, json.dumps(row), content_of(file(row["workload"])))
        for row in rows.iter_rows(named=True)
    ]
    wanted = rows.select("workload").with_columns(pl.Series(MADE_FROM, digests, dtype=pl.String))

    def made(some: pl.DataFrame) -> list[pl.DataFrame]:
        found = drawn(some["workload"].to_list())
        texts = [json.dumps(found.get(id_, [])) for id_ in some["workload"]]
        return [some.with_columns(pl.Series(name, texts, dtype=pl.String))]

    (found,) = remade([Memo(evidence.results, "report", name)], wanted, made)
    return {id_: json.loads(text) for id_, text in found.select("workload", name).iter_rows()}


def _maps(evidence: Evidence, ids: list[str]) -> Drawn:
    rows = heat_maps(evidence, ids).sort("group_kind", maintain_order=True)
    by_workload = rows.partition_by("workload", as_dict=True, maintain_order=True, include_key=False)
    return {str(key[0]): part.to_dicts() for key, part in by_workload.items()}
