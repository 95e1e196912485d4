"""What tests of explanations share: all nodes of a tree, and whether each agrees with its formula."""

import math
from collections.abc import Iterator

from moesweep.explain.formula import evaluate
from moesweep.explain.node import Node

CLOSE = 1e-12


def everything_below(root: Node) -> Iterator[Node]:
    """Yield every distinct node of a tree."""
    seen, pending = set(), [root]
    while pending:
        node = pending.pop()
        if node.key not in seen:
            seen.add(node.key)
            yield node
            pending += node.children


def agrees(node: Node) -> bool:
    """Whether a node's value is what its formula comes to."""
    if node.reading is None:
        return node.origin is not None
    if isinstance(node.value, str):
        return True
    assert node.value is not None
    return math.isclose(evaluate(node.reading.formula), node.value, rel_tol=CLOSE, abs_tol=1e-18)
