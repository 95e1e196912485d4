"""The catalogue's clusters: each put together from its file, its GPU's, the calibration and its network's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesweep.edge.problems import BadInput, Problem, collect, shown
from moesweep.edge.quantities import QuantityError, parse_quantity
from moesweep.edge.schema import check, definition, place
from moesweep.study.catalog_files import Constant, read_constant, read_entry, read_named
from moesweep.study.networks import DEFAULT_NETWORK, Network, load_network

CALIBRATION_FILE = "config/calibration.yaml"


@dataclass(frozen=True)
class Cluster:
    """A cluster with all constants by name, its own, its GPU's and the calibration's; and its network."""

    name: str
    gpu: str
    constants: dict[str, Constant]
    network: Network

    @property
    def values(self) -> dict[str, float]:
        """Every constant's value in base units."""
        return {name: constant.value for name, constant in self.constants.items()}

    def value(self, constant: str) -> float:
        """A constant's value in base units."""
        return self.constants[constant].value

    def on(self, network: Network) -> "Cluster":
        """Return the cluster with another network, whose islands, if it says of how many GPUs, are nodes."""
        if network.island_gpus is None:
            return replace(self, network=network)
        node = replace(self.constants["gpus_per_node"], value=float(network.island_gpus), file=network.file)
        return replace(self, network=network, constants=self.constants | {"gpus_per_node": node})


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

    Its network is of the catalogue, DEFAULT_NETWORK unless its file names another; islands are its nodes.

    `mention` says where the name stands, file and path, if in a file: an unknown name is placed there.
    Raises BadInput with every fault of the three files: schema, units, bounds, a constant unknown, missing,
    or given where it may not be (`$defs/constants` of schemas/cluster.schema.json lists those needed, and
    whose they are); and those of its network.
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
    calibration, more = read_entry(root, CALIBRATION_FILE, "calibration")
    problems += more
    parts.append((CALIBRATION_FILE, calibration))
    network_name = data.get("network", DEFAULT_NETWORK) if isinstance(data, dict) else DEFAULT_NETWORK
    network = collect(problems, load_network, root, network_name, (file, "network"))
    if problems or network is None:
        raise BadInput(problems)
    constants = _merged(parts, file)
    if gpu not in calibration["measured_on"]:
        constants = {name: _scaled(constant) for name, constant in constants.items()}
    cluster = Cluster(name, str(gpu), constants, network)
    node = int(cluster.value("gpus_per_node"))
    if network.island_gpus not in (None, node):
        message = f"its islands of {network.island_gpus} GPUs are not the cluster's nodes of {node}"
        advice = f"nearest: an own network with island_gpus: {node}"
        raise BadInput([Problem(file, "network", "islands", network.name, message, advice)])
    return cluster


def _scaled(constant: Constant) -> Constant:
    """A constant as one of a GPU on which the calibration's were not measured."""
    if constant.file != CALIBRATION_FILE or constant.tag != "measured":
        return constant
    return replace(constant, tag="scaled", source=f"the same as on an A100: {constant.source}")


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


def with_memory(cluster: Cluster, size: str) -> Cluster:
    """Return a cluster whose GPUs have so much memory; raise BadInput for what leaves a model none."""
    try:
        amount = parse_quantity(size, "byte")
    except QuantityError as error:
        raise BadInput(
            [Problem("", "--memory", "quantity", shown(size), error.message, error.suggestion)]
        ) from None
    reserved = cluster.value("reserved_hbm_bytes")
    if amount <= reserved:
        message = f"{shown(size)} is not more than the {reserved / 2**30:g} GiB that the framework reserves"
        raise BadInput([Problem("", "--memory", "range", shown(size), message, "such as 40GiB")])
    memory = replace(cluster.constants["hbm_bytes"], value=amount)
    return replace(cluster, constants=cluster.constants | {"hbm_bytes": memory})
