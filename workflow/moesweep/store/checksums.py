"""Checksums of results, recorded as they are written, so that a damaged file is found before it is used.

`.snakemake/checksums/<path of the result>` holds the sha256 of what was last written to that path. It lies
beside Snakemake's own records of the results, not among the results: an archive has a manifest instead.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from moesweep.edge.paths import inside

RESULTS = "results"
"""Only the results of the project in the working directory are recorded."""

RECORDS = Path(".snakemake/checksums")


def record(path: Path, content: Path) -> None:
    """Record that `path` is about to become what `content` holds.

    The record comes first: a run killed between the two leaves a file that is made again, never one that
    nobody checks.
    """
    if path.is_absolute() or path.parts[0] != RESULTS:
        return
    note = inside(Path(), RECORDS / path)
    note.parent.mkdir(parents=True, exist_ok=True)
    partial = note.with_name(f".{note.name}.{os.getpid()}.partial")
    try:
        partial.write_text(_sha256(content), encoding="ascii")
        partial.replace(note)
    finally:
        partial.unlink(missing_ok=True)


def is_damaged(path: Path) -> bool:
    """Say whether a file differs from what was last written to it; False if that is not known."""
    try:
        recorded = (RECORDS / path).read_bytes() if not path.is_absolute() else None
    except OSError:
        return False
    return recorded is not None and _sha256(path).encode() != recorded


def damaged() -> Iterator[Path]:
    """Yield every result that differs from what was last written to it, in the order of the paths.

    Raises BadInput if a symbolic link would have a file outside of the project looked at.
    """
    for path in _recorded():
        if path.is_file() and is_damaged(inside(Path(), path)):
            yield path


def lost(pattern: str) -> Iterator[Path]:
    """Yield the results of a pattern that were written and are no longer there."""
    for path in _recorded():
        if path.match(pattern) and not path.exists():
            yield path


def digest(files: Iterable[Path]) -> str:
    """Return the sha256 of the files' own, in the order given: it changes when any of them does."""
    return hashlib.sha256("".join(map(_sha256, files)).encode("ascii")).hexdigest()


def _recorded() -> list[Path]:
    return [note.relative_to(RECORDS) for note in sorted((RECORDS / RESULTS).rglob("*")) if note.is_file()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
