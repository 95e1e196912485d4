"""What a user asks for with `--out`, judged before any work: nothing is lost or spoilt by a wrong name."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from moesweep.edge.paths import inside
from moesweep.edge.problems import BadInput, Problem, shown

OPTION = "--out"


def output_file(written: str, reads: Iterable[Path] = ()) -> Path:
    """Return the file to write for `--out`; of a symbolic link, the file that it leads to.

    reads    what the command reads: not to be written over
    Raises BadInput if no file can be written there, or if it is no file that may be replaced.
    """
    problem = _not_a_file(written)
    if problem is None:
        path = _end_of_links(Path(written))
        problem = _is_read(written, path, reads) or _cannot_be_made(written, path)
    if problem is not None:
        raise BadInput([problem])
    return path


def among_results(folder: Path, results: Path) -> list[Problem]:
    """Return a problem if a folder to write lies in the results, which hold what the workflow makes alone."""
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(results)):
        return []
    message = f"{shown(str(folder))} lies in the results, which it would spoil"
    return [_problem("among_results", str(folder), message, f"name a folder outside of {results}")]


@contextmanager
def folders_only_if_written(path: Path) -> Iterator[None]:
    """Remove the folders that the block makes for `path` if it fails."""
    missing = _missing_folders(path)
    try:
        yield
    except BaseException:
        _remove(missing)
        raise


def _problem(rule: str, written: str, message: str, suggestion: str) -> Problem:
    return Problem("", OPTION, rule, shown(written), message, suggestion)


def _not_a_file(written: str) -> Problem | None:
    """What is there already and is no file, or a name that none can have."""
    path, name = Path(written), shown(written)
    try:
        if not written:
            return _problem("empty", written, "the name is empty", "name a file")
        if written.endswith(os.sep) or path.is_dir():
            return _problem("folder", written, f"{name} is a folder", "name a file")
        # A link that leads to itself is there, but leads to nothing.
        looped = os.path.islink(os.path.realpath(path))  # noqa: PTH114
        if looped or (path.exists() and not path.is_file()):
            return _problem("regular_file", written, f"{name} is not a regular file", "name another file")
    except OSError as error:
        return _unwritable(written, error)
    return None


def _end_of_links(path: Path) -> Path:
    """Return the path, or what the link at its end leads to: given from here where it lies here.

    Raises BadInput if the path lies in the project and the link leads out of it.
    """
    try:
        inside(Path(), path)
    except BadInput as error:
        placed = [
            replace(problem, file="", path=OPTION, suggestion="name the file itself")
            for problem in error.problems
        ]
        raise BadInput(placed) from None
    if not path.is_symlink():
        return path
    end, here = Path(os.path.realpath(path)), Path.cwd()
    return end.relative_to(here) if end.is_relative_to(here) else end


def _is_read(written: str, path: Path, reads: Iterable[Path]) -> Problem | None:
    if path.exists() and any(read.exists() and path.samefile(read) for read in reads):
        return _problem("input", written, f"{shown(written)} is the file that is read", "name another file")
    return None


def _cannot_be_made(written: str, path: Path) -> Problem | None:
    """Make a file beside the path as a write would, folders and all, and remove everything again."""
    missing = _missing_folders(path)
    probe = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        return _unwritable(written, error)
    finally:
        _remove(missing)
    return None


def _unwritable(written: str, error: OSError) -> Problem:
    message = f"{shown(written)} cannot be written: {error.strerror}"
    at = f" ({error.filename})" if error.filename else ""
    return _problem("writable", written, message + at, "name a file in a folder that can be written to")


def _missing_folders(path: Path) -> list[Path]:
    """The folders above a path that are not there, the innermost first."""
    # Path.exists raises where it is not allowed to look; a folder that it may not see is not ours to make.
    return [folder for folder in path.parents if not os.path.exists(folder)]  # noqa: PTH110


def _remove(folders: Iterable[Path]) -> None:
    """Remove folders that are empty; others hold what somebody else has written since."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
