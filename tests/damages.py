"""Damages to a result: it becomes a pipe, a link or a folder, is cut, gone or changed."""

import os
from pathlib import Path


def _as_pipe(file: str, share: float, project: Path) -> None:
    (project / file).unlink()
    os.mkfifo(project / file)


def _as_link(file: str, share: float, project: Path) -> None:
    targets = ("/dev/zero", "/etc/passwd", Path(file).name, "../../outside", "/proc/self/mem")
    (project / file).unlink()
    (project / file).symlink_to(targets[int(share * len(targets))])


def _as_folder(file: str, share: float, project: Path) -> None:
    (project / file).unlink()
    (project / file).mkdir()


def _cut(file: str, share: float, project: Path) -> None:
    content = (project / file).read_bytes()
    (project / file).write_bytes(content[: int(share * len(content))])


def _gone(file: str, share: float, project: Path) -> None:
    (project / file).unlink()


def _locked(file: str, share: float, project: Path) -> None:
    content = bytearray((project / file).read_bytes())
    content[int(share * len(content))] ^= 0x55
    (project / file).write_bytes(content)


DAMAGES = (_as_pipe, _as_link, _as_folder, _cut, _gone, _locked)
