"""The workloads that a sweep file lists: points of its grids, and its rows, with the rules of ep applied."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from typing import Any

from moesweep.edge.problems import Problem, shown
from moesweep.edge.schema import load_schema

MAX_WORKLOADS = 100_000
_NEEDED = ("model", "world_size", "tp", "pp", "global_batch_size", "seq_length")


@dataclass(frozen=True)
class Entry:
    """One listed workload before it is resolved: its values, and where the sweep file says them.

    `path` is the grid or row, such as `grids[0]`; `own` are the keys given there, all others are from
    `options`.
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
    total = sum(prod(len(v) for v in item.values() if isinstance(v, list)) for item in listed.values())
    if total > MAX_WORKLOADS:
        message = f"the sweep lists {total} workloads; the limit is {MAX_WORKLOADS}"
        return [], [Problem(file, "grids", "sweep_size", str(total), message, "split the sweep")]
    defaults = {
        key: part["default"] for key, part in load_schema("sweep")["$defs"].items() if "default" in part
    }
    given = defaults | dict(options)
    problems: list[Problem] = []
    found: list[Entry] = []
    for path, item in listed.items():
        missing = [key for key in _NEEDED if key not in given | item]
        for key in missing:
            message = f"{key} is given neither here nor in options"
            problems.append(Problem(file, f"{path}.{key}", "missing_key", "", message, f"add {key}"))
        if not missing:
            found += _points(path, item, given, models, file, problems)
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
    keys = [key for key in load_schema("sweep")["$defs"] if key in values]
    for choice in product(*(value if isinstance(value := values[key], list) else [value] for key in keys)):
        point = dict(zip(keys, choice, strict=True))
        point = models[point["model"]] | point
        if point["etp"] == "tp":
            point["etp"] = point["tp"]
        if isinstance(point["global_batch_size"], dict):
            point["global_batch_size"] = point["global_batch_size"]["per_gpu"] * point["world_size"]
        # ep comes last: its rules depend on the other values.
        for ep in _expert_degrees(point, f"{path}.ep", file, problems):
            yield Entry(path, tuple(own), point | {"ep": ep})


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
