"""Sweeps of Mixture-of-Experts training: what every rank runs, sends and waits for, and what it costs."""

from importlib.metadata import PackageNotFoundError, version

# pyproject.toml alone states the version. This file is an input of every stage of the workflow,
# so a release that wrote its number here would rerun them all.
try:
    __version__ = version("moesweep")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "0+unknown"
