"""What is wrong with an input, in one form for every stage: each problem with its place and a way out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from typing import Literal, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Severity = Literal["error", "warning"]

SHOWN_CHARACTERS = 80
"""Longest rendering of an offending value: a huge value must not flood the terminal."""


@dataclass(frozen=True)
class Problem:
    """One broken rule at one place.

    file        the file as the user knows it, relative to the project where possible
    path        place in that file, such as `grids[0].tp[1]`, or `line 3, column 5` before there is structure
    rule        short name of the broken rule
    value       the offending value, as YAML would show it
    message     what is wrong, in words
    suggestion  the nearest legal values, or what to write instead
    workload    id of the workload concerned, where there is one
    """

    file: str
    path: str
    rule: str
    value: str
    message: str
    suggestion: str = ""
    severity: Severity = "error"
    workload: str = ""

    def line(self, number: int | None = None) -> str:
        """The problem on one line: `x.yaml:7: grids[0].tp: divides: 3 does not divide 512; nearest: 2, 4`.

        `number` is the line of the file, where it is known.
        """
        file = self.file if number is None else f"{self.file}:{number}"
        place = ": ".join(part for part in (file, self.path, self.rule) if part)
        advice = f"; {self.suggestion}" if self.suggestion else ""
        return one_line(f"{place}: {self.message}{advice}")


class BadInput(Exception):
    """The user's input cannot be used. Carries every problem found, in the order found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(problem.line() for problem in self.problems))


KNOWN_LISTED = 20
"""How many known words are listed where none is close."""


def collect(problems: list[Problem], step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """The result of a step, or None with its problems added to the list: later steps can still be tried."""
    try:
        return step(*args, **kwargs)
    except BadInput as error:
        problems += error.problems
        return None


def shown(value: object) -> str:
    """A value as YAML shows it, cut to a readable length: text in quotes, `true` and `null` in lower case."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, str):
        text = '"' + one_line(value) + '"'
    elif isinstance(value, dict | list):
        text = repr(value)
    else:
        text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def and_more(count: int) -> str:
    """What a message that stands for `count` alike adds: nothing for one, ` (and 3 more)` for four."""
    return f" (and {count - 1} more)" if count > 1 else ""


def one_line(text: str) -> str:
    """Text safe for one terminal line: control characters and line breaks are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def did_you_mean(word: str, known: Iterable[str], apart: float = 1.0) -> str:
    """`did you mean tp?` for a word close to known ones, otherwise the list of known ones.

    A second one is named where it is less than `apart` less like the word than the first, from 0 to 1.
    """
    choices = sorted(known)
    same = next((choice for choice in choices if choice.lower() == word.strip().lower()), None)
    if same is not None:
        return f"did you mean {same}?"
    close = get_close_matches(word, choices, n=2, cutoff=0.6)
    if close:
        least = _likeness(word, close[0]) - apart
        return f"did you mean {' or '.join(choice for choice in close if _likeness(word, choice) > least)}?"
    listed = ", ".join(choices[:KNOWN_LISTED]) + (", ..." if len(choices) > KNOWN_LISTED else "")
    return f"known: {listed}" if choices else ""


def _likeness(word: str, choice: str) -> float:
    return SequenceMatcher(None, choice, word).ratio()
