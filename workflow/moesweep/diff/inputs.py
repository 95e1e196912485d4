"""What costs are made from, as metadata of results/costs.parquet: written with the costs, read by `diff`."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesweep.catalog import Cluster

PACKAGE = Path(__file__).resolve().parents[1]
CODE = {
    "trace": ("trace", "parallelism.py", "workload.py", "expressions.py"),
    "cost": ("cost", "parallelism.py", "expressions.py"),
}
"""The parts of the code that decide a number: folders and files of the package, by layer."""


@dataclass(frozen=True)
class Inputs:
    """What costs were made from, as far as their file says.

    constants  value and tag of each constant, by name
    code       checksum of each layer's code
    """

    cluster: str
    constants: dict[str, dict[str, Any]]
    code: dict[str, str]

    def value(self, constant: str) -> float | None:
        """Return a constant's value, None if there is none."""
        return self.constants.get(constant, {}).get("value")


def facts(cluster: Cluster) -> dict[str, str]:
    """Return what a costs file says of its inputs: the cluster, its constants, checksums of the code."""
    constants = {
        name: {"value": constant.value, "tag": constant.tag, "file": constant.file}
        for name, constant in sorted(cluster.constants.items())
    }
    return {"cluster": cluster.name, "constants": json.dumps(constants), "code": json.dumps(code_checksums())}


def code_checksums() -> dict[str, str]:
    """Return the first 16 digits of the sha256 over each layer's source files."""
    return {layer: _checksum(_sources(parts)) for layer, parts in CODE.items()}


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


def _sources(parts: Iterable[str]) -> list[Path]:
    found = [PACKAGE / part for part in parts]
    return sorted(file for path in found for file in (path.rglob("*.py") if path.is_dir() else [path]))


def _checksum(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
