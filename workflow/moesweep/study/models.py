"""The catalogue's models: config/models/<name>.yaml, each value bare or with a source of its own."""

from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.study.catalog_files import read_named
from moesweep.study.column import NEEDED
from moesweep.study.keys import KEYS

ABOUT_FILE = ("description", "source")
"""Keys of a model's file that are no values."""

_NAMED = 3
"""Keys named in the message about values without a source."""


def load_model(root: Path, name: str) -> dict[str, Any]:
    """Every model key of a model, defaults filled in, those that follow from other keys among them.

    Raises BadInput.
    """
    keys = [key for key in KEYS.values() if key.of_model]
    values = {key.name: key.default for key in keys if key.default is not NEEDED} | given_by_model(root, name)
    follow = {key: value for key, value in values.items() if isinstance(value, pl.Expr)}
    frame = pl.DataFrame([{key: value for key, value in values.items() if key not in follow}])
    while follow:
        ready = {
            key: value for key, value in follow.items() if {*value.meta.root_names()} <= {*frame.columns}
        }
        frame = frame.with_columns(**ready)
        follow = {key: value for key, value in follow.items() if key not in ready}
    return values | frame.row(0, named=True)


def given_by_model(root: Path, name: str) -> dict[str, Any]:
    """The keys that a model's file gives, with their values. Raises BadInput."""
    return {key: value for key, (value, _) in sourced_by_model(root, name).items()}


def sourced_by_model(root: Path, name: str) -> dict[str, tuple[Any, str]]:
    """The keys that a model's file gives: value and source, its own or the file's. Raises BadInput."""
    data, problems = read_named(root, "model", name)
    if not problems:
        problems = _unsourced(data, f"config/models/{name}.yaml")
    if problems:
        raise BadInput(problems)
    return {
        key: (entry["value"], entry["source"]) if isinstance(entry, dict) else (entry, data["source"])
        for key, entry in data.items()
        if key not in ABOUT_FILE
    }


def _unsourced(data: dict[str, Any], file: str) -> list[Problem]:
    """A problem where a file has bare values and no source."""
    bare = [key for key, entry in data.items() if key not in ABOUT_FILE and not isinstance(entry, dict)]
    if bare and "source" not in data:
        named = ", ".join(bare[:_NAMED]) + (f" and {len(bare) - _NAMED} more" if len(bare) > _NAMED else "")
        message = f"{named} stand without a source"
        advice = (
            f"add source: to the file, or write {bare[0]}: {{value: {shown(data[bare[0]])}, source: ...}}"
        )
        return [Problem(file, "source", "missing_key", "", message, advice)]
    return []
