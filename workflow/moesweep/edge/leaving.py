"""The end of a process whose work is done."""

import atexit
import os
import sys
import threading


def leave(code: int) -> None:
    """End the process as Python would, but for freeing all that it holds: that takes 0.1 to 0.3 s of CPU.

    What is registered for the end runs, and what was printed is written. Returns, so that Python ends the
    process, where it would wait for a thread, or has to say that what was printed cannot be written.
    """
    if any(each is not threading.main_thread() and not each.daemon for each in threading.enumerate()):
        return
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return
    os._exit(code)
