"""An archive: a bag of the results with their manifest, a card, metadata and the configuration beside them.

It is built under a temporary name beside its place and renamed when whole, so it is there in full or not
at all.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from moesweep.archive.bag import PAYLOAD, tags
from moesweep.archive.card import card
from moesweep.archive.content import checksum
from moesweep.archive.croissant import croissant, name
from moesweep.archive.manifest import NAME, Entry, Manifest, entries, read_manifest
from moesweep.edge.paths import SHIPPED, inside
from moesweep.edge.problems import BadInput, Problem, collect
from moesweep.edge.yaml_reader import read_yaml
from moesweep.store.tablefile import dictionary
from moesweep.study.configured import DEFAULT_FILE, Configuration

CITATION, LICENSE = "CITATION.cff", "LICENSE"
CARD, METADATA = "README.md", "croissant.json"


def archive(results: Path, out: Path) -> Manifest:
    """Write an archive of finished results to `out`, a new or empty folder, and return its manifest.

    Raises BadInput if `out` holds something, if the results have no manifest (the workflow writes it last),
    or if a file is not what the manifest says.
    """
    _refuse_full(out)
    _refuse_unrecorded(results)
    made = read_manifest(results)
    _refuse_other_tables(results, made)
    _refuse_own_names(results, made)
    citation: dict[str, Any] = read_yaml(SHIPPED / CITATION, CITATION)
    with _whole_folder(out) as partial:
        payload = partial / PAYLOAD
        payload.mkdir()
        _copy(results, payload, made.files)
        for path, text in _configuration(made.origin["config"]).items():
            _write(payload / path, text)
        for part in (CITATION, LICENSE):
            shutil.copyfile(SHIPPED / part, payload / part)
        _write(payload / CARD, card(made, citation))
        metadata = json.dumps(croissant(made, citation), ensure_ascii=False, indent=1)
        _write(payload / METADATA, metadata + "\n")
        added = [CARD, METADATA, CITATION, LICENSE, *_configuration(made.origin["config"])]
        files = sorted([*made.files, *entries(payload, added)], key=lambda entry: entry.path)
        whole = Manifest(made.origin, files)
        (payload / NAME).write_bytes(whole.encoded())
        for tag, content in tags(whole, name(whole)).items():
            (partial / tag).write_bytes(content)
    return whole


def _refuse_full(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        message, advice = "is not a folder", "name a new folder"
    elif out.is_dir() and any(out.iterdir()):
        message, advice = "is not empty", "name a new folder: an archive is never changed"
    else:
        return
    raise BadInput([Problem("", "--out", "folder", str(out), f"{out} {message}", advice)])


def _refuse_unrecorded(results: Path) -> None:
    if not (results / NAME).exists():
        message = "there is no manifest"
        raise BadInput([Problem(str(results / NAME), "", "missing", "", message, _renewed())])


def _renewed() -> str:
    """Return how to have a manifest of the results as they are: a configuration need not make one."""
    problems: list[Problem] = []
    config = collect(problems, Configuration().load)
    if config is None or "manifest" in config["outputs"]:
        return "run make sweep"
    return f"name manifest under outputs in {DEFAULT_FILE} and run make sweep"


def _refuse_other_tables(results: Path, made: Manifest) -> None:
    """Raise BadInput unless the results hold the tables' present versions: the card describes those."""
    problems = []
    for table, version in sorted({(e.table, e.schema_version) for e in made.files if e.table}, key=str):
        known = dictionary(str(table))["version"]
        if version != known:
            message = f"table {table} is of schema version {version} where {known} is needed"
            problems.append(
                Problem(str(results), "", "schema_version", str(version), message, "run make sweep")
            )
    if problems:
        raise BadInput(problems)


def _refuse_own_names(results: Path, made: Manifest) -> None:
    """Raise BadInput for results and configuration that have the name of another file of the archive."""
    own = {CARD, METADATA, NAME, CITATION, LICENSE}
    message = "an archive has a file of its own by this name"
    problems = [
        Problem(str(results / entry.path), "", "name", "", message)
        for entry in made.files
        if entry.path in own or entry.path.startswith("config/")
    ]
    taken = own | {part for entry in made.files for part in _parts(entry.path)}
    problems += [
        Problem(path, "", "name", "", message, "give it another name, such as one in config/")
        for path in made.origin["config"]["files"]
        if taken & set(_parts(path))
    ]
    if problems:
        raise BadInput(problems)


def _parts(path: str) -> list[str]:
    """The path, and every folder on the way to it."""
    return [path, *map(str, list(PurePosixPath(path).parents)[:-1])]


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder beside `out`, renamed to it if the block succeeds and removed if it fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(results: Path, partial: Path, files: list[Entry]) -> None:
    """Copy files whose content is as recorded; raise BadInput naming all that are not."""
    problems = []
    for entry in files:
        target = partial / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        source = inside(results, entry.path)
        try:
            with target.open("xb") as copy:
                found = checksum(source, copy)
        except OSError as error:
            if error.filename != str(source):
                raise
            problems.append(_unusable(source, "readable", f"cannot be read: {error.strerror}"))
            continue
        if found != (entry.bytes, entry.sha256):
            problems.append(_unusable(source, "changed", f"is not what {results / NAME} records"))
    if problems:
        raise BadInput(problems)


def _unusable(source: Path, rule: str, message: str) -> Problem:
    return Problem(str(source), "", rule, "", message, _renewed())


def _configuration(config: dict[str, Any]) -> dict[str, str]:
    """Path to text of each configuration file, so that the archive alone can be run again."""
    settings = "".join(f"{key}: {json.dumps(value)}\n" for key, value in config["settings"].items())
    return {"config/config.yaml": settings, **config["files"]}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
