"""Sweeps of Mixture-of-Experts training: what every rank runs, sends and waits for, and what it costs.

In Python: load_model, load_cluster, predict, screen, best, explain, read, scan (docs/python.md). They are
looked up in moesweep.library when first asked for, and then stand in place of the rooms of the same name: a
program that reads a room's insides says `from moesweep.screen import ...`.
"""

from typing import Any

_LIBRARY = (
    *("BadInput", "Cluster", "Node"),
    *("best", "explain", "load_cluster", "load_model", "predict", "read", "scan", "screen"),
)


def __dir__() -> list[str]:
    return ["__version__", *_LIBRARY]


def __getattr__(name: str) -> Any:
    """Return `__version__`, as installed, or a part of the library.

    They are looked up when asked for: that takes 40 ms and more, in which no command could yet heed an
    interrupt. pyproject.toml alone states the version. This file is an input of every stage of the workflow,
    so a release that wrote its number here would rerun them all.
    """
    if name == "__version__":
        return _version()
    if name not in _LIBRARY:
        raise AttributeError(name)
    from importlib import import_module

    # By name: what a stage's code is, is read off the imports (moesweep.store.provenance).
    library = import_module("moesweep.library")
    globals().update({each: getattr(library, each) for each in _LIBRARY})
    return globals()[name]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("moesweep")
    except PackageNotFoundError:  # imported from a checkout that was never installed
        return "0+unknown"
