"""A comparison as JSON and as CSV."""

from dataclasses import asdict
from typing import Any

import polars as pl

from moesweep.diff.changes import plain
from moesweep.diff.comparison import Comparison
from moesweep.diff.models import MEASURES

CSV_COLUMNS = ("kind", "workload", "name", "a", "b", "change", "share")


def as_json(found: Comparison) -> dict[str, Any]:
    """Return the comparison as plain data: inputs, workloads of one folder only, workloads that moved."""
    terms = found.moved.partition_by("workload", as_dict=True, include_key=False)
    effects = found.effects.partition_by("workload", as_dict=True, include_key=False)
    return {
        "a": str(found.a.path),
        "b": str(found.b.path),
        "equal": found.equal,
        "inputs": [asdict(change) for change in found.inputs],
        "only_in_a": found.only_a,
        "only_in_b": found.only_b,
        "moved": [
            {
                "workload": id_,
                "columns": terms[id_,].to_dicts(),
                "effects": effects[id_,].to_dicts() if (id_,) in effects else [],
            }
            for id_ in found.moved_ids
        ],
    }


def as_csv(found: Comparison) -> str:
    """Return one line a fact.

    `kind` is only_in_a, only_in_b, cluster, constant, model, parameter, code, column (a cost column that
    moved) or effect (of one changed input on one column, as `input: column`).
    """
    facts: list[dict[str, Any]] = [
        {"kind": kind, "workload": id_}
        for kind, ids in (("only_in_a", found.only_a), ("only_in_b", found.only_b))
        for id_ in ids
    ]
    facts += [
        {
            "kind": each.kind,
            "workload": each.workload,
            "name": each.name,
            "a": plain(each.a),
            "b": plain(each.b),
        }
        for each in found.inputs
    ]
    facts += [
        {"kind": "column", "name": row.pop("column"), **row, "a": repr(row["a"]), "b": repr(row["b"])}
        for row in found.moved.to_dicts()
    ]
    facts += [
        {
            "kind": "effect",
            "workload": row["workload"],
            "name": f"{row['input']}: {name}",
            "change": row[name],
        }
        for row in found.effects.to_dicts()
        for name in MEASURES
        if row[name]
    ]
    schema = {name: pl.Float64 if name in ("change", "share") else pl.String for name in CSV_COLUMNS}
    return pl.DataFrame(facts, schema=schema, orient="row").write_csv()
