"""What native code prints by itself on standard error: panics of polars, which raise exceptions too."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STANDARD_ERROR = 2


@contextmanager
def kept_back() -> Iterator[None]:
    """Keep what native code prints until the block ends, and to itself if it raises.

    Python's own messages reach the user at once. What a program prints that the block starts is kept too.
    """
    ours: Any = sys.stderr
    if ours is None:
        yield
        return
    ours.flush()
    real = os.dup(STANDARD_ERROR)
    with tempfile.TemporaryFile() as printed, _writing_to(real) as own:
        os.dup2(printed.fileno(), STANDARD_ERROR)
        if _is_the_real_one(ours):
            sys.stderr = own
        try:
            yield
        finally:
            own.flush()
            sys.stderr = ours
            os.dup2(real, STANDARD_ERROR)
            os.close(real)
        printed.seek(0)
        os.write(STANDARD_ERROR, printed.read())


def _writing_to(descriptor: int) -> Any:
    """Return a stream as Python's own standard error: line by line, and any letter."""
    return os.fdopen(os.dup(descriptor), "w", buffering=1, errors="backslashreplace")


def _is_the_real_one(stream: Any) -> bool:
    """Whether a stream writes where native code does; one that a caller put in its place does not."""
    try:
        return bool(stream.fileno() == STANDARD_ERROR)
    except (AttributeError, OSError, ValueError):
        return False
