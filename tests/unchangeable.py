"""Folders that nobody can change, root included."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def unchangeable(folder: Path) -> Iterator[None]:
    """Let nobody change a folder; skip the test where the system cannot."""
    try:
        done = subprocess.run(["chattr", "+i", str(folder)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("cannot make a folder unchangeable: there is no chattr")
    if done.returncode:
        pytest.skip(f"cannot make a folder unchangeable: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)
