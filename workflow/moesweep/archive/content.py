"""Bytes on disk: what lies in a folder, and the checksum of a file. Symbolic links are never followed."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1 << 20


def walk(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (path from root with `/`, "file" | "folder" | "link" | "other") of all below root, in order.

    A folder is only yielded if it is empty: others show through what they hold.
    """
    open_folders = [_listed(root, "")]
    while open_folders:
        if not open_folders[-1]:
            open_folders.pop()
            continue
        path, kind = open_folders[-1].pop()
        content = _listed(root / path, f"{path}/") if kind == "folder" else []
        if content:
            open_folders.append(content)
        else:
            yield path, kind


def _listed(folder: Path, prefix: str) -> list[tuple[str, str]]:
    """What lies directly in a folder, last name first."""
    with os.scandir(folder) as found:
        return sorted(((prefix + entry.name, _kind(entry)) for entry in found), reverse=True)


def _kind(entry: "os.DirEntry[str]") -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; raise OSError for a symbolic link, pipe, device or folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def checksum(path: Path, copy: BinaryIO | None = None) -> tuple[int, str]:
    """Return (bytes, sha256) of a file, read once in blocks; what is read is also written to `copy`."""
    digest, size = hashlib.sha256(), 0
    with open_file(path) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
            if copy is not None:
                copy.write(block)
    return size, digest.hexdigest()
