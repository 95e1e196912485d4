"""Verification: whether a folder is, byte for byte, what its manifest says."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moesweep import __version__
from moesweep.archive.bag import PAYLOAD, differences, is_bag, tags
from moesweep.archive.content import checksum, walk
from moesweep.archive.croissant import name
from moesweep.archive.manifest import NAME, Entry, Manifest, described, read_manifest
from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.store.tablefile import TABLES, dictionary

_KINDS = {
    "folder": "an empty folder that the manifest does not list",
    "link": "a symbolic link, which an archive never holds",
    "other": "neither a file nor a folder",
}


@dataclass(frozen=True)
class Verdict:
    """What verification found: `files` and `bytes` that the manifest lists, and what is wrong with them."""

    files: int
    bytes: int
    problems: list[Problem]


def verify(root: Path) -> Verdict:
    """Compare every byte below root with its manifest: root/manifest.json, of a bag data/manifest.json.

    Raises BadInput if root is no folder, or if its manifest or a table is of a version that only a later
    release knows. A missing or changed manifest is a finding: without it nothing else can be judged.
    """
    if not root.is_dir():
        raise BadInput([Problem(str(root), "", "folder", "", "is not a folder", "name an archive")])
    if is_bag(root):
        return _of_bag(root)
    try:
        manifest = read_manifest(root)
    except BadInput as error:
        if any(problem.rule == "version" for problem in error.problems):
            raise
        return Verdict(0, 0, error.problems)
    _refuse_newer_tables(root, manifest)
    return Verdict(
        len(manifest.files), sum(entry.bytes for entry in manifest.files), list(_differences(root, manifest))
    )


def _of_bag(root: Path) -> Verdict:
    """Verify a bag's payload, then what lies beside it, which follows from the payload's manifest."""
    payload = root / PAYLOAD
    if payload.is_symlink() or not payload.is_dir():
        return Verdict(0, 0, [_found(root, PAYLOAD, "missing", "a bag has its payload in this folder")])
    verdict = verify(payload)
    if not verdict.files:
        return verdict
    manifest = read_manifest(payload)
    beside = differences(root, tags(manifest, name(manifest)))
    return Verdict(verdict.files, verdict.bytes, [*verdict.problems, *beside])


def _differences(root: Path, manifest: Manifest) -> Iterator[Problem]:
    listed = manifest.by_path()
    present = {path: kind for path, kind in walk(root) if path != NAME}
    files = {path for path, kind in present.items() if kind == "file"}
    extra = {path for path in files if path not in listed}
    renamed = _renamed(root, [entry for path, entry in listed.items() if path not in present], extra)
    for path, entry in listed.items():
        if path in files:
            yield from _change(root, entry)
        elif path in renamed:
            yield _found(root, path, "renamed", f"is named {shown(renamed[path])} now")
        elif path not in present:
            yield _found(root, path, "missing", "is missing")
    for path in sorted(extra - set(renamed.values())):
        yield _found(root, path, "extra", "is not in the manifest")
    for path, kind in present.items():
        if kind != "file":
            yield _found(root, path, "extra", f"is {_KINDS[kind]}")


def _change(root: Path, entry: Entry) -> Iterator[Problem]:
    try:
        size, digest = checksum(root / entry.path)
    except OSError as error:
        yield _found(root, entry.path, "readable", f"cannot be read: {error.strerror or error}")
        return
    if size != entry.bytes:
        yield _found(root, entry.path, "changed", f"has {size} bytes where {entry.bytes} are recorded")
    elif digest != entry.sha256:
        yield _found(root, entry.path, "changed", "has other content than recorded")
    else:
        yield from _misdescribed(root, entry)


def _misdescribed(root: Path, entry: Entry) -> Iterator[Problem]:
    """What the manifest says of the rows, table and version of a file that it has the checksum of."""
    recorded = (entry.rows, entry.table, entry.schema_version)
    try:
        found = described(root / entry.path)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        yield _found(root, entry.path, "readable", f"cannot be read as Parquet: {reason}")
        return
    for what, said, is_ in zip(("rows", "table", "schema_version"), recorded, found, strict=True):
        if said != is_:
            yield _found(root, entry.path, what, f"has {what} {shown(is_)} where {shown(said)} is recorded")


def _renamed(root: Path, missing: list[Entry], extra: set[str]) -> dict[str, str]:
    """Old path to new path of each missing file whose content lies under a name that is not listed."""
    sizes = {entry.bytes for entry in missing}
    by_content: dict[tuple[int, str], list[str]] = {}
    for path in sorted(extra, reverse=True):
        if (root / path).lstat().st_size in sizes:
            by_content.setdefault(checksum(root / path), []).append(path)
    moved = {}
    for entry in missing:
        if candidates := by_content.get((entry.bytes, entry.sha256)):
            moved[entry.path] = candidates.pop()
    return moved


def _refuse_newer_tables(root: Path, manifest: Manifest) -> None:
    """Raise BadInput for tables whose columns only a later release knows; older versions stay readable."""
    newest = {(entry.table, entry.schema_version) for entry in manifest.files if entry.table}
    problems = []
    for table, version in sorted(newest, key=str):
        known = dictionary(str(table))["version"] if (TABLES / f"{table}.json").is_file() else 0
        if version is not None and version > known:
            message = f"table {table} has schema version {version}; moesweep {__version__} knows {known}"
            advice = f"use moesweep {manifest.moesweep_version} or later"
            problems.append(Problem(str(root / NAME), "files", "version", str(version), message, advice))
    if problems:
        raise BadInput(problems)


def _found(root: Path, path: str, rule: str, message: str) -> Problem:
    return Problem(str(root / path), "", rule, "", message)
