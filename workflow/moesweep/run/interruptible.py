"""Snakemake as `moesweep run` starts it: an interrupt ends it at any moment, and without a traceback.

Its imports and its reading of the Snakefile take a second, in which it would print one. Nothing is at
stake before it locks the directory, so it ends at once; later its own cleaning up runs first.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
LOCKS = Path(".snakemake/locks")


def interrupt(number: int, frame: FrameType | None) -> None:
    """End the process while it holds no lock; then let Snakemake clean up.

    At first no exception: libraries would catch it, print it, or, where they are not Python, panic.
    """
    if not LOCKS.is_dir() or not any(LOCKS.iterdir()):
        os._exit(INTERRUPTED)
    raise KeyboardInterrupt


def main() -> int:
    """Run Snakemake on the command line's arguments; return its exit code, 130 if it was interrupted."""
    signal.signal(signal.SIGINT, interrupt)
    # The one who starts it blocks interrupts, so that none comes before this.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from snakemake.cli import main as snakemake  # type: ignore[import-untyped]

    try:
        try:
            snakemake()
        finally:
            # What is left is Python's own end, which would print a traceback too.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
