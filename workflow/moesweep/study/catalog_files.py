"""Files of the catalogue: an entry by its name, and the constants in it.

What a project does not have itself is taken from what comes with the code: a study needs only its own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesweep.edge.paths import SHIPPED, provided
from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
from moesweep.edge.quantities import QuantityError, parse_quantity
from moesweep.edge.schema import check, place
from moesweep.edge.yaml_reader import read_yaml

_UNIT_OF_SUFFIX = {
    "_bytes_per_second": "byte/second",
    "_flops_per_second": "flop/second",
    "_seconds": "second",
    "_bytes": "byte",
}


@dataclass(frozen=True)
class Constant:
    """One constant in base units, with where it is from: `file` gives it, `source` justifies it.

    `tag` is measured, paper, scaled or assumed; `low` and `high` are the least and greatest physically
    sensible values.
    """

    value: float
    unit: str
    tag: str
    source: str
    low: float
    high: float
    file: str


def unit_of(constant: str) -> str:
    """The base unit a constant's name asks for; empty for a plain number."""
    return next((unit for suffix, unit in _UNIT_OF_SUFFIX.items() if constant.endswith(suffix)), "")


def read_entry(root: Path, file: str, schema: str) -> tuple[Any, list[Problem]]:
    """A file's data with its problems; the data are None where the file cannot be read."""
    try:
        data = read_yaml(provided(root, file), file)
    except BadInput as bad:
        return None, bad.problems
    return data, check(data, schema, file)


def catalogued(root: Path, kind: str) -> list[str]:
    """Return the names of a kind's entries, in order: a study's own, and those that come with the code."""
    folders = (root / f"config/{kind}s", SHIPPED / f"config/{kind}s")
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def read_named(
    root: Path, kind: str, name: str, mention: tuple[str, str] | None = None
) -> tuple[Any, list[Problem]]:
    """The entry config/<kind>s/<name>.yaml. A name is only ever compared with the names there are."""
    known = catalogued(root, kind)
    file = f"config/{kind}s/{name}.yaml"
    if name not in known:
        message = f"there is no {kind} {shown(name)} in config/{kind}s"
        place_ = mention or (file, "")
        return None, [Problem(*place_, f"unknown_{kind}", name, message, did_you_mean(name, known))]
    return read_entry(root, file, kind)


def read_constant(name: str, entry: dict[str, Any], file: str) -> tuple[Constant | None, list[Problem]]:
    """One constant with its value and bounds in base units, or what is wrong with it."""
    path = place("constants", [name])
    problems = []
    amounts = []
    low, high = entry["bounds"]
    for part, value in (("value", entry["value"]), ("bounds[0]", low), ("bounds[1]", high)):
        try:
            amounts.append(parse_quantity(value, unit_of(name)))
        except QuantityError as error:
            problems.append(
                Problem(file, f"{path}.{part}", "quantity", shown(value), error.message, error.suggestion)
            )
    if problems:
        return None, problems
    if not amounts[1] <= amounts[0] <= amounts[2]:
        message = f"{shown(entry['value'])} is not between its bounds {shown(low)} and {shown(high)}"
        advice = f"nearest: {low if amounts[0] < amounts[1] else high}"
        return None, [Problem(file, f"{path}.value", "bounds", shown(entry["value"]), message, advice)]
    return Constant(
        amounts[0], unit_of(name), entry["tag"], entry["source"], amounts[1], amounts[2], file
    ), []
