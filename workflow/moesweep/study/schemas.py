"""The schemas of sweeps, models and workloads, written from the declared keys.

`python -m moesweep.study.schemas` writes them into schemas/; a test holds them to what is declared.
"""

import json
from typing import Any

from moesweep.edge.schema import SCHEMA_DIRECTORY
from moesweep.study.claims import CLAIMS
from moesweep.study.column import NEEDED, Key
from moesweep.study.forms import NAME, Schema, whole
from moesweep.study.keys import COLUMNS, KEYS
from moesweep.study.names import ELSEWHERE, UNMODELLED

MAX_LISTED = 4096
"""Values of one axis of a grid that are written out."""

LINE_CHARACTERS = 100

_NAMES = {
    "x-names": {name: key for name, key in sorted(ELSEWHERE.items()) if key in KEYS},
    "x-unmodelled": sorted(UNMODELLED | {name for name, key in ELSEWHERE.items() if key in UNMODELLED}),
}
"""What an unknown key may be instead: another name of a known one, or known and not modelled."""

_SOURCE = {
    "description": "Where the values are from: of the file, for those that have no source of their own.",
    "type": "string",
    "minLength": 3,
    "maxLength": 500,
}


_CLUSTER = "Cluster to be costed on, an axis of spaces alone; left out: the configuration's."
_RANGE: dict[str, Any] = {
    "description": "Numbers from `from` to `to` at most, each `times` or `step` more than the one before.",
    "type": "object",
    "properties": {
        "from": {"description": "The first number.", **whole(0, 1 << 40)},
        "to": {"description": "The last number may be at most this.", **whole(0, 1 << 40)},
        "times": {"description": "What each number is multiplied by.", **whole(2, 1 << 20)},
        "step": {"description": "What is added to each number.", **whole(1, 1 << 40)},
    },
    "required": ["from", "to"],
    "additionalProperties": False,
}
_CONDITION = {
    "description": "A SQL condition over columns of a workload, such as tp * ep <= 64.",
    "type": "string",
    "minLength": 1,
    "maxLength": 2000,
}
_SIEVE = {
    "where": {
        "description": "Conditions that a point of the grid fulfils or is left out: SQL over columns of "
        "a workload, such as tp * ep <= 64 AND pp > 1. One or a list of them.",
        "if": {"type": "array"},
        "then": {"items": _CONDITION, "minItems": 1, "maxItems": 64},
        "else": _CONDITION,
    },
    "illegal": {
        "description": "`skip`: points that break a rule are left out and counted. Otherwise one refuses "
        "the sweep. A space leaves them out always.",
        "type": "string",
        "enum": ["skip"],
    },
}


def sweep_schema() -> dict[str, Any]:
    """Return the schema of a sweep: `$defs` holds each key, a grid takes one value or a list of them."""
    own = {key: reference(key) for key in (*KEYS, "cluster")}
    options = {key: part for key, part in own.items() if key != "listed"}
    return _headed(
        "sweep",
        "Sweep",
        "Which workloads to run: every combination of each grid, then the rows. A workload is MoE where "
        "num_experts is above 0, dense otherwise.",
        {
            "description": {
                "description": "What the sweep is for.",
                "type": "string",
                "minLength": 1,
                "maxLength": 2000,
            },
            "twins": {
                "description": "Add the dense twin of every MoE workload: same world, tp, pp, batches and "
                "sequence, ep 1, a standard MLP.",
                "type": "boolean",
                "default": False,
            },
            "claims": reference("claims"),
            "options": _mapping("Values for every grid and row that does not give its own.", options),
            "grids": _listing(
                "Each grid lists the workloads of all combinations of its values.", 10000, "grid"
            ),
            "rows": _listing("Single workloads.", 100000, "row"),
        },
        anyOf=[{"required": ["grids"]}, {"required": ["rows"]}],
        **{"x-need": "the sweep lists no workload: give grids, rows or both"},
        additionalProperties=False,
        **{
            "$defs": {
                **{name: _described(key) for name, key in KEYS.items()},
                "cluster": {"description": _CLUSTER, **NAME},
                "range": _RANGE,
                "grid": _mapping(
                    "Values, lists or ranges of them; the grid is their product, model varying slowest, then "
                    "the other keys in the order they have here, ep last.",
                    {
                        **{name: _axis(key) for name, key in KEYS.items() if name != "listed"},
                        "cluster": _several(_CLUSTER, {"type": "array"}, "cluster", reference("cluster")),
                        **_SIEVE,
                    },
                ),
                "row": _mapping("One workload.", own),
                "claims": CLAIMS,
            }
        },
    )


