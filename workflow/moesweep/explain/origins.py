"""Where a workload's values are from: the sweep's entry, its model's file, or a default."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.problems import BadInput
from moesweep.edge.schema import load_schema
from moesweep.explain.node import Origin
from moesweep.study.keys import KEYS
from moesweep.study.models import sourced_by_model
from moesweep.study.sweep import load_sweep

EXPERT_COLUMNS = ("ep", *(key.name for key in KEYS.values() if key.without is not None))


def origins(root: Path, sweep_file: str, workload: Mapping[str, Any]) -> dict[str, Origin]:
    """Return the origin of every column of a workload.

    What says it first: the entry of the sweep, its options, the model, a default.
    """
    entry = _entry(root, sweep_file, workload["workload"])
    model = _model(root, workload["model"])
    schema = load_schema("workload")["properties"]
    defaults = load_schema("sweep")["$defs"]

    def origin(name: str, value: object) -> Origin:
        """Return where a column's value is from: the first that says it."""
        if workload["kind"] == "dense" and name in EXPERT_COLUMNS:
            return Origin("", "what a workload without experts has")
        if name in entry.get("own", ()):
            return Origin(f"{entry['file']}: {entry['entry']}.{name}")
        if name in entry.get("options", ()):
            return Origin(f"{entry['file']}: options.{name}")
        if name in model and model[name][0] == value:
            return Origin(f"config/models/{workload['model']}.yaml", model[name][1])
        if name == "moe_ffn_hidden_size" and value == workload["ffn_hidden_size"]:
            return Origin(f"config/models/{workload['model']}.yaml", "experts as wide as ffn_hidden_size")
        if "default" in defaults.get(name, {}):
            return Origin("schemas/sweep.schema.json", f"default: {schema[name]['description']}")
        return Origin("", schema[name]["description"])

    return {name: origin(name, value) for name, value in workload.items()}


def _entry(root: Path, sweep_file: str, workload: str) -> dict[str, Any]:
    """Return the place in the sweep that lists a workload; empty if it does not."""
    try:
        rows = load_sweep(root, sweep_file).origins.filter(pl.col("workload") == workload)
    except BadInput:
        return {}
    return {} if rows.is_empty() else rows.row(0, named=True)


def _model(root: Path, name: str) -> dict[str, tuple[Any, str]]:
    """Return what a model gives, each value with its source; empty if the catalogue has no such model."""
    try:
        return sourced_by_model(root, name)
    except BadInput:
        return {}
