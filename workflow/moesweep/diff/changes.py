"""What differs between two folders: inputs, workloads, and cost columns by term."""

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from moesweep.diff.folder import Folder
from moesweep.edge.schema import load_schema
from moesweep.shapes.communication import comm_seconds
from moesweep.shapes.states import MEMORY_PARTS
from moesweep.study.catalog_files import unit_of

NOT_INPUTS = ("workload", "twin", "listed", "parameters", "active_parameters", "mtp_parameters")
"""Columns of a workload that its costs do not depend on."""

NETWORK = "network"

TERMS = {
    "iteration_seconds": ("compute_seconds", "exposed_comm_seconds", "bubble_seconds", "optimizer_seconds"),
    "exposed_comm_seconds": tuple(comm_seconds()),
    "peak_memory_bytes": MEMORY_PARTS,
    "usd_per_billion_tokens": ("gpu_hours_per_billion_tokens",),
}
"""The terms that a cost column moves through. Those of communication are whole, hidden parts included."""


@dataclass(frozen=True)
class InputChange:
    """One input that differs. `workload` is empty for what concerns all of them."""

    kind: str  # cluster | network | constant | model | parameter | code
    name: str
    a: Any
    b: Any
    workload: str = ""
    unit: str = ""
    tag: str = ""


def changed_inputs(a: Folder, b: Folder) -> list[InputChange]:
    """Return every input that differs: cluster, network, constants, code, models and workload parameters."""
    changes = []
    if a.inputs.cluster != b.inputs.cluster:
        changes.append(InputChange("cluster", "cluster", a.inputs.cluster, b.inputs.cluster))
    if a.network != b.network:
        changes.append(InputChange(NETWORK, NETWORK, a.network.name, b.network.name))
    for name in sorted(a.inputs.constants.keys() | b.inputs.constants.keys()):
        old, new = a.inputs.value(name), b.inputs.value(name)
        if old != new:
            entry = b.inputs.constants.get(name) or a.inputs.constants[name]
            unit, tag = unit_of(name), str(entry.get("tag", ""))
            changes.append(InputChange("constant", name, old, new, "", unit, tag))
    for layer in sorted(a.inputs.code.keys() | b.inputs.code.keys()):
        old_code, new_code = a.inputs.code.get(layer), b.inputs.code.get(layer)
        if old_code != new_code:
            changes.append(InputChange("code", layer, old_code, new_code))
    return changes + _changed_parameters(a, b)


def _changed_parameters(a: Folder, b: Folder) -> list[InputChange]:
    columns = [name for name in a.workloads.columns if name not in NOT_INPUTS]
    both = a.workloads.join(b.workloads, on="workload", suffix=" in b", maintain_order="left")
    of_model = load_schema("model")["properties"]
    return [
        InputChange(
            "model" if name in of_model else "parameter",
            name,
            row[name],
            row[f"{name} in b"],
            row["workload"],
        )
        for row in both.iter_rows(named=True)
        for name in columns
        if row[name] != row[f"{name} in b"]
    ]


def moved(a: Folder, b: Folder, tolerance: float) -> pl.DataFrame:
    """Return workload, column, a, b, change, share: every cost column that differs, workload by workload.

    Columns differ if |b - a| > tolerance · max(|a|, |b|); `share` is the change over a, null where a is 0.
    """
    both = a.costs.join(b.costs, on="workload", suffix=" in b", maintain_order="left")
    # Words follow from the inputs.
    columns = [name for name, dtype in a.costs.schema.items() if dtype.is_numeric() or dtype == pl.Boolean]
    change = pl.col("b") - pl.col("a")
    largest = pl.max_horizontal(pl.col("a").abs(), pl.col("b").abs())
    frames = [
        both.select(
            "workload",
            column=pl.lit(name),
            a=pl.col(name).cast(pl.Float64),
            b=pl.col(f"{name} in b").cast(pl.Float64),
        )
        for name in columns
    ]
    return (
        pl.concat(frames)
        .filter((change.abs() > tolerance * largest).fill_null(True))
        .with_columns(change=change, share=pl.when(pl.col("a") != 0).then(change / pl.col("a")))
        .join(both.select("workload").with_row_index("place"), on="workload", maintain_order="left")
        .sort("place", maintain_order=True)
        .drop("place")
    )


def only_in(a: Folder, b: Folder) -> list[str]:
    """Return the workloads of one folder that the other does not have."""
    there = set(b.ids)
    return [id_ for id_ in a.ids if id_ not in there]


def plain(value: Any) -> str:
    """Return an input's value as text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)
