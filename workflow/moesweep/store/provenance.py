"""What results are made from: the code of each stage, and what a costs file says of its inputs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from moesweep.edge.paths import PACKAGE, SHIPPED
from moesweep.store.layout import TRACE_TABLES

ENTRY = {
    "enumerate": "moesweep.study.sweep",
    "validate": "moesweep.study.validation",
    "trace": "moesweep.trace.files",
    "cost": "moesweep.evaluate.files",
    "tables": "moesweep.tables.files",
    "traffic": "moesweep.traffic.files",
    "network": "moesweep.topologies.files",
    "figures": "moesweep.report.figures.files",
    "report": "moesweep.report.page",
    "manifest": "moesweep.archive.manifest",
}
"""The module behind each stage's command; all that it imports, directly or not, is the stage's code."""

COSTED_BY = ("trace", "cost")
"""The stages whose code decides a cost."""

DICTIONARIES = {
    "enumerate": ("workloads",),
    "validate": ("validation",),
    "trace": (*TRACE_TABLES, "given_routing"),
    "cost": ("cost_ops", "costs", "distinct_ops", "sensitivity"),
    "traffic": ("traffic", "links"),
    "network": ("topologies",),
}
"""The column dictionaries that a stage writes by; all others, but those of COMMANDS, are of the tables."""

COMMANDS = (
    *("runs", "unrolled", "screen"),
    *("network_kinds", "network_links", "network_loads", "network_demand", "nic_need"),
)
"""The dictionaries that only commands outside of the workflow read or write by."""

LIBRARIES = ("numpy", "pint", "polars", "pyyaml")
"""What every stage computes and writes with: another version may change a byte of any result."""

DRAWING = ("jinja2", "matplotlib")
"""What figures and page are made with besides."""

WRITTEN = {"report": ((PACKAGE, "report/templates/*"), (SHIPPED, "workflow/report/figures/*.rst"))}
"""What a stage is made from besides code: folders, and patterns of the files in them."""


class Constant(Protocol):
    """A constant of a cluster, as far as a costs file tells it."""

    @property
    def value(self) -> float:
        """Its value in base units."""

    @property
    def tag(self) -> str:
        """How well it is known."""

    @property
    def file(self) -> str:
        """The file that gives it."""


@dataclass(frozen=True)
class Inputs:
    """What costs were made from, as far as their file says.

    constants  value and tag of each constant, by name
    network    the cluster's network as its file describes it; empty where it tells none
    code       checksum of the code of each stage of COSTED_BY
    """

    cluster: str
    constants: dict[str, dict[str, Any]]
    code: dict[str, str]
    network: dict[str, Any] = field(default_factory=dict)

    def value(self, constant: str) -> float | None:
        """Return a constant's value, None if there is none."""
        return self.constants.get(constant, {}).get("value")


def facts(cluster: str, constants: Mapping[str, Constant], network: Mapping[str, Any]) -> dict[str, str]:
    """Return what a costs file says of its inputs: the cluster, constants, network, checksums of the code."""
    told = {
        name: {"value": constant.value, "tag": constant.tag, "file": constant.file}
        for name, constant in sorted(constants.items())
    }
    return {
        "cluster": cluster,
        "constants": json.dumps(told),
        "network": json.dumps(network),
        "code": json.dumps(code_checksums()),
    }


def inputs(metadata: dict[str, str]) -> Inputs:
    """Return the inputs that a costs file's metadata tell; empty where it tells none."""

    def told(key: str) -> Any:
        """Return what a key of the metadata says; nothing where that is no mapping."""
        try:
            found = json.loads(metadata.get(f"moesweep.{key}", "{}"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    constants = {
        name: entry
        for name, entry in told("constants").items()
        if isinstance(entry, dict) and type(entry.get("value")) in (int, float)
    }
    return Inputs(metadata.get("moesweep.cluster", ""), constants, told("code"), told("network"))


def code_files(stage: str) -> list[str]:
    """Return a stage's source files, below the package: its entry's, what that imports, and the store's."""
    entries = (ENTRY.get(stage, stage), "moesweep.store.tablefile")
    modules = {*entries, *(found for entry in entries for found in _imports().find_upstream_modules(entry))}
    return sorted(_file(module) for module in modules)


@cache
def code_checksum(stage: str) -> str:
    """Return the first 16 digits of the sha256 over a stage's source files."""
    digest = hashlib.sha256()
    for file in code_files(stage):
        digest.update(f"{file}\n".encode())
        digest.update((PACKAGE / file).read_bytes())
    return digest.hexdigest()[:16]


def dictionaries(stage: str) -> list[str]:
    """Return the names of the column dictionaries that a stage writes by."""
    if stage != "tables":
        return list(DICTIONARIES.get(stage, ()))
    # The catalogue is also one of the tables.
    others = {name for names in DICTIONARIES.values() for name in names}.union(COMMANDS) - {"workloads"}
    return sorted({file.stem for file in (SHIPPED / "schemas/tables").glob("*.json")} - others)


def sources() -> dict[str, Path]:
    """Return the code and column dictionaries that make the results: name in a checkout to file."""
    stages = [stage for stage in ENTRY if stage != "manifest"]
    code = {file for stage in stages for file in code_files(stage)}
    declared = {f"schemas/tables/{name}.json" for stage in stages for name in dictionaries(stage)}
    declared.add("schemas/words.json")
    return {f"workflow/moesweep/{file}": PACKAGE / file for file in sorted(code)} | {
        name: SHIPPED / name for name in sorted(declared)
    }


@cache
def code_digest(stage: str) -> str:
    """Return a digest of all that makes a stage's results but its inputs.

    Its code (`code_checksum`), its column dictionaries, what else is WRITTEN, and the versions of libraries.
    """
    libraries = (*LIBRARIES, *(DRAWING if stage in ("figures", "report") else ()))
    files = [SHIPPED / f"schemas/tables/{name}.json" for name in dictionaries(stage)]
    for folder, pattern in WRITTEN.get(stage, ()):
        files += sorted(folder.glob(pattern))
    files.append(SHIPPED / "schemas/words.json")
    digest = hashlib.sha256(code_checksum(stage).encode())
    for library in libraries:
        digest.update(f"{library} {version(library)}\n".encode())
    for file in files:
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def code_checksums() -> dict[str, str]:
    """Return the checksum of each stage whose code decides a cost."""
    return {stage: code_checksum(stage) for stage in COSTED_BY}


@cache
def _imports() -> Any:
    # Imported here: most commands never ask.
    import grimp

    return grimp.build_graph("moesweep", cache_dir=None)


def _file(module: str) -> str:
    path = Path(*module.split(".")[1:])
    return str(path / "__init__.py" if (PACKAGE / path).is_dir() else path.with_suffix(".py"))
