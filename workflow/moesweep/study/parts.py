"""A sweep's file as its parts: read, checked, its models found, each fault kept to the part it lies in."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesweep.edge.paths import provided
from moesweep.edge.problems import BadInput, Problem
from moesweep.edge.schema import MAX_PROBLEMS, check, first_key
from moesweep.edge.yaml_reader import read_yaml
from moesweep.study.blocks import CLUSTER, Said
from moesweep.study.claims import Claim, claims_of, contradictions
from moesweep.study.keys import KEYS
from moesweep.study.models import given_by_model
from moesweep.study.routing import with_texts

MAX_FILE_BYTES = 64_000_000
MAX_ROWS = 100_000

_UNRULED = "recompute|flash_attention|distributed_optimizer|dtype|framework|blocking_launches|routing"
_OF_SOME = re.compile(rf"(grids|rows)\[|claims\b|options\.({_UNRULED})\b")
"""Paths of problems that do not concern every workload's numbers."""


@dataclass(frozen=True)
class Parts:
    """What can be understood of a sweep's file: grids and rows by their path, and what it says beside."""

    listed: dict[str, dict[str, Any]]
    said: Said
    twins: bool
    claims: tuple[Claim, ...]


def read_parts(root: Path, path: Path | str, space: bool = False) -> tuple[Parts, list[Problem]]:
    """Return what can be understood of a sweep's file, or a space's, and every fault of the rest.

    Nothing is listed where a fault concerns all parts. Raises BadInput if the file is no YAML.
    """
    file = shown_path(root, path)
    return parts_of(root, read_yaml(provided(root, str(path)), file, MAX_FILE_BYTES), file, space)


def parts_of(root: Path, data: Any, file: str, space: bool = False) -> tuple[Parts, list[Problem]]:
    """Return the same of data that a file holds, or that is said elsewhere: problems call it `file`."""
    problems = _faults(data, file)
    if not space:
        problems += _of_spaces(data, file)
    models, unknown = _models(root, data, file)
    malformed = {problem.path for problem in problems}
    problems += [problem for problem in unknown if problem.path not in malformed]
    parts, misrouted = with_texts(_understood(data, problems, models, file), root, file)
    said = Said(file, parts.pop("options", {}), models)
    twins = isinstance(data, dict) and data.get("twins") is True
    claims = _claims(data, problems)
    problems += [*misrouted, *contradictions(claims, file)]
    return Parts(_unharmed(parts, misrouted), said, twins, claims), problems


def _claims(data: Any, problems: list[Problem]) -> tuple[Claim, ...]:
    """The claims of a sweep, none where one is malformed."""
    if not isinstance(data, dict) or any(first_key(problem.path) == "claims" for problem in problems):
        return ()
    return claims_of(data.get("claims", ()))


def items(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The grids and rows of a sweep by their path, such as `grids[0]`, in order."""
    return {f"{part}[{i}]": item for part in ("grids", "rows") for i, item in enumerate(data.get(part, []))}


def _faults(data: Any, file: str) -> list[Problem]:
    """What the schema finds. Of many rows each distinct value of a key is checked once."""
    rows = data.get("rows") if isinstance(data, dict) else None
    if not isinstance(rows, list) or not rows:
        return check(data, "sweep", file)
    problems = check({**data, "rows": rows[:1]}, "sweep", file)
    if len(rows) > MAX_ROWS:
        message = f"{len(rows)} rows; the limit is {MAX_ROWS}"
        return [*problems, Problem(file, "rows", "range", str(len(rows)), message, "split the sweep")]
    sound: dict[tuple[str, str], bool] = {}
    for number, row in enumerate(rows[1:], start=1):
        if not (isinstance(row, dict) and all(_is_sound(key, row[key], sound) for key in row)):
            problems += check(row, "sweep", file, key="row", prefix=f"rows[{number}]")
        if len(problems) >= MAX_PROBLEMS:
            break
    return problems


def _is_sound(key: str, value: Any, known: dict[tuple[str, str], bool]) -> bool:
    form = KEYS[key].form if key in KEYS else {}
    if type(value) is int and "integer" in form.get("type", ()):
        return bool(form["minimum"] <= value <= form["maximum"])
    pair = key, repr(value)
    if pair not in known:
        known[pair] = not check({key: value}, "sweep", "", key="row")
    return known[pair]


def _of_spaces(data: Any, file: str) -> list[Problem]:
    """A problem wherever an ordinary sweep names clusters, which are an axis of spaces."""
    if not isinstance(data, dict):
        return []
    parts = {"options": data.get("options")}
    for name in ("grids", "rows"):
        listed = data.get(name)
        parts |= {f"{name}[{i}]": item for i, item in enumerate(listed if isinstance(listed, list) else [])}
    message = "cluster is an axis of spaces alone (moesweep screen)"
    return [
        Problem(file, f"{path}.{CLUSTER}", "space_only", "", message, "name the cluster in the configuration")
        for path, part in parts.items()
        if isinstance(part, dict) and CLUSTER in part
    ]


def _understood(
    data: Any, problems: list[Problem], models: Mapping[str, Any], file: str
) -> dict[str, dict[str, Any]]:
    """The options, grids and rows by path that no problem concerns; empty if one concerns them all.

    A faulty option that no rule judges others by falls back to its default.
    """
    here = [problem for problem in problems if problem.file == file]
    if not all(_OF_SOME.match(problem.path) for problem in here):
        return {}
    given = {f"options.{key}": value for key, value in data.get("options", {}).items()}
    options = {path.removeprefix("options."): value for path, value in _unharmed(given, here).items()}
    sound = _unharmed(items(data), here)
    listed = {path: item for path, item in sound.items() if _named(options | item) <= models.keys()}
    return {"options": options, **listed}


def _unharmed(parts: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The parts, by path, that no problem lies in."""
    ends = re.compile(r"[.\[]|$")
    harmed = {problem.path[: end.start()] for problem in problems for end in ends.finditer(problem.path)}
    return {path: part for path, part in parts.items() if path not in harmed}


def _named(part: Mapping[str, Any]) -> set[str]:
    """The models that a part of a sweep names."""
    names = part.get("model", [])
    return {names} if isinstance(names, str) else set(names)


def shown_path(root: Path, path: Path | str) -> str:
    """The path as problems show it: from the root where it lies inside."""
    full = root / path
    return str(full.relative_to(root)) if full.is_relative_to(root) else str(path)


def _models(root: Path, data: Any, file: str) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Every model the sweep names, and the problems with them, placed where the sweep names them."""
    models: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for path, name in _model_mentions(data):
        if name in models:
            continue
        try:
            models[name] = given_by_model(root, name)
        except BadInput as bad:
            unknown = [
                replace(p, file=file, path=path) if p.rule == "unknown_model" else p for p in bad.problems
            ]
            problems += [problem for problem in unknown if problem not in problems]
    return models, problems


def _model_mentions(data: Any) -> Iterator[tuple[str, str]]:
    """(path, name) of every model name in a sweep that may still be malformed."""
    if not isinstance(data, dict):
        return
    places = [("options", data.get("options"))]
    for part in ("grids", "rows"):
        items = data.get(part)
        places += [(f"{part}[{i}]", item) for i, item in enumerate(items if isinstance(items, list) else [])]
    for path, item in places:
        names = item.get("model") if isinstance(item, dict) else None
        if isinstance(names, str):
            yield f"{path}.model", names
        for i, name in enumerate(names if isinstance(names, list) else []):
            if isinstance(name, str):
                yield f"{path}.model[{i}]", name
