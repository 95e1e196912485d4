"""Reading of configuration files: a small, strict part of YAML, so that a file means what it seems to mean.

Refused, because none of it is needed here and each has a trap: duplicate keys (the last one would win
silently), anchors and aliases (a few lines can expand to gigabytes), tags (they construct objects), several
documents in a file. Plain scalars follow the YAML 1.2 core schema, in which `no` and `1:30` are text and
`1e9` is a number.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.edge.textfile import read_text

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_NUMBER_CHARACTERS = 40

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}


def read_yaml(path: Path, name: str | None = None, max_bytes: int = MAX_FILE_BYTES) -> Any:
    """Read one YAML file into dicts, lists and scalars. Problems call it `name` (default: its path).

    Raises BadInput for a missing, oversized, non-UTF-8 or malformed file, and for the refused parts of YAML.
    """
    name = name or str(path)
    return read_yaml_text(read_text(path, name, max_bytes), name)


def read_yaml_text(text: str, name: str) -> Any:
    """Read YAML text as `read_yaml` reads a file; problems call it `name`."""
    import yaml

    try:
        return _Builder(name).build(events_of(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else _unreadable(text, error)
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be parsed"
        raise BadInput([Problem(name, where, "yaml_syntax", "", f"not valid YAML: {what}")]) from None


def _unreadable(text: str, error: Exception) -> str:
    """Where a character stands that YAML has no place for; nothing where it is something else."""
    code = getattr(error, "character", None)
    at = text.find(chr(code)) if isinstance(code, int) else -1
    return f"line {text.count(chr(10), 0, at) + 1}" if at >= 0 else ""


def events_of(text: str) -> Iterator[Any]:
    """Return the events of PyYAML's parser, in C where it is there; each has `start_mark`."""
    import yaml

    return yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


class _Builder:
    """Builds the data from parser events, without recursion, and refuses what the module docstring names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        # For each open mapping, its key that waits for a value; None elsewhere.
        self.keys: list[Any] = []
        self.document: Any = None
        self.documents = 0

    def build(self, events: Any) -> Any:
        """Return the data of all events; raise BadInput at the first that is refused."""
        for event in events:
            self.handle(event)
        return self.document

    def handle(self, event: Any) -> None:
        """Take one event into what is being built."""
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            self.documents += 1
            if self.documents > 1:
                self.refuse(
                    event, "one_document", "a second document in the file", "keep one document a file"
                )
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self.check_plain(event)
            if len(self.stack) >= MAX_DEPTH:
                self.refuse(event, "depth", f"nested more than {MAX_DEPTH} levels deep")
            self.stack.append({} if kind == "MappingStartEvent" else [])
            self.keys.append(None)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self.keys.pop()
            self.add(self.stack.pop(), event)
        elif kind == "ScalarEvent":
            self.check_plain(event)
            self.add(self.scalar(event), event)
        elif kind == "AliasEvent":
            self.refuse(event, "alias", "aliases (*name) are not accepted", "write the value out")

    def check_plain(self, event: Any) -> None:
        """Refuse a value with an anchor or a tag."""
        if event.anchor is not None:
            self.refuse(event, "alias", f"anchors (&{event.anchor}) are not accepted", "write the value out")
        if event.tag is not None:
            self.refuse(event, "tag", f"tags ({event.tag}) are not accepted", "remove the tag")

    def add(self, value: Any, event: Any) -> None:
        """Put a finished value where it belongs: into the open list or mapping, as key or value."""
        if not self.stack:
            self.document = value
        elif isinstance(self.stack[-1], list):
            self.stack[-1].append(value)
        elif self.keys[-1] is None:
            self.keys[-1] = self.key(value, event)
        else:
            self.stack[-1][self.keys[-1]] = value
            self.keys[-1] = None

    def key(self, value: Any, event: Any) -> str:
        """Return a key of the open mapping; refuse what is no text or is there already."""
        if not isinstance(value, str):
            self.refuse(event, "key", f"a key must be text, not {shown(value)}", "put it in quotes")
        if value in self.stack[-1]:
            self.refuse(event, "duplicate_key", f"the key {value} is given twice", "remove one of them")
        return str(value)

    def scalar(self, event: Any) -> object:
        """Return what a plain value means, text in quotes as it stands."""
        text: str = event.value
        if not event.implicit[0]:
            return text
        if text in _WORDS:
            return _WORDS[text]
        integer = _INTEGER.fullmatch(text)
        if not integer and not _FLOAT.fullmatch(text):
            return text
        if len(text) > MAX_NUMBER_CHARACTERS:
            self.refuse(event, "number", f"a number of {len(text)} characters")
        return int(text) if integer else float(text)

    def refuse(self, event: Any, rule: str, message: str, suggestion: str = "") -> None:
        """Raise BadInput with the line and column of an event."""
        mark = event.start_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}"
        raise BadInput([Problem(self.name, where, rule, "", message, suggestion)])
