"""An explanation as a text tree or as JSON."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from moesweep.explain.formula import Call, Constant, Formula, shown, text
from moesweep.explain.node import Node, Origin
from moesweep.explain.number_units import with_unit

WRITTEN_OUT = 6
"""The longest sum or maximum that a formula writes out; of a longer one the parts are listed below it."""


@dataclass
class TextTree:
    """Renders a node and what is below it, `depth` levels down, with the `top` largest parts of long sums.

    A number that occurs again is explained where it occurs first.
    """

    width: int
    depth: int
    top: int
    _explained: set[str] = field(default_factory=set)

    def lines(self, node: Node) -> Iterator[str]:
        """Yield the lines of a tree."""
        yield from self._node(node, None, "", "", 0)

    def _node(self, node: Node, parent: Node | None, first: str, rest: str, level: int) -> Iterator[str]:
        reading = node.reading
        again = reading is not None and node.key in self._explained and bool(node.children)
        deeper = bool(node.children) and level >= self.depth and not again
        mark = "  (as above)" if again else "  …" if deeper else ""
        title = f"{called(node, parent)} = {with_unit(node.value, node.unit)}{mark}"
        expanded = reading is not None and not again and not deeper
        below = bool(node.children) and expanded
        stem = rest + ("│  " if below else "   ")
        yield from self._wrapped(title, first, stem)
        if node.origin:
            yield from self._wrapped(origin_text(node.origin), stem, stem)
        if reading is not None and expanded:
            self._explained.add(node.key)
            for line in _formula_lines(node, reading.formula, reading.conditions):
                yield from self._wrapped(line, stem, stem + "  ")
            yield from self._children(node, rest, level)

    def _children(self, node: Node, rest: str, level: int) -> Iterator[str]:
        children, left_out = largest(node, self.top)
        decided = decisive(node)
        for number, child in enumerate(children):
            last = number == len(children) - 1 and not left_out
            first, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
            # Of what a maximum does not pick, the value says enough.
            inner = level + 1 if decided in (None, child) else self.depth
            yield from self._node(child, node, rest + first, rest + below, inner)
        if left_out:
            yield from self._wrapped(remainder(node, left_out), rest + "└─ ", rest + "   ")

    def _wrapped(self, line: str, first: str, rest: str) -> list[str]:
        return textwrap.wrap(
            line,
            max(self.width, len(rest) + 30),
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )


def as_json(node: Node, depth: int) -> dict[str, Any]:
    """Return a node and what is below it as plain data, every part of every sum included."""
    data: dict[str, Any] = {"name": node.name, "value": node.value, "unit": node.unit, "where": node.where}
    if node.origin:
        data["origin"] = {"file": node.origin.file, "source": node.origin.source, "tag": node.origin.tag}
    if node.reading is not None:
        data["formula"] = text(node.reading.formula, lambda child: child.name)
        data["numbers"] = text(node.reading.formula, lambda child: shown(child.value))
        data["conditions"] = list(node.reading.conditions)
        if depth > 0:
            data["children"] = [as_json(child, depth - 1) for child in node.children]
    return data


def origin_text(origin: Origin) -> str:
    """Return where an input is from, on one line."""
    tag = f"{origin.tag}: " if origin.tag else ""
    place = f" ({origin.file})" if origin.file and origin.source else origin.file
    return f"{tag}{origin.source}{place}"


def largest(node: Node, top: int) -> tuple[list[Node], list[Node]]:
    """Return a node's children, and those beyond the `top` largest ones of a long sum or maximum."""
    formula = None if node.reading is None else node.reading.formula
    if not (isinstance(formula, Call) and formula.operation in ("sum", "max") and len(node.children) > top):
        return node.children, []
    return node.children[:top], node.children[top:]


def decisive(node: Node) -> Node | None:
    """Return the child that a node's maximum picks; None if the node is not a maximum of others."""
    formula = None if node.reading is None else node.reading.formula
    if not (isinstance(formula, Call) and formula.operation == "max" and node.children):
        return None
    return max(node.children, key=lambda child: float(child.value or 0))


def remainder(node: Node, left_out: list[Node]) -> str:
    """Return what the children that are not shown come to."""
    values = [float(child.value or 0) for child in left_out]
    formula = None if node.reading is None else node.reading.formula
    if isinstance(formula, Call) and formula.operation == "max":
        return f"{len(left_out)} more, none above {with_unit(max(values), node.unit)}"
    return f"{len(left_out)} more = {with_unit(sum(values), node.unit)} together"


def _formula_lines(node: Node, formula: Formula, conditions: tuple[str, ...]) -> Iterator[str]:
    if isinstance(formula, Call) and len(formula.arguments) > WRITTEN_OUT:
        words = {"sum": "the sum", "max": "the greatest"}.get(formula.operation)
        if words:
            yield f"= {words} of {len(formula.arguments)}"
            yield from _because(conditions)
            return
    if not isinstance(formula, Constant):
        yield f"= {text(formula, lambda child: called(child, node))}"
        yield f"= {text(formula, lambda child: shown(child.value))}"
    yield from _because(conditions)


def _because(conditions: tuple[str, ...]) -> Iterator[str]:
    if conditions:
        yield f"as {', '.join(conditions)}"


def called(node: Node, parent: Node | None) -> str:
    """Return a node's name, with its place where that is another than its parent's."""
    above = "" if parent is None else parent.where
    place = node.where.removeprefix(f"{above}, ")
    if node.name == node.where:
        return place
    return node.name if node.where in ("", above) else f"{node.name}[{place}]"
