"""Numbers and lists of numbers as Megatron's command line writes them: ([0]*3+[1]*58), 127,0."""

import ast
import re
from typing import Any, NoReturn

from moesweep.study.importers.draft import MAX_LAYERS

_LIST = re.compile(r"[0-9\[\]()+*, ]{1,2000}")


def number_or_list(said: Any) -> Any:
    """The number or list that a text such as ([0]*3+[1]*58) or 127,0 stands for; anything else as it is."""
    if not isinstance(said, str):
        return said
    value = _listed(said)
    return said if value is None else value


def _listed(text: str) -> Any:
    """The number or list of numbers that such a text stands for; None if it is neither."""
    if not _LIST.fullmatch(text):
        return None
    try:
        return _evaluated(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _evaluated(node: ast.AST) -> int | list[int]:
    """A number, a flat list of numbers, a sum of lists, a list several times. Raises ValueError."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        items = [_evaluated(item) for item in node.elts]
        if all(isinstance(item, int) for item in items):
            return [item for item in items if isinstance(item, int)]
    if isinstance(node, ast.BinOp):
        left, right = _evaluated(node.left), _evaluated(node.right)
        if isinstance(node.op, ast.Mult) and isinstance(left, list) and isinstance(right, int):
            return left * right if len(left) * right <= MAX_LAYERS else _too_long()
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return left + right if len(left) + len(right) <= MAX_LAYERS else _too_long()
    raise ValueError(ast.dump(node))


def _too_long() -> NoReturn:
    raise ValueError(f"more than {MAX_LAYERS} layers")
