"""How much each changed input moved each workload: the model run again with that input alone changed.

All runs use the code at hand, so what they leave over is interaction of the inputs, or other code.
"""

from collections.abc import Mapping

import polars as pl

from moesweep.cost.model import cost, with_constants
from moesweep.diff.changes import InputChange
from moesweep.diff.folder import Folder
from moesweep.routing import given
from moesweep.schema import definition
from moesweep.trace.programs import folded

MEASURES = ("iteration_seconds", "peak_memory_bytes", "usd_per_billion_tokens")
NEEDED = set(definition("cluster", "constants")["required"])
MODEL, PARAMETERS, REST = "model", "parameters", "interaction"


def effects(a: Folder, b: Folder, changes: list[InputChange], ids: list[str]) -> pl.DataFrame:
    """Return workload, input and the change of each measure by that input alone, from A's side.

    `model` and `parameters` stand for all changed numbers of a workload's model or of its own; the
    input `interaction` is what remains of the whole change. Empty if a constant is not known. Workloads
    whose routing is given on either side are left out: their costs need measured counts, too.
    """
    routed = (folder.workloads.filter(given)["workload"] for folder in (a, b))
    skewed = {id_ for found in routed for id_ in found}
    ids = [id_ for id_ in ids if id_ not in skewed]
    schema = {"workload": pl.String, "input": pl.String} | dict.fromkeys(MEASURES, pl.Float64)
    names = [change.name for change in changes if change.kind == "constant"]
    old, new = _values(a, b), _values(b, a)
    if not ids or not (old.keys() >= NEEDED and new.keys() >= NEEDED):
        return pl.DataFrame(schema=schema)
    workloads, others = (_chosen(folder, ids) for folder in (a, b))
    base = _measured(workloads, old)
    parts = [_effect(name, workloads, old | {name: new[name]}, base) for name in names]
    for word, kind in ((MODEL, "model"), (PARAMETERS, "parameter")):
        columns = {change.name for change in changes if change.kind == kind}
        if columns:
            parts.append(_effect(word, _with_columns_of(workloads, others, columns), old, base))
    found = pl.concat(parts) if parts else pl.DataFrame(schema=schema)
    rest = _rest(a, b, ids, found).select(*schema)
    effective = pl.any_horizontal(pl.col(name) != 0 for name in MEASURES)
    return pl.concat([found, rest]).filter(effective)


def _values(folder: Folder, other: Folder) -> dict[str, float]:
    """Return a folder's constants; those that it does not know as the other folder has them."""
    both = other.inputs.constants | folder.inputs.constants
    return {name: float(entry["value"]) for name, entry in both.items()}


def _chosen(folder: Folder, ids: list[str]) -> pl.DataFrame:
    order = pl.DataFrame({"workload": ids})
    return order.join(folder.workloads, on="workload", how="left", maintain_order="left").select(
        folder.workloads.columns
    )


def _with_columns_of(workloads: pl.DataFrame, others: pl.DataFrame, columns: set[str]) -> pl.DataFrame:
    return workloads.with_columns(others[name] for name in columns)


def _measured(workloads: pl.DataFrame, constants: Mapping[str, float]) -> pl.DataFrame:
    costs = cost(folded(workloads), with_constants(workloads, constants)).workloads
    return costs.select("workload", *MEASURES)


def _effect(
    name: str, workloads: pl.DataFrame, constants: Mapping[str, float], base: pl.DataFrame
) -> pl.DataFrame:
    changed = _measured(workloads, constants)
    return changed.select("workload", input=pl.lit(name), **{m: changed[m] - base[m] for m in MEASURES})


def _rest(a: Folder, b: Folder, ids: list[str], found: pl.DataFrame) -> pl.DataFrame:
    """Return what the effects leave of the whole change; 0 where that is below a billionth of it."""
    summed = found.group_by("workload").agg(pl.col(measure).sum() for measure in MEASURES)
    frame = pl.DataFrame({"workload": ids})
    for part, suffix in ((a.costs, " in a"), (b.costs, " in b"), (summed, "")):
        named = part.select(
            "workload", *(pl.col(measure).alias(f"{measure}{suffix}") for measure in MEASURES)
        )
        frame = frame.join(named, on="workload", how="left", maintain_order="left")

    def rest(measure: str) -> pl.Expr:
        old, new = pl.col(f"{measure} in a"), pl.col(f"{measure} in b")
        left = new - old - pl.col(measure).fill_null(0.0)
        noise = 1e-9 * pl.max_horizontal(old.abs(), new.abs())
        return pl.when(left.abs() > noise).then(left).otherwise(0.0)

    return frame.select("workload", input=pl.lit(REST), **{measure: rest(measure) for measure in MEASURES})
