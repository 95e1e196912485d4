"""The catalogue's networks, config/networks/<name>.yaml, and what their parts cost and delay."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from moesweep.edge.paths import provided
from moesweep.edge.problems import BadInput, Problem, did_you_mean
from moesweep.edge.schema import check, definition
from moesweep.edge.yaml_reader import read_yaml
from moesweep.study.catalog_files import Constant, read_constant, read_named

PARTS_FILE = "config/network_parts.yaml"
DEFAULT_NETWORK = "non-blocking"

ROUTINGS: dict[str, tuple[str, ...]] = {
    "non_blocking": (),
    "leaf_spine": ("up_down", "hashed"),
    "fat_tree": ("up_down", "hashed"),
    "rail": ("up_down", "hashed"),
    "rail_only": ("up_down", "hashed"),
    "dragonfly": ("minimal", "valiant"),
    "dragonfly_plus": ("minimal", "valiant"),
    "hyperx": ("dimension_order", "valiant"),
    "torus": ("dimension_order", "valiant"),
    "graph": ("ecmp",),
}
"""The routing rules of each topology, its default first."""

RAILED = ("rail", "rail_only", "graph")
"""Topologies that PXN changes; lattices of rails always use it."""


@dataclass(frozen=True)
class Network:
    """A network of the catalogue, checked by itself: what it is, not yet for how many GPUs.

    shape                    its numbers (schemas/network.schema.json, `$defs`), defaults filled in
    pxn                      whether bytes for another rail cross NVLink first
    island_gpus, gpus        None for a node's of the cluster, and for those of the workload
    link_bytes_per_second    of links between switches; None for a card's
    file                     where it stands, as problems show it
    """

    name: str
    topology: str
    routing: str = ""
    pxn: bool = False
    queue_pairs: int = 1
    island_gpus: int | None = None
    gpus: int | None = None
    shape: Mapping[str, Any] = field(default_factory=dict)
    link_bytes_per_second: float | None = None
    file: str = field(default="", compare=False)
    description: str = field(default="", compare=False)

    @property
    def blocks(self) -> bool:
        """Whether it may slow anything down."""
        return self.topology != "non_blocking"

    @property
    def graphs(self) -> list[str]:
        """The file of the graph that it is imported from, if it is."""
        return [self.shape["file"]] if self.topology == "graph" else []

    def numbers(self, root: Path = Path()) -> dict[str, Any]:
        """Return all that slowdowns follow from: what is compared, and the texts of graphs, from `root`.

        A graph that is not there, which whoever builds the network is told, has no text.
        """
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.compare}
        graphs = [root / file for file in self.graphs]
        texts = [file.read_text("utf-8", "replace") if file.is_file() else "" for file in graphs]
        return own | {"graphs": texts}


NON_BLOCKING = Network(DEFAULT_NETWORK, "non_blocking", file=f"config/networks/{DEFAULT_NETWORK}.yaml")
"""What costs assume of a cluster that names no network, and what older costs have assumed."""


def load_network(root: Path, name: str, mention: tuple[str, str] | None = None) -> Network:
    """Return a network of the catalogue. Raises BadInput with all of its faults.

    `mention` says where the name stands, file and path: an unknown name is placed there.
    """
    data, problems = read_named(root, "network", name, mention)
    if problems:
        raise BadInput(problems)
    return network_of(name, data, f"config/networks/{name}.yaml")


def read_network(path: Path, name: str) -> Network:
    """Return the network that a user's own YAML file describes. Raises BadInput with all of its faults."""
    data = read_yaml(path, name)
    problems = check(data, "network", name)
    if problems:
        raise BadInput(problems)
    return network_of(path.stem, data, name)


def named_network(root: Path, text: str, mention: tuple[str, str]) -> Network:
    """Return the network that a user names: of the catalogue, or in a YAML file. Raises BadInput."""
    return (
        read_network(Path(text), text)
        if text.endswith((".yaml", ".yml"))
        else load_network(root, text, mention)
    )


