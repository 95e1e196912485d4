"""Output folders: sets of files that appear whole or not at all, and failures that say where."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polars.exceptions import ComputeError

from moesweep.edge.problems import BadInput, Problem, and_more, shown


@contextmanager
def whole_folder(path: Path, own: tuple[str, ...]) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `path` if the block succeeds, and goes if it fails.

    Raises BadInput if `path` holds anything whose name is none of the patterns `own`: it is somebody else's.
    """
    _refuse_strangers(path, own)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_strangers(folder: Path, own: tuple[str, ...]) -> None:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    strange = [file for file in found if not any(file.match(pattern) for pattern in own)]
    if strange:
        message = f"{shown(strange[0].name)} is no file of an export{and_more(len(strange))}"
        advice = "move it, or name a new folder"
        raise BadInput([Problem(str(folder), "", "strange_file", strange[0].name, message, advice)])


@contextmanager
def failures_named(folder: Path) -> Iterator[None]:
    """Give errors of the file system the folder's name where they have none; polars hides them in its own."""
    try:
        yield
    except ComputeError as error:
        if "os error" not in str(error):
            raise
        raise OSError(f"{folder}: {error}") from error
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error
