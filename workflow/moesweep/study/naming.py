"""Workloads as users name them: by id, by a beginning that one id alone has, or by a glob pattern."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import polars as pl

from moesweep.edge.problems import BadInput, Problem, collect, did_you_mean, shown

LISTED = 4
"""Ids named in a message where several begin alike."""

_GLOB = frozenset("*?[")


def named(workloads: pl.DataFrame, words: Iterable[str], path: str = "--workload") -> pl.DataFrame:
    """Return the rows that any of the words names, in their order; raise BadInput with the words that fail.

    An exact id wins over ids that it begins. `path` is the option or argument that holds the words.
    """
    ids = workloads["workload"].to_list()
    problems: list[Problem] = []
    chosen = [collect(problems, _matches, word, ids, path) for word in words]
    if problems:
        raise BadInput(problems)
    wanted = {id_ for found in chosen if found for id_ in found}
    return workloads.filter(pl.col("workload").is_in(list(wanted)))


def the_one(workloads: pl.DataFrame, word: str, path: str = "--workload") -> pl.DataFrame:
    """Return the one row that a word names; raise BadInput if it names none or several."""
    rows = named(workloads, [word], path)
    if rows.height > 1:
        raise BadInput([_several(word, rows["workload"].to_list(), path)])
    return rows


def _matches(word: str, ids: list[str], path: str) -> list[str]:
    if word in ids:
        return [word]
    if _GLOB & set(word):
        found = [id_ for id_ in ids if fnmatchcase(id_, word)]
    else:
        found = [id_ for id_ in ids if word and id_.startswith(word)]
        if len(found) > 1:
            raise BadInput([_several(word, found, path)])
    if found:
        return found
    advice = did_you_mean(word, ids)
    if not advice.startswith("did"):
        advice = f"{len(ids)} workloads: see workloads.parquet"
    message = f"there is no workload {word} in the sweep"
    raise BadInput([Problem("", path, "known", shown(word), message, advice)])


def _several(word: str, found: list[str], path: str) -> Problem:
    names = ", ".join(found[:LISTED]) + (", ..." if len(found) > LISTED else "")
    return Problem("", path, "one", shown(word), f"{word} names {len(found)} workloads", f"one of: {names}")
