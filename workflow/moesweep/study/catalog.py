"""The catalogue: models, GPUs and clusters, each a YAML file under config/; what clusters are made of.

What a project does not have itself is taken from what comes with the code: a study needs only its own.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesweep.edge.paths import SHIPPED, provided
from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
from moesweep.edge.quantities import QuantityError, parse_quantity
from moesweep.edge.schema import check, place
from moesweep.edge.yaml_reader import read_yaml

CALIBRATION_FILE = "config/calibration.yaml"

_UNIT_OF_SUFFIX = {
    "_bytes_per_second": "byte/second",
    "_flops_per_second": "flop/second",
    "_seconds": "second",
    "_bytes": "byte",
}


@dataclass(frozen=True)
class Constant:
    """One constant in base units, with where it is from: `file` gives it, `source` justifies it.

    `tag` is measured, paper or assumed; `low` and `high` are the least and greatest physically sensible
    values.
    """

    value: float
    unit: str
    tag: str
    source: str
    low: float
    high: float
    file: str


@dataclass(frozen=True)
class Cluster:
    """A cluster with all its constants: its own, its GPU's and the calibration's, by name."""

    name: str
    gpu: str
    constants: dict[str, Constant]

    @property
    def values(self) -> dict[str, float]:
        """Every constant's value in base units."""
        return {name: constant.value for name, constant in self.constants.items()}

    def value(self, constant: str) -> float:
        """A constant's value in base units."""
        return self.constants[constant].value


def unit_of(constant: str) -> str:
    """The base unit a constant's name asks for; empty for a plain number."""
    return next((unit for suffix, unit in _UNIT_OF_SUFFIX.items() if constant.endswith(suffix)), "")


def in_project(root: Path) -> None:
    """Raise BadInput if `root` lies below a project and is none itself: it would be read for another one."""
    if (root / "config").is_dir():
        return
    above = (folder for folder in root.absolute().parents if (folder / "config/config.yaml").is_file())
    if project := next(above, None):
        advice = f"run it in the project's root, {project}"
        message = "there is no such folder here"
        raise BadInput([Problem("config", "", "project_root", str(root), message, advice)])


def load_cluster(root: Path, name: str, mention: tuple[str, str] | None = None) -> Cluster:
    """A cluster with the constants of its own file, of its GPU's file and of config/calibration.yaml.

    `mention` says where the name stands, file and path, if in a file: an unknown name is placed there.
    Raises BadInput with every fault of the three files: schema, units, bounds, a constant given twice,
    unknown or missing (`$defs/constants` of schemas/cluster.schema.json lists the constants needed).
    """
    in_project(root)
    file = f"config/clusters/{name}.yaml"
    data, problems = read_named(root, "cluster", name, mention)
    gpu = data.get("gpu") if isinstance(data, dict) else None
    parts = [(file, data)]
    if isinstance(gpu, str) and not any(problem.path == "gpu" for problem in problems):
        gpu_data, more = read_named(root, "gpu", gpu, (file, "gpu"))
        problems += more
        parts.append((f"config/gpus/{gpu}.yaml", gpu_data))
    calibration, more = _read(root, CALIBRATION_FILE, "calibration")
    problems += more
    parts.append((CALIBRATION_FILE, calibration))
    if problems:
        raise BadInput(problems)
    return Cluster(name, str(gpu), _merged(parts, file))


def _read(root: Path, file: str, schema: str) -> tuple[Any, list[Problem]]:
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
    return _read(root, file, kind)


def _merged(parts: list[tuple[str, Any]], cluster_file: str) -> dict[str, Constant]:
    """The constants of several files as one mapping; raises BadInput."""
    constants: dict[str, Constant] = {}
    problems: list[Problem] = []
    for file, data in parts:
        for name, entry in data["constants"].items():
            path = place("constants", [name])
            if name in constants:
                message = f"{name} is also given in {constants[name].file}"
                problems.append(Problem(file, path, "given_twice", name, message, "keep one of them"))
                continue
            constant, faults = read_constant(name, entry, file)
            problems += faults
            if constant is not None:
                constants[name] = constant
    values = {name: constant.value for name, constant in constants.items()}
    for problem in check(values, "cluster", cluster_file, key="constants", prefix="constants"):
        name = problem.path.removeprefix("constants.")
        faulty = any(known.path.split(".")[1:2] == [name] for known in problems)
        if not faulty:
            file = constants[name].file if name in constants else cluster_file
            problems.append(replace(problem, file=file))
    if problems:
        raise BadInput(problems)
    return constants


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
