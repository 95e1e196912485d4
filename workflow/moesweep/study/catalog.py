"""The catalogue: models, GPUs and clusters, each a YAML file under config/; what clusters are made of.

What a project does not have itself is taken from what comes with the code: a study needs only its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesweep.edge.paths import SHIPPED, provided
from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
from moesweep.edge.quantities import QuantityError, parse_quantity
from moesweep.edge.schema import check, definition, place
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
    Raises BadInput with every fault of the three files: schema, units, bounds, a constant unknown, missing,
    or given where it may not be (`$defs/constants` of schemas/cluster.schema.json lists those needed, and
    whose they are).
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
    constants = _merged(parts, file)
    if gpu not in calibration["measured_on"]:
        constants = {name: _scaled(constant) for name, constant in constants.items()}
    return Cluster(name, str(gpu), constants)


def _scaled(constant: Constant) -> Constant:
    """A constant as one of a GPU on which the calibration's were not measured."""
    if constant.file != CALIBRATION_FILE or constant.tag != "measured":
        return constant
    return replace(constant, tag="scaled", source=f"the same as on an A100: {constant.source}")


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
    """The constants of a cluster's file, its GPU's and the calibration, as one mapping; raises BadInput.

    The more particular file goes before the others. Whose a constant is (`x-of` of the schema) says which may
    give it.
    """
    constants: dict[str, Constant] = {}
    files = dict(zip((CLUSTER, GPU, CALIBRATION), (file for file, _ in parts), strict=True))
    given = {kind: data["constants"] for kind, (_, data) in zip(files, parts, strict=True)}
    problems = _misplaced(given, files)
    for kind, entries in reversed(given.items()):
        for name, entry in entries.items():
            constant, faults = read_constant(name, entry, files[kind])
            problems += faults
            if constant is not None:
                constants[name] = constant
    values = {name: constant.value for name, constant in constants.items()}
    for problem in check(values, "cluster", cluster_file, key="constants", prefix="constants"):
        name = problem.path.removeprefix("constants.")
        faulty = any(known.path.split(".")[1:2] == [name] for known in problems)
        if not faulty:
            file = constants[name].file if name in constants else files[_owners(name)[0]]
            problems.append(replace(problem, file=file))
    if problems:
        raise BadInput(problems)
    return constants


CLUSTER, GPU, CALIBRATION = "cluster", "gpu", "calibration"
_MAY_GIVE = {
    "gpu": (GPU,),
    "cluster": (CLUSTER,),
    "node": (CLUSTER, GPU),
    "calibration": (CALIBRATION, GPU, CLUSTER),
}
"""Which files may give a constant, by whose it is; of the first it is missing where none gives it."""


def _owners(constant: str) -> tuple[str, ...]:
    """The files that may give a constant; of an unknown one any."""
    known = definition("cluster", "constants")["properties"].get(constant, {"x-of": "calibration"})
    return _MAY_GIVE[known["x-of"]]


def _misplaced(given: Mapping[str, Mapping[str, Any]], files: Mapping[str, str]) -> list[Problem]:
    """Constants that a file gives which may not, or of the calibration's that two other files both give."""
    problems = []
    for kind, entries in given.items():
        for name in entries:
            owners, path = _owners(name), place("constants", [name])
            others = [files[other] for other in given if other != kind and name in given[other]]
            if kind not in owners:
                where = f"it is also given in {others[0]}" if others else f"it belongs in {files[owners[0]]}"
                rule = "given_twice" if others else "wrong_file"
                message = f"{name} is none of a {kind}'s constants: {where}"
                problems.append(Problem(files[kind], path, rule, name, message, "remove it here"))
            elif kind == GPU and CALIBRATION in owners and name in given[CLUSTER]:
                message = f"{name} is also given in {files[CLUSTER]}"
                problems.append(Problem(files[GPU], path, "given_twice", name, message, "keep one of them"))
    return problems


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
