"""Line numbers of problems in YAML files, found when problems are shown: editors jump to `file:line`.

The data that a file is read into knows no lines. So the events of PyYAML's parser, whose marks do, are walked
once more, only for files that somebody complains of.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from moesweep.edge.problems import BadInput, Problem
from moesweep.edge.schema import place
from moesweep.edge.textfile import read_text
from moesweep.edge.yaml_reader import MAX_DEPTH, MAX_FILE_BYTES, events_of

SUFFIXES = (".yaml", ".yml")


def numbered(problems: Iterable[Problem]) -> list[str]:
    """Return each problem on one line, with the line of the file that it is about, where there is one."""
    lines_of = cache(_lines_of)
    return [problem.line(_line(lines_of(problem.file), problem.path)) for problem in problems]


def lines_of_text(text: str) -> dict[str, int]:
    """Return the line, from 1, of each place in a YAML text: `grids[0].tp[1]` as problems write it.

    A key stands where its name does, an element of a list where it begins. What lies deeper than files are
    read has none, an alias and a key that is no scalar neither, nor what follows them.
    """
    lines: dict[str, int] = {}
    # Of each open mapping or list, where it stands, and the key or index that comes next.
    stack: list[tuple[str, Any]] = []
    for event in events_of(text):
        kind = type(event).__name__
        if kind in ("MappingEndEvent", "SequenceEndEvent"):
            stack.pop()
            continue
        if kind not in ("MappingStartEvent", "SequenceStartEvent", "ScalarEvent", "AliasEvent"):
            continue
        names_the_next = bool(stack) and stack[-1][1] is None
        if len(stack) > MAX_DEPTH or kind == "AliasEvent" or (names_the_next and kind != "ScalarEvent"):
            break
        here = _next(stack, event, lines)
        if here is not None and kind != "ScalarEvent":
            stack.append((here, None if kind == "MappingStartEvent" else 0))
    return lines


def _next(stack: list[tuple[str, Any]], event: Any, lines: dict[str, int]) -> str | None:
    """Return where the value that begins stands; None where it is the key of the value to come."""
    if not stack:
        return ""
    prefix, waits = stack.pop()
    if waits is None:
        key = place(prefix, [event.value])
        lines[key] = event.start_mark.line + 1
        stack.append((prefix, key))
        return None
    if isinstance(waits, int):
        here = place(prefix, [waits])
        lines[here] = event.start_mark.line + 1
        stack.append((prefix, waits + 1))
        return here
    stack.append((prefix, None))
    return str(waits)


def _lines_of(file: str) -> dict[str, int]:
    import yaml

    if not file.endswith(SUFFIXES):
        return {}
    try:
        return lines_of_text(read_text(Path(file), file, MAX_FILE_BYTES))
    except (BadInput, yaml.YAMLError):
        return {}


def _line(lines: dict[str, int], path: str) -> int | None:
    """Return the line of a place or, where a key is missing, of what it is missing from."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path)
