"""Sweeps of Mixture-of-Experts training: what every rank runs, sends and waits for, and what it costs."""


def __getattr__(name: str) -> str:
    """Return `__version__`, as installed.

    It is looked up when asked for: that takes 40 ms, in which no command could yet heed an interrupt.
    pyproject.toml alone states the version. This file is an input of every stage of the workflow, so a
    release that wrote its number here would rerun them all.
    """
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("moesweep")
    except PackageNotFoundError:  # imported from a checkout that was never installed
        return "0+unknown"
