"""What commands say on success: one line on stderr, which a program that reads stdout does not see."""

import os
import sys

QUIET = "MOESWEEP_QUIET"
"""An environment variable: where it is set, commands do not say what they made (a run says it for them)."""

CLEARED = "\r\x1b[K"
"""What ends a line that is half written in a terminal: what stands there was progress."""


def spoken_for() -> bool:
    """Return whether whoever calls a command says himself what it made."""
    return bool(os.environ.get(QUIET))


def say(text: str) -> None:
    """Say what was made and where, unless whoever calls the command says it himself."""
    if not spoken_for():
        print(f"{CLEARED if sys.stderr.isatty() else ''}{text}", file=sys.stderr)
