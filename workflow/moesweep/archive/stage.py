"""The workflow's last stage: results/manifest.json."""

from collections.abc import Iterable
from typing import Any

from moesweep.archive.manifest import Manifest, entries
from moesweep.layout import Results
from moesweep.tablefile import whole


def write_manifest(results: Results, paths: Iterable[str], origin: dict[str, Any]) -> None:
    """Write the manifest of the files `paths` (from the results folder) of a finished sweep."""
    manifest = Manifest(origin, entries(results.root, paths))
    with whole(results.manifest) as partial:
        partial.write_bytes(manifest.encoded())
