"""A small sweep, its results and archives of them, made in this process by the real command line."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moesweep.archive.verify import verify
from moesweep.cli import main
from moesweep.run.plan import ENTRY
from project import make_project, shared

STAGES = (
    "enumerate",
    "validate",
    "trace",
    "cost",
    "traffic",
    "tables",
    "network",
    "figures",
    "report",
    "manifest",
)
"""The stages in an order in which each finds what it reads."""


@contextmanager
def within(folder: Path) -> Iterator[None]:
    """Work in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def finished(folder: Path) -> Path:
    """Run the small sweep in a project of its own, stage by stage; return the project."""
    return shared("finished", folder, _finish)


def _finish(folder: Path) -> None:
    project = make_project(folder)
    project.edit("config/config.yaml", "outputs: []", "outputs: [network, figures, report, manifest]")
    with within(folder):
        assert set(ENTRY) <= set(STAGES), "say in STAGES when the new stage runs"
        for stage in (stage for stage in STAGES if stage in ENTRY):
            assert main([stage]) == 0


def archived(project: Path, out: Path) -> Path:
    """Archive a finished project; return the payload, which explains and verifies itself."""
    with within(project):
        assert main(["archive", "--out", str(out)]) == 0
    return out / "data"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def rewritten(folder: Path, **changes: Any) -> None:
    """Change keys of an archive's manifest and give it the checksum that then is right."""
    manifest = folder / "manifest.json"
    data = json.loads(manifest.read_bytes()) | changes
    del data["sha256"]
    signed(manifest, json.dumps(data).removeprefix("{").encode())


def signed(manifest: Path, body: bytes) -> None:
    """Write a manifest of any content below a right first line."""
    manifest.write_bytes(b'{"sha256": "%s",\n' % hashlib.sha256(body).hexdigest().encode() + body)


def flips(archive: Path, count: int, seed: int = 0) -> tuple[int, int]:
    """Flip single bytes of an archive, one at a time; return how many were found, and named by their file.

    Every byte of the archive is as likely as any other, manifest and card included.
    """
    dice = random.Random(seed)
    sizes = {file: file.stat().st_size for file in sorted(archive.rglob("*")) if file.is_file()}
    found = named = 0
    for file in dice.choices(list(sizes), weights=list(sizes.values()), k=count):
        place, change = dice.randrange(sizes[file]), dice.randrange(1, 256)
        _flip(file, place, change)
        problems = verify(archive).problems
        found += bool(problems)
        named += [problem.file for problem in problems] == [str(file)]
        _flip(file, place, change)
    assert verify(archive).problems == []
    return found, named


def _flip(file: Path, place: int, change: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ change]))


def manifest_of(folder: Path) -> dict[str, Any]:
    """What the manifest of an archive says."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return manifest


def spoil_link(folder: Path) -> None:
    """Put a link out of the folder in the place of one of its files."""
    file = folder / "costs.parquet"
    shutil.move(file, folder.parent / "elsewhere.parquet")
    file.symlink_to(folder.parent / "elsewhere.parquet")
