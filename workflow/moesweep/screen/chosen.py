"""Chosen points of a space as a sweep of their own, so that `make sweep` traces them."""

from pathlib import Path
from typing import Any

import polars as pl
import yaml

from moesweep.edge.problems import BadInput, Problem
from moesweep.screen.points import POSITION
from moesweep.store.tablefile import whole
from moesweep.study.blocks import CLUSTER
from moesweep.study.claims import as_written
from moesweep.study.space import Space
from moesweep.study.sweep import MAX_WORKLOADS

SCHEMA_LINE = "# yaml-language-server: $schema=../../schemas/sweep.schema.json"


def write_sweep(space: Space, points: pl.DataFrame, path: Path) -> None:
    """Write points, by their POSITION, as rows of a sweep with the space's options.

    A sweep has one cluster, the configuration's: what a space says of clusters is left out, and points that
    differ in it alone are one row. Raises BadInput for more points than a sweep may have.
    """
    if points.height > MAX_WORKLOADS:
        message = f"{points.height} points are more than the {MAX_WORKLOADS} workloads of a sweep"
        advice = "keep fewer: --top"
        raise BadInput([Problem("", "--sweep", "sweep_size", str(points.height), message, advice)])
    said = space.file.said
    rows: dict[str, dict[str, object]] = {}
    for row in space.rows(points[POSITION]):
        own = {key: value for key, value in row.items() if key != CLUSTER}
        rows.setdefault(_as_yaml(own), own)
    claims = {"claims": as_written(space.file.claims)} if space.file.claims else {}
    head = {"description": f"Points chosen of {said.file}.", **claims, "options": options_of(space)}
    with whole(path) as partial:
        text = _as_yaml(head, sort_keys=False, width=110, allow_unicode=True)
        listed = {"rows": list(rows.values())}
        lines = _as_yaml(listed, sort_keys=False, default_flow_style=None, width=10_000)
        partial.write_text(f"{SCHEMA_LINE}\n{text}{lines}", encoding="utf-8")


class _Plain(yaml.SafeDumper):
    """Writes equal values out: the project's own files have no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        """Take no value for another one."""
        return True


def _as_yaml(data: object, **options: Any) -> str:
    text: str = yaml.dump(data, Dumper=_Plain, **options)
    return text


def options_of(space: Space) -> dict[str, object]:
    """Return a space's options as a sweep says them."""
    from moesweep.study import routing

    options = {key: value for key, value in space.file.said.options.items() if key != CLUSTER}
    return options | ({"routing": routing.as_written(options["routing"])} if "routing" in options else {})
