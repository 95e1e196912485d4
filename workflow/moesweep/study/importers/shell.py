"""A shell script as the words of its commands, without running it: its variables and arrays filled in.

What only a run would know (commands' output, arguments, other files, branches that set a variable
differently) stays as it is written, with its `$`.
"""

import ast
import operator
import re
import shlex

MAX_CHARACTERS = 200_000
"""Of all words, filled in."""

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?:\[[@*]\])?(?::?-([^{}]*))?\}|([A-Za-z_]\w*))")
_ARITHMETIC = re.compile(r"\$\(\(([^$;&|]{1,200}?)\)\)")
_NAME = re.compile(r"[A-Za-z_]\w*")
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


class TooLong(Exception):
    """Variables that fill each other in without end, or nearly so."""


class Script:
    """The variables that a script sets, and the words of its commands.

    Raises ValueError for a text whose quotes do not close.
    """

    def __init__(self, text: str) -> None:
        self.variables: dict[str, str | None] = {}
        self.words: list[str] = []
        self._read(_ARITHMETIC.sub(lambda found: found[0].replace(" ", ""), text.replace("\\\n", " ")))

    def value(self, name: str) -> str:
        """Return a variable filled in; empty where it is not set, or set differently in places."""
        return self.filled(self.variables.get(name) or "")

    def commands(self) -> list[str]:
        """Return the words of all commands, filled in. Raises TooLong."""
        found: list[str] = []
        for word in self.words:
            text = self.filled(word)
            found += text.split() if text != word else [text]
        return found

    def filled(self, text: str) -> str:
        """Return a text with the variables that are known, and sums of numbers, filled in. Raises TooLong."""
        for _ in range(len(self.variables) + 1):
            before, text = text, _VARIABLE.sub(self._variable, text)
            text = _ARITHMETIC.sub(self._sum, text)
            if len(text) > MAX_CHARACTERS:
                raise TooLong
            if text == before:
                break
        return text

    def _variable(self, found: re.Match[str]) -> str:
        name = found[1] or found[3]
        known = self.variables.get(name)
        if known is None and name not in self.variables and found[2] is not None:
            return found[2]
        return found[0] if known is None else known

    def _sum(self, found: re.Match[str]) -> str:
        text = _NAME.sub(lambda name: self.variables.get(name[0]) or name[0], found[1]).replace("/", "//")
        try:
            return str(_number(ast.parse(text, mode="eval").body))
        except (SyntaxError, ValueError, ArithmeticError, RecursionError):
            return found[0]

    def _read(self, text: str) -> None:
        lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.commenters = True, "#"
        array: tuple[str, bool, list[str]] | None = None
        for word in lexer:
            found = None if array else _ASSIGNMENT.fullmatch(word)
            if found and found[3].startswith("("):
                array = found[1], bool(found[2]), [found[3][1:]]
            elif found:
                self._set(found[1], found[3], bool(found[2]))
            elif array:
                array[2].append(word)
            else:
                self.words.append(word)
            if array and array[2][-1].endswith(")") and array[2][-1].count(")") > array[2][-1].count("("):
                name, more, items = array
                self._set(name, " ".join([*items[:-1], items[-1][:-1]]), more)
                array = None

    def _set(self, name: str, value: str, more: bool) -> None:
        """Set a variable, its own value before filled in; one that is set to two values is not known."""
        known = self.variables.get(name)
        value = _VARIABLE.sub(lambda found: self._own(name, found), value)
        if more:
            self.variables[name] = f"{known or ''} {value}"
        elif name in self.variables and (known is None or (known != value and known not in value)):
            # Which branch runs is not known.
            self.variables[name] = None
        else:
            self.variables[name] = value

    def _own(self, name: str, found: re.Match[str]) -> str:
        if name != (found[1] or found[3]):
            return found[0]
        known = self.variables.get(name)
        return found[2] or "" if known is None else known


def _number(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        number: int = _OPERATORS[type(node.op)](_number(node.left), _number(node.right))
        if abs(number) < 1 << 63:
            return number
    raise ValueError
