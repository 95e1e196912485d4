"""The command line. Exit code 0 for success, 1 for failure, 2 for bad input, 130 when interrupted.

What nobody foresaw is a failure too, in one line. An interrupt prints nothing, also while the commands are
imported. So this module imports as little as it can.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

INTERRUPTED = 128 + signal.SIGINT
TRACEBACK = "MOESWEEP_TRACEBACK"
"""Environment variable: show the traceback of a fault of the code."""

MOST_OF_A_REASON = 300
"""Characters of an unforeseen exception that are shown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; print a user's mistakes one a line, without a traceback.

    argv   the arguments; by default those of the process, which then ends with the command
    """
    code = _heeding(argv)
    if argv is None:
        from moesweep.edge.leaving import leave

        leave(code)
    return code


def _heeding(argv: Sequence[str] | None) -> int:
    """Run one command, which interrupts end."""
    before = signal.getsignal(signal.SIGINT)
    # Whoever ignores or handles interrupts has other plans for them.
    heeded = before is signal.default_int_handler
    try:
        if heeded:
            signal.signal(signal.SIGINT, _leave)
        try:
            return _run(argv, heeded)
        finally:
            if heeded:
                # Python's own end would print a traceback.
                signal.signal(signal.SIGINT, signal.SIG_IGN if argv is None else before)
    except KeyboardInterrupt:
        return INTERRUPTED


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process: nothing is at stake yet, and an exception could be caught or printed on its way."""
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Unwind the command; a second interrupt shall not disturb its cleaning up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(argv: Sequence[str] | None, heeded: bool) -> int:
    _take_the_threads_given()
    from moesweep.arguments import parsed
    from moesweep.edge.problems import BadInput

    _show_any_letter()
    try:
        arguments = parsed(argv)
        if heeded:
            signal.signal(signal.SIGINT, _interrupt)
        return _done(arguments)
    except BadInput as error:
        from moesweep.edge.line_numbers import numbered

        print(*numbered(error.problems), sep="\n", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output went away; Python must not fail again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, SystemExit):
        raise
    # A panic of native code is no Exception.
    except BaseException as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"moesweep: {_failure(error)}", file=sys.stderr)
        return 1


def _done(arguments: "argparse.Namespace") -> int:
    """Run the command; what it prints of strangers is plain, and native code prints nothing if it raises."""
    from contextlib import nullcontext

    from moesweep.edge.natives import kept_back
    from moesweep.edge.terminal import plain

    with nullcontext() if getattr(arguments, "starts_programs", False) else kept_back(), plain():
        return int(arguments.run(arguments))


def _failure(error: BaseException) -> str:
    """Return in one line why a command failed: for want of something, or by a fault of the code."""
    from moesweep.edge.problems import one_line

    if isinstance(error, OSError):
        return one_line(str(error))
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    reason = str(error).partition("\n")[0][:MOST_OF_A_REASON]
    hint = f"this is a fault of MoE Sweep; {TRACEBACK}=1 shows where, for a report"
    return one_line(f"{type(error).__name__}: {reason}; {hint}")


def _take_the_threads_given() -> None:
    """Let polars have as many threads as a job of the workflow has; it asks when it is imported."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given):
        os.environ.setdefault("POLARS_MAX_THREADS", given)


def _show_any_letter() -> None:
    """Write a letter that the terminal's encoding does not have as its number."""
    import io

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
