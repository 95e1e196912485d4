"""Numbers of the command line: in digits as everyone writes them.

Python's own reading takes 1_000 and digits of any script, and numbers that no column holds. The messages are
those of argparse.
"""

import re
from argparse import ArgumentTypeError

_WHOLE = re.compile(r"[-+]?[0-9]+")
_PLAIN = re.compile(r"[-+]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?|nan|inf)")
_MOST_DIGITS = 18


def whole_number(text: str) -> int:
    """Return the whole number that an argument is; raise ArgumentTypeError if it is none of 64 bits."""
    if not _WHOLE.fullmatch(text):
        raise ArgumentTypeError(f"invalid int value: {text!r}")
    if len(text.lstrip("+-")) > _MOST_DIGITS:
        raise ArgumentTypeError(f"{text} has more than {_MOST_DIGITS} digits")
    return int(text)


def plain_number(text: str) -> float:
    """Return the number that an argument is, nan and inf for the command to judge.

    Raises ArgumentTypeError if it is none.
    """
    if not _PLAIN.fullmatch(text):
        raise ArgumentTypeError(f"invalid float value: {text!r}")
    return float(text)


def is_index(text: str) -> bool:
    """Return whether a word is a whole number from 0, in digits that 64 bits hold."""
    return re.fullmatch(f"[0-9]{{1,{_MOST_DIGITS}}}", text) is not None