def model_schema() -> dict[str, Any]:
    """Return the schema of a model: its keys, each a value with its source."""
    keys = [key for key in KEYS.values() if key.of_model]
    about = {
        "description": "What the model is and how it differs from its namesakes.",
        "type": "string",
        "minLength": 1,
        "maxLength": 4000,
    }
    needed = [key.name for key in keys if key.default is NEEDED]
    return _headed(
        "model",
        "Model",
        "One model, config/models/<name>.yaml; every value with its source, or with the file's.",
        {"description": about, "source": _SOURCE, **{key.name: _sourced(key) for key in keys}},
        required=["description", *needed],
        additionalProperties=False,
        **_NAMES,
        **{"$defs": {**{key.name: _described(key) for key in keys}, "source": _SOURCE}},
    )


def workload_schema() -> dict[str, Any]:
    """Return the schema of a resolved workload."""
    columns = {column.name: {"description": column.about, **column.column} for column in COLUMNS}
    return _headed(
        "workload",
        "Workload",
        "One resolved workload: a row of results/workloads.parquet.",
        columns,
        required=list(columns),
        additionalProperties=False,
    )


SCHEMAS = {"sweep": sweep_schema, "model": model_schema, "workload": workload_schema}


def written(name: str) -> str:
    """Return the text of a schema's file."""
    return _laid_out(SCHEMAS[name](), 0) + "\n"


def reference(key: str) -> dict[str, Any]:
    """Return a reference to a key's definition."""
    return {"$ref": f"#/$defs/{key}"}


def _headed(name: str, title: str, about: str, properties: Schema, **more: Any) -> dict[str, Any]:
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{name}.schema.json",
        "title": title,
        "description": about,
    }
    return {**head, "type": "object", "properties": properties, **more}


def _mapping(about: str, properties: Schema) -> dict[str, Any]:
    return {
        "description": about,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **_NAMES,
    }


def _listing(about: str, most: int, part: str) -> dict[str, Any]:
    return {"description": about, "type": "array", "minItems": 1, "maxItems": most, "items": reference(part)}


def _described(key: Key) -> dict[str, Any]:
    default = {"default": key.default} if _is_value(key.default) else {}
    return {"description": key.about, **key.form, **default}


def _sourced(key: Key) -> dict[str, Any]:
    """A value of a model: bare, or in a mapping with its source."""
    pair = {
        "properties": {"value": reference(key.name), "source": reference("source")},
        "required": ["value", "source"],
        "additionalProperties": False,
    }
    return {"description": key.about, "if": {"type": "object"}, "then": pair, "else": reference(key.name)}


def _is_value(default: Any) -> bool:
    return isinstance(default, bool | int | float | str)


def _axis(key: Key) -> dict[str, Any]:
    """One value of a key or several: a list, of a key that takes lists a list of lists, a range, or `all`."""
    several: dict[str, Any] = {"type": "array"}
    about = f"{key.about} One value or a list of them"
    if key.takes_lists:
        several["contains"] = {"type": "array"}
    one = reference(key.name)
    if key.divides:
        about += f", or `all`: the divisors of {key.divides}"
        one = {"if": {"const": "all"}, "then": {}, "else": one}
    if "integer" in key.form["type"]:
        about += ", or a range"
        ranged = {
            "type": "object",
            "anyOf": [{"required": [word]} for word in ("from", "to", "times", "step")],
        }
        one = {"if": ranged, "then": reference("range"), "else": one}
    return _several(f"{about}.", several, key.name, one)


def _several(about: str, several: Schema, key: str, one: Schema) -> dict[str, Any]:
    axis = {
        "items": reference(key),
        "minItems": 1,
        "maxItems": MAX_LISTED,
        "uniqueItems": True,
    }
    return {"description": about, "if": several, "then": axis, "else": one}


def _laid_out(value: Any, depth: int) -> str:
    """JSON text: what fits on a line stands on one, other mappings and lists have a line for each part."""
    text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or 2 * depth + len(text) < LINE_CHARACTERS:
        return text
    parts = (
        [f"{json.dumps(key)}: {_laid_out(part, depth + 1)}" for key, part in value.items()]
        if isinstance(value, dict)
        else [_laid_out(part, depth + 1) for part in value]
    )
    start, end = "{}" if isinstance(value, dict) else "[]"
    inner = ",\n".join("  " * (depth + 1) + part for part in parts)
    return f"{start}\n{inner}\n{'  ' * depth}{end}"


def main() -> None:
    """Write the schemas' files."""
    for name in SCHEMAS:
        (SCHEMA_DIRECTORY / f"{name}.schema.json").write_text(written(name), encoding="utf-8")


if __name__ == "__main__":
    main()
