"""The manifest: every file with its bytes, checksum, rows and schema version, and what all were made from.

manifest.json starts with its own checksum, over every byte after that line, so that nothing in it can
change unseen either. The form is schemas/manifest.schema.json.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moesweep import __version__
from moesweep.archive.content import checksum, open_file
from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.edge.schema import check
from moesweep.store.layout import Results
from moesweep.store.tablefile import whole

NAME = "manifest.json"
VERSION = 1
"""Of the manifest's form. Every version from 1 to this one can be read."""

MAX_BYTES = 1 << 28
SHOWN_FILES = 20
"""An unfinished sweep lacks thousands of files; naming the first ones is enough."""

_FIRST_LINE = re.compile(rb'\{"sha256": "([0-9a-f]{64})",\n')
_SUFFIX_WITH_ROWS = ".parquet"


@dataclass(frozen=True)
class Entry:
    """One file: path from the manifest's folder; `rows`, `table`, `schema_version` of Parquet files only."""

    path: str
    bytes: int
    sha256: str
    rows: int | None = None
    table: str | None = None
    schema_version: int | None = None


@dataclass(frozen=True)
class Manifest:
    """What a folder holds (`files`, sorted by path) and what it was made from (`origin`).

    `origin` has the keys code, environment and config; moesweep.archive.origin says what they hold.
    """

    origin: dict[str, Any]
    files: list[Entry]
    version: int = VERSION
    moesweep_version: str = __version__

    def by_path(self) -> dict[str, Entry]:
        """Return the files by path."""
        return {entry.path: entry for entry in self.files}

    def encoded(self) -> bytes:
        """Return the manifest as the bytes of its file: one line a file, the checksum first."""
        head = {"manifest_version": self.version, "moesweep_version": self.moesweep_version, **self.origin}
        lines = [json.dumps(asdict(entry), ensure_ascii=False) for entry in self.files]
        text = json.dumps(head, ensure_ascii=False, indent=1).removeprefix("{\n").removesuffix("\n}")
        body = f'{text},\n "files": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
        return f'{{"sha256": "{hashlib.sha256(body.encode()).hexdigest()}",\n{body}'.encode()


def entries(root: Path, paths: Iterable[str]) -> list[Entry]:
    """Describe files below root, sorted by path; raise BadInput naming all that are missing or broken."""
    found: list[Entry] = []
    problems: list[Problem] = []
    for path in sorted(paths):
        try:
            size, digest = checksum(root / path)
            found.append(Entry(path, size, digest, *described(root / path)))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            advice = "run make sweep"
            problems.append(
                Problem(str(root / path), "", "readable", "", f"cannot be read: {reason}", advice)
            )
    if len(problems) > SHOWN_FILES:
        more = f"and {len(problems) - SHOWN_FILES} more files"
        problems[SHOWN_FILES:] = [Problem(str(root), "", "readable", "", more)]
    if problems:
        raise BadInput(problems)
    return found


def described(path: Path) -> tuple[int | None, str | None, int | None]:
    """Return (rows, table, schema version) of a Parquet file, from its footer; nothing of other files.

    Raises OSError or ValueError for what is no Parquet.
    """
    if path.suffix != _SUFFIX_WITH_ROWS:
        return None, None, None
    from pyarrow import parquet  # type: ignore[import-untyped]

    footer = parquet.read_metadata(path)
    facts = footer.metadata or {}
    table, version = facts.get(b"moesweep.table", b"").decode(), facts.get(b"moesweep.schema_version", b"")
    return footer.num_rows, table or None, int(version) if version else None


def read_manifest(root: Path) -> Manifest:
    """Read root/manifest.json; raise BadInput if it is missing, changed, too new or not a manifest."""
    file = str(root / NAME)
    raw = _read(root / NAME, file)
    first = _FIRST_LINE.match(raw)
    if first is None or hashlib.sha256(raw[first.end() :]).hexdigest() != first[1].decode():
        message = "the content does not have the checksum in the first line"
        raise BadInput([Problem(file, "", "changed", "", message)])
    try:
        data = json.loads(raw, object_pairs_hook=_once)
    except _Twice as twice:
        message = f"says {shown(str(twice))} twice"
        raise BadInput([Problem(file, "", "duplicate", str(twice), message)]) from None
    except (ValueError, RecursionError):
        raise BadInput([Problem(file, "", "json", "", "is not valid JSON")]) from None
    _refuse_newer(data, file)
    problems = check(data, "manifest", file)
    if problems:
        raise BadInput(problems)
    listed = [Entry(**entry) for entry in data["files"]]
    if [entry.path for entry in listed] != sorted({entry.path for entry in listed}):
        message = "files are listed twice or out of order"
        raise BadInput([Problem(file, "files", "order", "", message)])
    origin = {key: data[key] for key in ("code", "environment", "config")}
    return Manifest(origin, listed, data["manifest_version"], data["moesweep_version"])


class _Twice(Exception):
    """A key of a JSON object that is said twice: readers differ in which of both they take."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(next(key for key in found if keys.count(key) > 1))
    return found


def _read(path: Path, file: str) -> bytes:
    try:
        with open_file(path) as opened:
            raw = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BadInput([Problem(file, "", "missing", "", "there is no manifest")]) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput([Problem(file, "", "readable", "", f"cannot be read: {reason}")]) from None
    if len(raw) > MAX_BYTES:
        message = f"larger than {MAX_BYTES} bytes, the limit for a manifest"
        raise BadInput([Problem(file, "", "file_size", "", message)])
    return raw


def _refuse_newer(data: Any, file: str) -> None:
    """Raise BadInput, naming the release that can read it, for a form that this one does not know."""
    version = data.get("manifest_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > VERSION:
        message = f"is of manifest version {version}; moesweep {__version__} reads versions up to {VERSION}"
        advice = f"use moesweep {shown(data.get('moesweep_version'))} or later"
        raise BadInput([Problem(file, "manifest_version", "version", str(version), message, advice)])


def write_manifest(results: Results, paths: Iterable[str], origin: dict[str, Any]) -> None:
    """Write the manifest of the files `paths` (from the results folder) of a finished sweep."""
    manifest = Manifest(origin, entries(results.root, paths))
    with whole(results.manifest) as partial:
        partial.write_bytes(manifest.encoded())