def network_of(name: str, data: Mapping[str, Any], file: str) -> Network:
    """Return the network that checked data describe. Raises BadInput."""
    topology, given = data["topology"], dict(data.get("shape", {}))
    routings = ROUTINGS[topology]
    routing = data.get("routing", routings[0] if routings else "")
    problems = check(given, "network", file, key=topology, prefix="shape")
    problems += _routing_problems(file, topology, routing, data)
    rate = None
    for key, entry in data.get("constants", {}).items():
        constant, faults = read_constant(key, entry, file)
        problems += faults
        rate = constant.value if constant is not None else None
        if rate == 0:
            message = "a link of 0 bytes a second carries nothing"
            place = f"constants.{key}.value"
            problems.append(Problem(file, place, "positive", entry["value"], message, "such as 200 Gbit/s"))
    if problems:
        raise BadInput(problems)
    defaults = {
        key: part["default"]
        for key, part in definition("network", topology)["properties"].items()
        if "default" in part
    }
    shape = defaults | given
    always = topology == "rail_only" or shape.get("vertices") == "rail"
    return Network(
        name,
        topology,
        routing,
        always or data.get("pxn", False),
        data.get("queue_pairs", 1),
        data.get("island_gpus"),
        data.get("gpus"),
        shape,
        rate,
        file,
        data["description"],
    )


def _routing_problems(file: str, topology: str, routing: str, data: Mapping[str, Any]) -> list[Problem]:
    """Return routing that the topology does not have, and options that would have no effect."""
    problems, known = [], ROUTINGS[topology]
    if "routing" in data and routing not in known:
        message = f"a network of topology {topology} has no routing {routing}"
        problems.append(Problem(file, "routing", "routing", routing, message, did_you_mean(routing, known)))
    if "queue_pairs" in data and routing != "hashed":
        message = "queue pairs matter where flows are hashed"
        problems.append(
            Problem(file, "queue_pairs", "no_effect", str(data["queue_pairs"]), message, "leave it out")
        )
    if "pxn" in data and topology not in RAILED:
        message = f"a network of topology {topology} has no rails to keep to"
        problems.append(Problem(file, "pxn", "no_effect", "", message, "leave it out"))
    if data.get("pxn") is False and topology == "rail_only":
        message = "nothing joins rails but NVLink: bytes for another rail have to cross it"
        problems.append(Problem(file, "pxn", "needs_pxn", "false", message, "write true, or leave it out"))
    if "shape" in data and topology in ("hyperx", "torus"):
        problems += _lattice_problems(file, data["shape"])
    return problems


def _lattice_problems(file: str, shape: Mapping[str, Any]) -> list[Problem]:
    problems = []
    both = "dimensions" in shape and "sides" in shape
    if both:
        message = "sides say how many dimensions there are"
        problems.append(
            Problem(file, "shape.dimensions", "no_effect", str(shape["dimensions"]), message, "leave it out")
        )
    if ("switch_gpus" in shape) != (shape.get("vertices") == "switch"):
        message = "vertices of GPUs have no switches"
        advice = "leave it out, or write vertices: switch"
        if "switch_gpus" not in shape:
            message, advice = "vertices are switches: how many GPUs each has is missing", "add switch_gpus"
        problems.append(Problem(file, "shape.switch_gpus", "vertices", "", message, advice))
    return problems


def load_parts(root: Path) -> dict[str, Constant]:
    """Return what parts of networks cost and delay, by name. Raises BadInput."""
    data = read_yaml(provided(root, PARTS_FILE), PARTS_FILE)
    problems = check(data, "network_parts", PARTS_FILE)
    if problems:
        raise BadInput(problems)
    constants: dict[str, Constant] = {}
    for name, entry in data["constants"].items():
        constant, faults = read_constant(name, entry, PARTS_FILE)
        problems += faults
        if constant is not None:
            constants[name] = constant
    values = {name: constant.value for name, constant in constants.items()}
    if not problems:
        problems = check(values, "network_parts", PARTS_FILE, key="constants", prefix="constants")
    if problems:
        raise BadInput(problems)
    return constants
