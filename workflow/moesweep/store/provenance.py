"""What results are made from: the code of each stage, and what a costs file says of its inputs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

PACKAGE = Path(__file__).resolve().parents[1]

ENTRY = {
    "enumerate": "moesweep.study.sweep",
    "validate": "moesweep.study.validation",
    "trace": "moesweep.trace.files",
    "cost": "moesweep.cost.files",
    "tables": "moesweep.tables.files",
    "traffic": "moesweep.traffic.files",
    "figures": "moesweep.report.figures.files",
    "report": "moesweep.report.page",
    "manifest": "moesweep.archive.manifest",
}
"""The module behind each stage's command; all that it imports, directly or not, is the stage's code."""

COSTED_BY = ("trace", "cost")
"""The stages whose code decides a cost."""


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
    code       checksum of the code of each stage of COSTED_BY
    """

    cluster: str
    constants: dict[str, dict[str, Any]]
    code: dict[str, str]

    def value(self, constant: str) -> float | None:
        """Return a constant's value, None if there is none."""
        return self.constants.get(constant, {}).get("value")


def facts(cluster: str, constants: Mapping[str, Constant]) -> dict[str, str]:
    """Return what a costs file says of its inputs: the cluster, its constants, checksums of the code."""
    told = {
        name: {"value": constant.value, "tag": constant.tag, "file": constant.file}
        for name, constant in sorted(constants.items())
    }
    return {"cluster": cluster, "constants": json.dumps(told), "code": json.dumps(code_checksums())}


def inputs(metadata: dict[str, str]) -> Inputs:
    """Return the inputs that a costs file's metadata tell; empty where it tells none."""

    def told(key: str) -> Any:
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
    return Inputs(metadata.get("moesweep.cluster", ""), constants, told("code"))


def code_files(stage: str) -> list[str]:
    """Return a stage's source files, below the package: its entry's, what that imports, and the store's."""
    entries = (ENTRY[stage], "moesweep.store.tablefile")
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
