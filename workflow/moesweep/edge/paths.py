"""Paths that must lead where they seem to: what a project names inside itself lies inside itself."""

import os
from collections.abc import Iterable
from pathlib import Path

from moesweep.edge.problems import BadInput, Problem, shown

PACKAGE = Path(__file__).resolve().parents[1]

SHIPPED = PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parents[1]
"""The folder of what comes with the code: schemas/, config/, Snakefile, profiles/, workflow/.

An installed package carries them; otherwise they are the checkout's.
"""


def inside(root: Path, path: Path | str) -> Path:
    """Return root / path; raise BadInput if symbolic links on the way lead out of `root`.

    A path that says itself that it lies elsewhere (absolute, or with `..`) is the user's own choice and
    is not checked; where a file names such a path, its schema refuses it.
    """
    full = root / path
    home = os.path.abspath(root)  # noqa: PTH100 (lexical: symbolic links must still be there)
    written = os.path.abspath(full)  # noqa: PTH100
    if ".." in Path(path).parts or not _below(written, home):
        return full
    try:
        real = os.path.realpath(full)
    except (OSError, ValueError):  # too many links, a zero byte: opening it says so in its own words
        return full
    if not _below(real, os.path.realpath(home)):
        message = f"a symbolic link leads out of the project, to {shown(real)}"
        raise BadInput([Problem(str(path), "", "symbolic_link", real, message, "put a copy there instead")])
    return full


def provided(root: Path, file: str) -> Path:
    """Return root / file, or if a project has no such file, the one of that name that comes with the code.

    Raises BadInput as `inside` does.
    """
    own = inside(root, file)
    shipped = SHIPPED / file
    # A link that leads nowhere is there, too.
    return own if os.path.lexists(own) or not shipped.exists() else shipped


def folders_inside(root: Path, files: Iterable[str]) -> None:
    """Raise BadInput if a folder of one of the files, given from root, leads out of root."""
    folders = {folder for file in files for folder in Path(file).parents}
    for folder in sorted(folders):
        # Asking every folder whether it is a link is quick, resolving thousands of them is not.
        if os.path.islink(root / folder):  # noqa: PTH114
            inside(root, folder)


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
