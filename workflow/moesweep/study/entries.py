"""The workloads that a sweep file lists: points of its grids, and its rows, with the rules of ep applied."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from typing import Any

import polars as pl

from moesweep.edge.problems import Problem, shown
from moesweep.study.ids import OF_OPTIONS
from moesweep.study.keys import KEYS, NEEDED, WORDED

MAX_WORKLOADS = 100_000
_DEFAULTS: Mapping[str, Any] = {
    key.name: key.default
    for key in KEYS.values()
    if key.default is not NEEDED and not isinstance(key.default, pl.Expr)
}
_NEEDED = ("model", "world_size", "tp", "pp", "global_batch_size", "seq_length")


@dataclass(frozen=True)
class Entry:
    """One listed workload before it is resolved: its values, and where the sweep file says them.

    `path` is the grid or row, such as `grids[0]`; `own` are the keys given there, all others are from
    `options`, the model or defaults. Beside its own options, columns OF_OPTIONS have what those would say.
    """

    path: str
    own: tuple[str, ...]
    values: dict[str, Any]


def items(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The grids and rows of a sweep by their path, such as `grids[0]`, in order."""
    return {f"{part}[{i}]": item for part in ("grids", "rows") for i, item in enumerate(data.get(part, []))}


def entries(
    listed: Mapping[str, dict[str, Any]],
    options: Mapping[str, Any],
    models: Mapping[str, dict[str, Any]],
    file: str,
) -> tuple[list[Entry], list[Problem]]:
    """Every workload of some `items`, in order, and what is wrong with those that cannot be resolved."""
    total = sum(prod(len(_axis(key, value)) for key, value in item.items()) for item in listed.values())
    if total > MAX_WORKLOADS:
        message = f"the sweep lists {total} workloads; the limit is {MAX_WORKLOADS}"
        return [], [Problem(file, "grids", "sweep_size", str(total), message, "split the sweep")]
    problems: list[Problem] = []
    found: list[Entry] = []
    for path, item in listed.items():
        missing = [key for key in _NEEDED if key not in {**options, **item}]
        for key in missing:
            message = f"{key} is given neither here nor in options"
            problems.append(Problem(file, f"{path}.{key}", "missing_key", "", message, f"add {key}"))
        if not missing:
            found += _points(path, item, options, models, file, problems)
    return found, list(dict.fromkeys(problems))


def _points(
    path: str,
    own: Mapping[str, Any],
    options: Mapping[str, Any],
    models: Mapping[str, dict[str, Any]],
    file: str,
    problems: list[Problem],
) -> Iterator[Entry]:
    """The workloads of one grid or row: the product of its lists, the schema's first key varying slowest."""
    values = {**options, **own}
    axes = {key: _axis(key, values[key]) for key in KEYS if key in values}
    said = [key.name for key in WORDED if key.name in own]
    for choice in product(*axes.values()):
        point = dict(zip(axes, choice, strict=True))
        base = {**_DEFAULTS, **models[point["model"]], **options}
        point = _resolved({**base, **point})
        base = _resolved({**base, "tp": point["tp"], "world_size": point["world_size"]})
        point |= {key + OF_OPTIONS: base.get(key) for key in said}
        # ep comes last: its rules depend on the other values.
        for ep in _expert_degrees(point, f"{path}.ep", file, problems):
            yield Entry(path, tuple(own), point | {"ep": ep})


def _axis(key: str, value: Any) -> list[Any]:
    """The values of a key that a part of a sweep gives: several in a list, or a list of lists."""
    several = isinstance(value, list)
    if KEYS[key].takes_lists:
        several = several and any(isinstance(item, list) for item in value)
    return value if several else [value]


def _resolved(point: dict[str, Any]) -> dict[str, Any]:
    """The values of a point as columns have them; ep is left as it is given."""
    point = {key: text(value) if (text := KEYS[key].text) else value for key, value in point.items()}
    if point["etp"] == "tp":
        point["etp"] = point["tp"]
    if isinstance(point.get("global_batch_size"), dict):
        point["global_batch_size"] = point["global_batch_size"]["per_gpu"] * point["world_size"]
    return point


def _expert_degrees(point: Mapping[str, Any], path: str, file: str, problems: list[Problem]) -> list[int]:
    """Values of ep at one point: as given, or gcd(num_experts, world_size / (q * pp)) for each named q."""
    ep = point["ep"]
    if isinstance(ep, int):
        return [ep]
    degrees = []
    for q in [point["tp"]] if ep == "largest" else ep["largest_for_tp"]:
        whole, remainder = divmod(point["world_size"], q * point["pp"])
        if remainder:
            message = f"world_size {point['world_size']} is not a multiple of tp {q} * pp {point['pp']}"
            problems.append(Problem(file, path, "ep_rule", shown(ep), f"no largest ep: {message}"))
        else:
            degrees.append(gcd(point["num_experts"], whole) if point["num_experts"] else 1)
    return list(dict.fromkeys(degrees))
