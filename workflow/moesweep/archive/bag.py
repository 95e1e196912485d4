"""A bag (BagIt, RFC 8493): the payload under data/, and files beside it by which any bag tool verifies it.

All of them follow from the payload's manifest, so they are the same bytes for the same payload, and what
they should be can be said of any archive: `tags`. `sha256sum -c manifest-sha256.txt` verifies the payload.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from moesweep.archive.content import checksum, walk
from moesweep.archive.manifest import NAME, Manifest
from moesweep.edge.problems import Problem

PAYLOAD = "data"

DECLARATION, INFO = "bagit.txt", "bag-info.txt"
PAYLOADS, TAGS = "manifest-sha256.txt", "tagmanifest-sha256.txt"


def tags(manifest: Manifest, name: str) -> dict[str, bytes]:
    """Return the files beside the payload: name to content. `name` is the data set's."""
    own = manifest.encoded()
    files = [(entry.path, entry.sha256) for entry in manifest.files] + [(NAME, _sha256(own))]
    size = sum(entry.bytes for entry in manifest.files) + len(own)
    found = {
        DECLARATION: b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n",
        INFO: f"External-Identifier: {name}\nPayload-Oxum: {size}.{len(files)}\n".encode(),
        PAYLOADS: _listed((f"{PAYLOAD}/{path}", digest) for path, digest in sorted(files)),
    }
    return found | {TAGS: _listed((each, _sha256(content)) for each, content in sorted(found.items()))}


def is_bag(root: Path) -> bool:
    """Say whether a folder is meant as a bag: results and archives of older releases are none."""
    return not (root / NAME).exists() and any((root / part).exists() for part in (DECLARATION, PAYLOAD))


def differences(root: Path, wanted: dict[str, bytes]) -> Iterator[Problem]:
    """Yield what lies beside a bag's payload and differs from what it should be."""
    present = {path: kind for path, kind in walk(root) if not path.startswith(f"{PAYLOAD}/")}
    for name, content in wanted.items():
        if present.pop(name, None) != "file":
            yield Problem(str(root / name), "", "missing", "", "is missing")
        elif checksum(root / name) != (len(content), _sha256(content)):
            yield Problem(str(root / name), "", "changed", "", "is not what the payload's manifest makes it")
    for name in present:
        yield Problem(str(root / name), "", "extra", "", "is not in the bag")


def _listed(files: Iterable[tuple[str, str]]) -> bytes:
    """One line a file, as sha256sum reads it. No path of ours holds what BagIt would have encoded."""
    return "".join(f"{digest}  {path}\n" for path, digest in files).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
