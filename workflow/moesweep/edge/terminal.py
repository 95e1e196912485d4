"""What reaches a terminal: text of strangers cannot steer it, wherever it is printed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
ESCAPES = {code: f"\\u{code:04x}" for code in (*_CONTROLS, *_DIRECTIONS) if chr(code) not in "\n\t"}
"""What stands for characters that move the cursor, colour, or turn the direction: as JSON writes them."""

RETURN = "\r"
"""Passes where it is written alone, as progress does."""


class Plain:
    """A stream that writes controls as escapes, and is otherwise another stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text without controls; return the characters that it had."""
        self._stream.write(text if text == RETURN else text.translate(ESCAPES))
        return len(text)


@contextmanager
def plain() -> Iterator[None]:
    """Let the block print without controls."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Plain(sys.stdout), Plain(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
