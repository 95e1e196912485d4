"""Reading of strangers' files: small, of one encoding, without code; nothing they name is opened."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.edge.textfile import read_text
from moesweep.edge.yaml_reader import MAX_DEPTH, MAX_NUMBER_CHARACTERS

MAX_FILE_BYTES = 4_000_000

_BRACKETS = re.compile(r'"(?:\\.|[^"\\])*"|[\[{\]}]')


def read_foreign(path: Path) -> str:
    """Return a file's text; raise BadInput if it is missing, larger than MAX_FILE_BYTES or no UTF-8."""
    return read_text(path, str(path), MAX_FILE_BYTES)


def read_json(text: str, file: str) -> Any:
    """Return JSON as data; raise BadInput for what is none, and for what readers take differently.

    Keys given twice, NaN and infinities, numbers of more than 40 characters or beyond doubles, and more
    levels than a configuration may have.
    """

    def refused(rule: str, message: str, where: str = "") -> NoReturn:
        raise BadInput([Problem(file, where, rule, "", message)])

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return a mapping; refuse a key that is given twice."""
        data = dict(found)
        if len(data) < len(found):
            ((name, _),) = Counter(name for name, _ in found).most_common(1)
            refused("duplicate_key", f"the key {shown(name)} is given twice")
        return data

    def number(written: str) -> float:
        """Return a number; refuse one that is too long, or no finite one."""
        if len(written) > MAX_NUMBER_CHARACTERS:
            refused("number", f"a number of {len(written)} characters")
        value = float(written)
        if value in (float("inf"), float("-inf")):
            refused("number", f"{written} is beyond any number")
        return int(written) if re.fullmatch(r"-?[0-9]+", written) else value

    if _depth(text) > MAX_DEPTH:
        refused("depth", f"nested more than {MAX_DEPTH} levels deep")
    try:
        return json.loads(
            text,
            object_pairs_hook=pairs,
            parse_int=number,
            parse_float=number,
            parse_constant=lambda word: refused("number", f"{word} is no number"),
        )
    except json.JSONDecodeError as error:
        refused("json_syntax", f"not valid JSON: {error.msg}", f"line {error.lineno}, column {error.colno}")


def _depth(text: str) -> int:
    depth = most = 0
    for found in _BRACKETS.finditer(text):
        if found[0] in "[{":
            depth += 1
            most = max(most, depth)
        elif found[0] in "]}":
            depth -= 1
    return most
