"""Checksums of results, recorded as they are written: a damaged file is found before it is used.

`.snakemake/checksums/<path of the result>` holds the sha256 of what was last written to that path and, of a
part, the digest of what it was made from. It lies beside Snakemake's own records of the results, not among
the results: an archive has a manifest instead. Results outside of the working directory have their records in
`.snakemake/checksums_elsewhere`.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from moesweep.edge.paths import inside

STATE = Path(".snakemake")
"""Where Snakemake keeps what it knows of results, and so do we."""

RECORDS = "checksums"
ELSEWHERE = "_elsewhere"

_kept: set[Path] = set()


class Record(NamedTuple):
    """What was last written to a path: its sha256 and, of a part, the digest of what it was made from."""

    sha256: str
    made_from: str = ""


def keep(results: Path) -> None:
    """Record from now on what this process writes below a folder of results."""
    _kept.add(_absolute(results))


def is_kept(results: Path) -> bool:
    """Say whether records are kept of what this process writes below a folder."""
    return any(_absolute(results).is_relative_to(kept) for kept in _kept)


def note(path: Path, what: str = RECORDS) -> Path:
    """Return where the record of a path lies, or of a folder those of all below it; `what` kind of record."""
    full, here = _absolute(path), Path.cwd()
    if full.is_relative_to(here):
        return STATE / what / full.relative_to(here)
    return STATE / f"{what}{ELSEWHERE}" / full.relative_to(full.anchor)


def record(path: Path, content: Path, made_from: str = "") -> None:
    """Record that `path` is about to become what `content` holds, if it lies below results that are kept.

    The record comes first: a run killed between the two leaves a file that is made again, never one that
    nobody checks.
    """
    if not is_kept(path):
        return
    file = inside(Path(), note(path))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        partial.write_text(f"{sha256(content)} {made_from}".rstrip(), encoding="ascii")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def recorded(path: Path) -> Record | None:
    """Return what was last written to a path, None if that is not known."""
    try:
        words = note(path).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return Record(*words) if 1 <= len(words) <= 2 else None


def is_damaged(path: Path) -> bool:
    """Say whether a file differs from what was last written to it; False if that is not known."""
    known = recorded(path)
    return known is not None and sha256(path) != known.sha256


def damaged(results: Path) -> Iterator[Path]:
    """Yield every result below a folder that differs from what was last written to it, in order.

    Raises BadInput if a symbolic link would have a file outside of the project looked at.
    """
    straight: dict[str, bool] = {}
    for path in recorded_below(results):
        if not os.path.isfile(path):  # noqa: PTH113 (thousands of them)
            continue
        # Where nothing on the way is a link, nothing leads out: to ask that is quick.
        if is_damaged(path if _is_straight(str(path), straight) else inside(Path(), path)):
            yield path


def _is_straight(path: str, known: dict[str, bool]) -> bool:
    """Say whether neither a path nor a folder on its way is a link; `known` says it of folders."""
    folder = os.path.dirname(path)  # noqa: PTH120
    if folder not in known:
        known[folder] = folder in ("", os.sep) or _is_straight(folder, known)
    return known[folder] and not os.path.islink(path)  # noqa: PTH114


def recorded_below(results: Path) -> list[Path]:
    """Return every path below a folder that has a record, whether it is there or not, in order."""
    notes = note(results)
    found = [
        os.path.relpath(os.path.join(folder, name), notes).split(os.sep)  # noqa: PTH118, PTH206
        for folder, _, names in os.walk(notes)
        for name in names
    ]
    return [results.joinpath(*parts) for parts in sorted(found)]


def sha256(path: Path) -> str:
    """Return the checksum of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _absolute(path: Path) -> Path:
    # Lexical: a symbolic link on the way is judged by whoever reads or writes.
    return Path(os.path.abspath(path))  # noqa: PTH100
