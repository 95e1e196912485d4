"""A second opinion on spaces: every point by itself, in a loop, its rules asked one workload at a time."""

from collections.abc import Iterator
from itertools import product
from math import gcd
from typing import Any

from moesweep.study.keys import KEYS
from moesweep.study.rules import RULES
from moesweep.study.validation import findings
from moesweep.study.workload import resolve

DEFAULTS = {key.name: key.default for key in KEYS.values() if isinstance(key.default, bool | int | str)}


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def values(key: str, given: Any, everything: dict[str, list[Any]]) -> list[Any]:
    """The values that a grid gives a key; `everything` has the values of the columns that `all` divides."""
    if given == "all":
        numbers = everything[KEYS[key].divides]
        return sorted({d for number in numbers for d in divisors(number)})
    if isinstance(given, dict) and "from" in given:
        found, value = [], given["from"]
        while value <= given["to"]:
            found.append(value)
            value = value * given["times"] if "times" in given else value + given["step"]
        return found
    return given if isinstance(given, list) else [given]


def points(grid: dict[str, Any], options: dict[str, Any], model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every distinct point of a grid with its columns; ep is a number or None."""
    said = options | grid
    everything: dict[str, list[Any]] = {}
    for column in ("world_size", "num_experts", "num_layers", "global_batch_size"):
        everything[column] = values(column, said.get(column, model.get(column)), {})
    axes = {key: values(key, value, everything) for key, value in said.items() if key in KEYS}
    before: list[dict[str, Any]] = []
    for choice in product(*axes.values()):
        point = DEFAULTS | model | dict(zip(axes, choice, strict=True))
        if point["etp"] == "tp":
            point["etp"] = point["tp"]
        if isinstance(point["global_batch_size"], dict):
            point["global_batch_size"] = point["global_batch_size"]["per_gpu"] * point["world_size"]
        if point["ep"] == "largest":
            unit = point["tp"] * point["pp"]
            whole = point["world_size"] // unit
            fits = point["world_size"] % unit == 0
            point["ep"] = gcd(point["num_experts"], whole) if fits else None
            if fits and not point["num_experts"]:
                point["ep"] = 1
        if point not in before:
            before.append(point)
            yield point


def judged(point: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """A legal point's workload, or the first rule that it breaks."""
    if point["ep"] is None:
        return None, "ep_rule"
    frame = resolve([point])
    errors = set(findings(frame).filter(severity="error")["rule"])
    broken = [rule.name for rule in RULES if rule.name in errors]
    return (None, broken[0]) if broken else (frame.row(0, named=True), "")
