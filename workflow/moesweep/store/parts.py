"""Parts: files that a stage makes one by one, each with the digest of all that it was made from.

A stage makes a part again if that digest moves, or if the file is not what was written. What it has in the
end stands in an index, which is what its rule declares: Snakemake keeps a record of each declared file and
asks after it for each of its readers, so declaring thousands would take longer than making them.
"""

import hashlib
import json
from collections.abc import Container, Iterable
from pathlib import Path

from moesweep.store.checksums import recorded, sha256
from moesweep.store.layout import Results
from moesweep.store.provenance import code_digest
from moesweep.store.tablefile import whole


def made_from(stage: str, *facts: str) -> str:
    """Return the digest of what a part is made from: the code of its stage, and the facts that it reads."""
    return hashlib.sha256("\n".join([code_digest(stage), *facts]).encode()).hexdigest()[:32]


def content_of(file: Path) -> str:
    """Return the sha256 of a file that a part is made from, nothing where there is none."""
    return sha256(file) if file.is_file() else ""


def is_current(part: Path, digest: str) -> bool:
    """Say whether a part is there, is what was written, and was made from what the digest tells."""
    known = recorded(part)
    if known is None or known.made_from != digest:
        return False
    return part.is_file() and sha256(part) == known.sha256


def write_index(index: Path, results: Results, parts: Iterable[Path]) -> None:
    """Write the index of a stage's parts: the path of each from the results folder, and its sha256."""
    listed = {part.relative_to(results.root).as_posix(): sha256(part) for part in parts}
    with whole(index) as partial:
        partial.write_text(json.dumps(listed, indent=0) + "\n", encoding="ascii")


def unfit_parts(index: Path, results: Results, unfit: Container[Path] = ()) -> list[Path]:
    """Return the parts that an index names and that are not there, or are `unfit`.

    It is the index itself if that cannot be read. No content is looked at.
    """
    try:
        listed = [results.root / part for part in json.loads(index.read_bytes())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError):
        return [index]
    return [part for part in listed if part in unfit or not part.is_file()]
