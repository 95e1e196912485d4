"""NAME=VALUE texts of the command line: which key of a workload they set, to what."""

from collections.abc import Iterable, Mapping
from typing import Any

from moesweep.edge.problems import BadInput, Problem, collect, did_you_mean, shown
from moesweep.edge.schema import check
from moesweep.edge.yaml_reader import read_yaml_text
from moesweep.study.keys import KEYS
from moesweep.study.routing import FORMS

ROUTING_WORDS = ("routing", *FORMS)


def assignments(words: Iterable[str]) -> dict[str, str]:
    """Return NAME -> VALUE of texts, as written; raise BadInput with all that are none or name one twice."""
    found: dict[str, str] = {}
    problems = []
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            message = f"{shown(word)} is not NAME=VALUE"
            problems.append(Problem("", word, "form", shown(word), message, "write ep=8, for example"))
        elif name in found:
            problems.append(Problem("", name, "duplicate", shown(word), f"{name} is given twice"))
        else:
            found[name] = value
    if problems:
        raise BadInput(problems)
    return found


def values(given: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, Any]:
    """Return the values of keys of a workload as a sweep says them; raise BadInput with all that cannot be.

    A routing may be written zipf:1.2. `also` are other names that one may mean.
    """
    problems: list[Problem] = []
    found = {}
    for name, text in given.items():
        if name not in KEYS or name == "listed":
            message = f"there is no key {shown(name)}"
            known = {*KEYS, *also} - {"listed"}
            problems.append(Problem("", name, "known", name, message, did_you_mean(name, known)))
            continue
        value = collect(problems, read_yaml_text, _routed(name, text), name)
        faults = [] if value is None else check({name: value}, "sweep", "", key="row")
        problems += faults
        found[name] = value
    if problems:
        raise BadInput(problems)
    return found


def _routed(name: str, text: str) -> str:
    """Return a routing's short form as YAML."""
    form, colon, rest = text.partition(":")
    return f"{{{form}: {rest}}}" if name == "routing" and colon and form in FORMS else text
