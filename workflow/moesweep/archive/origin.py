"""What results are made from: the code, the versions of what runs it, and the resolved configuration.

Nothing else goes into a manifest: no time, host, user or absolute path. Equal inputs make equal manifests.
"""

import hashlib
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moesweep import __version__
from moesweep.archive.content import checksum
from moesweep.edge.paths import SHIPPED, provided
from moesweep.study.catalog import Cluster
from moesweep.study.models import load_model

PACKAGES = ("polars", "pyarrow", "snakemake")
"""The packages whose version can change a byte of the results."""

_GIT = ("git", "-c", "core.fsmonitor=false", "--no-optional-locks")


def origin(
    root: Path,
    config: Mapping[str, Any],
    cluster: Cluster,
    models: Iterable[str],
    files: Iterable[str],
    sources: Mapping[str, Path],
) -> dict[str, Any]:
    """Return the manifest's code, environment and config.

    config   the workflow's settings; `files` are all configuration files it leads to, from `root`
    sources  the code that made the results: path in a checkout to file
    """
    return {
        "code": code(sources),
        "environment": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "config": {
            "settings": dict(config),
            "models": {name: load_model(root, name) for name in sorted(models)},
            "constants": {name: asdict(constant) for name, constant in sorted(cluster.constants.items())},
            "files": {file: provided(root, file).read_text(encoding="utf-8") for file in sorted(files)},
        },
    }


def code(sources: Mapping[str, Path], checkout: Path = SHIPPED) -> dict[str, Any]:
    """Return the version of the code: release, checksum over the sources, and commit where git knows one.

    source_sha256  of one line `<sha256>  <path>` a file, sorted by path (what sha256sum prints)
    git_commit     the last commit that changed one of these files; null outside a git checkout
    git_modified   whether they differ from that commit
    """
    files = sorted(sources)
    lines = "".join(f"{checksum(sources[file])[1]}  {file}\n" for file in files)
    commit = _git(checkout, "log", "-1", "--format=%H", "--", *files)
    modified = None if not commit else bool(_git(checkout, "status", "--porcelain", "--", *files))
    return {
        "version": __version__,
        "source_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "git_commit": commit or None,
        "git_modified": modified,
    }


def _git(root: Path, *arguments: str) -> str:
    """Return what git prints, nothing where there is no git or `root` is not the top of a checkout."""
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run([*_GIT, *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
