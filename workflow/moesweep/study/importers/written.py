"""A model's file and a sweep of one row: what files and the command say together, checked and written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from moesweep.edge.problems import Problem, one_line, shown
from moesweep.edge.schema import check, first_key, load_schema
from moesweep.store.tablefile import whole
from moesweep.study.importers.draft import DEFAULT, Draft
from moesweep.study.keys import KEYS

Sourced = dict[str, tuple[Any, str]]

GIVEN = "given with the command"
"""Source of what the command line says."""

_ROW_NEEDS = ("world_size", "tp", "pp", "global_batch_size", "seq_length")
_MAX_SOURCE = 500
_WIDTH = 110


@dataclass
class Imported:
    """A model, and a row of a sweep: values with their sources, and the file and key that each is said at."""

    model: Sourced = field(default_factory=dict)
    row: Sourced = field(default_factory=dict)
    places: dict[str, tuple[str, str]] = field(default_factory=dict)
    open: dict[str, Problem] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def joined(drafts: Iterable[Draft], given: Mapping[str, Any]) -> Imported:
    """Return what files say together; the command line wins over all, a file over another's defaults.

    Where files contradict each other, and where one is malformed, problems say so.
    """
    found = Imported()
    for draft in drafts:
        found.problems += draft.problems
        for key, (name, text) in draft.open.items():
            message = f"{name} is {shown(text)}, which only a run would know"
            found.open[key] = Problem(
                draft.file, name, "not_said", shown(text), message, f"add {key}=... to the command"
            )
        for part, own in ((found.model, draft.model), (found.row, draft.row)):
            for key, (value, source) in own.items():
                _add(found, part, draft, key, value, source)
    for key, value in given.items():
        part = found.model if KEYS[key].of_model else found.row
        part[key] = (value, GIVEN)
        found.places[key] = ("", key)
        found.open.pop(key, None)
    return found


def _add(found: Imported, part: Sourced, draft: Draft, key: str, value: Any, source: str) -> None:
    before, its_source = part.get(key, (value, DEFAULT))
    if source.startswith(DEFAULT) and key in part:
        return
    if before != value and not its_source.startswith(DEFAULT):
        message = f"{key} is {shown(value)} here and {shown(before)} by {its_source}"
        found.problems.append(
            Problem(draft.file, source.partition(": ")[2], "contradiction", shown(value), message)
        )
    part[key] = (value, source)
    found.places[key] = (draft.file, source.partition(": ")[2] or source)


def faults_of_model(found: Imported) -> list[Problem]:
    """Return what is wrong with a model: values that cannot be, at their foreign keys, and those missing."""
    values = {key: value for key, (value, _) in found.model.items()}
    problems = [problem for key, problem in found.open.items() if KEYS[key].of_model]
    asked = {problem.path for problem in found.problems} | found.open.keys()
    for problem in check({"description": "an import", "source": "an import", **values}, "model", ""):
        if first_key(problem.path) not in asked:
            problems.append(_placed(problem, found))
    return problems


def faults_of_row(found: Imported) -> list[Problem]:
    """Return the same of a row of a sweep."""
    values = {key: value for key, (value, _) in found.row.items()}
    problems = [problem for key, problem in found.open.items() if not KEYS[key].of_model]
    problems += [_placed(problem, found) for problem in check(values, "sweep", "", key="row")]
    missing = [key for key in _ROW_NEEDS if key not in values and key not in found.open]
    return problems + [_missing(key) for key in missing]


def _placed(problem: Problem, found: Imported) -> Problem:
    """A problem of one of our keys where the foreign file says it."""
    key = first_key(problem.path)
    if problem.rule == "missing_key" and problem.path == key:
        return _missing(key)
    file, path = found.places.get(key, ("", key))
    message = problem.message if path.endswith(key) else f"{key}: {problem.message}"
    return Problem(file, path, problem.rule, problem.value, message, problem.suggestion)


def _missing(key: str) -> Problem:
    return Problem("", key, "missing_key", "", f"no file says {key}", f"add {key}=... to the command")


def write_model(found: Imported, drafts: Iterable[Draft], path: Path) -> None:
    """Write a model's file: each value with the key that it came from, before them what is not modelled."""
    named = sorted({f"{Path(draft.file).name} ({draft.form})" for draft in drafts})
    head = {"description": f"Imported from {', '.join(named)}."}
    order = [key for key in load_schema("model")["properties"] if key in found.model]
    lines = [
        f"{key}: {_flow({'value': found.model[key][0], 'source': found.model[key][1][:_MAX_SOURCE]})}"
        for key in order
    ]
    _write(path, "model", [*_unread(drafts), *_block(head), *lines])


def write_row(found: Imported, drafts: Iterable[Draft], name: str, path: Path, with_model: bool) -> None:
    """Write a sweep of one row, of a model by name; comments say which key each value came from.

    `with_model` says that the model's own keys are written as a model; otherwise they stand in the row.
    """
    named = sorted({f"{Path(draft.file).name} ({draft.form})" for draft in drafts})
    said = found.row if with_model else found.model | found.row
    order = [key for key in KEYS if key in said and key != "model"]
    sources = [one_line(f"# {key}: {said[key][1]}") for key in order]
    row = {"model": name} | {key: said[key][0] for key in order}
    head = {"description": f"Imported from {', '.join(named)}."}
    _write(path, "sweep", [*_unread(drafts), *sources, *_block(head), "rows:", f"  - {_flow(row)}"])


def _unread(drafts: Iterable[Draft]) -> list[str]:
    return [
        one_line(f"# {Path(draft.file).name}: not modelled: {name}: {shown(value)}")
        for draft in drafts
        for name, value in draft.unread.items()
    ]


def _block(data: Mapping[str, Any]) -> list[str]:
    return yaml.safe_dump(data, sort_keys=False, width=_WIDTH, allow_unicode=True).splitlines()


def _flow(data: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(
        data, sort_keys=False, default_flow_style=True, width=1 << 30, allow_unicode=True
    )
    return text.strip()


def _write(path: Path, schema: str, lines: Iterable[str]) -> None:
    first = f"# yaml-language-server: $schema=../../schemas/{schema}.schema.json"
    with whole(path) as partial:
        partial.write_text("\n".join([first, *lines]) + "\n", encoding="utf-8")
