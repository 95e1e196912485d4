"""Text files of a user, read without trust: small enough, UTF-8, and files indeed."""

import os
import stat
from pathlib import Path

from moesweep.edge.problems import BadInput, Problem


def read_text(path: Path, name: str, most_bytes: int) -> str:
    """Return a file's text; raise BadInput, which calls it `name`, if it is missing, larger or no UTF-8."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("not a regular file")
            content = file.read(most_bytes + 1)
    except FileNotFoundError:
        raise BadInput([Problem(name, "", "missing_file", name, "no such file")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput([Problem(name, "", "unreadable_file", name, f"cannot be read: {reason}")]) from None
    if len(content) > most_bytes:
        message = f"larger than {most_bytes} bytes, the limit for such a file"
        raise BadInput([Problem(name, "", "file_size", "", message)])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8: byte 0x{content[error.start]:02x}"
        raise BadInput(
            [Problem(name, f"line {line}", "utf8", "", message, "save the file as UTF-8")]
        ) from None


def _open_without_waiting(path: str, flags: int) -> int:
    """Open as usual, except that a pipe without a writer is not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)
