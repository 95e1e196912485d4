"""Columns of a list of runs: which are read, which pass through, and which cannot be meant."""

import csv
import io
from collections.abc import Sequence
from difflib import get_close_matches

import polars as pl

from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
from moesweep.edge.schema import check
from moesweep.study.column import NEEDED, Key
from moesweep.study.keys import COLUMNS, KEYS
from moesweep.study.names import ELSEWHERE, UNMODELLED
from moesweep.study.run_cells import ROUTINGS

MEASURED = "iteration_seconds"
"""A measured time, which passes through under another name and is never read."""

READ = ("run", "cluster", *(name for name in KEYS if name != "listed"))
WITH_DEFAULTS = ("tp", "pp", "normalization", "position_embedding", "tied_embeddings", "model")
"""Keys without a default in a sweep that a list may leave out."""

_LABELS = ("workload", "kind", "twin")
_FOLLOWING = {column.name for column in COLUMNS} - set(KEYS) - set(_LABELS) | {"listed"}
_LIKE = 0.8


def template(cluster: str) -> str:
    """Return a list of one run with every column that is read, as CSV text: defaults, and a model by name."""
    cells = dict.fromkeys(READ, "")
    cells |= {key.name: _cell(key) for key in KEYS.values() if not key.of_model and key.name in READ}
    cells |= {
        "run": "example",
        "cluster": cluster,
        "model": "gpt_7B",
        "world_size": "64",
        "tp": "4",
        "pp": "2",
    }
    cells |= {"global_batch_size": "64", "seq_length": "2048", "routing": ROUTINGS[0]}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((cells.keys(), cells.values()))
    return text.getvalue()


def _cell(key: Key) -> str:
    """A key's default as a cell; empty where there is none, or none that could be written."""
    default = key.default
    if not isinstance(default, bool | int | float | str) or check(
        {key.name: default}, "sweep", "", key="row"
    ):
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


_OFF = ("0", "false", "False", "alltoall")
"""Cells of an option that is not modelled under which a run does without it."""


def unread(given: pl.DataFrame, file: str, has_cluster: bool = False) -> tuple[str, ...]:
    """Return the columns that pass through, in order, of a list's cells.

    Raises BadInput with every column that is missing, not modelled, of no effect, or nearly the name of one
    that is read. One that is not modelled passes where no run has the option. `has_cluster` says that runs
    need not name one.
    """
    header = given.columns
    free = [name for name in header if name not in (*READ, MEASURED)]
    problems = _missing(header, free, file, has_cluster)
    told = [name for name in free if not given[name].drop_nulls().str.strip_chars().is_in(_OFF).all()]
    problems += [problem for name in free for problem in _mistaken(name, header, file, name in told)]
    if problems:
        raise BadInput(problems)
    return tuple(free)


def _missing(header: Sequence[str], free: list[str], file: str, has_cluster: bool) -> list[Problem]:
    needed = [
        key.name
        for key in KEYS.values()
        if key.default is NEEDED
        and key.name not in WITH_DEFAULTS
        and not (key.of_model and "model" in header)
    ]
    needed += [] if has_cluster else ["cluster"]
    missing = [name for name in needed if name not in header]
    or_model = " or model" if "model" not in header else ""
    return [
        Problem(
            file,
            name,
            "missing_column",
            "",
            f"no column {name}{or_model if name in KEYS and KEYS[name].of_model else ''}",
            did_you_mean(name, free),
        )
        for name in missing
    ]


def _mistaken(name: str, header: Sequence[str], file: str, told: bool) -> list[Problem]:
    """A problem if a column that is not read, and is `told` of in some cell, cannot be meant to pass."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    meant = ELSEWHERE.get(plain, plain)
    close = get_close_matches(plain, [known for known in READ if known not in header], n=1, cutoff=_LIKE)
    if meant in UNMODELLED and not told:
        return []
    if meant in UNMODELLED:
        rule, message, advice = "not_modelled", f"{name} is not modelled", "remove the column"
    elif plain in _FOLLOWING:
        rule, message, advice = "no_effect", f"{name} follows from other columns", "remove the column"
    elif meant in READ or close:
        rule, message = "unknown_column", f"{name} is not read"
        advice = f"did you mean {meant if meant in READ else close[0]}?"
    else:
        return []
    return [Problem(file, f"line 1, column {name}", rule, shown(name), message, advice)]
