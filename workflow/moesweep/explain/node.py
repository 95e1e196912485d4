"""One number of an explanation: its value, its place, and either the formula behind it or its origin."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from moesweep.explain.formula import Formula, Value, references
from moesweep.explain.number_units import unit_of


@dataclass(frozen=True)
class Origin:
    """Where an input is from: `file` gives it, `source` justifies it; a cluster's constants have a tag."""

    file: str
    source: str = ""
    tag: str = ""


@dataclass(frozen=True)
class Reading:
    """A formula as it applies to one row: only the alternatives taken, and the conditions that chose them."""

    formula: Formula
    conditions: tuple[str, ...] = ()


@dataclass(eq=False)
class Node:
    """A number with its explanation, which is read from the cost's expressions when it is first asked for.

    `key` is the same for the same number wherever it occurs in a tree; `where` names the row of a
    number that exists once per op, pass or stage. An input has an `origin` and no `read`. `quantity`
    is the column whose unit the number has, where its own name is not that of a column.
    """

    key: str
    name: str
    value: Value
    where: str = ""
    origin: Origin | None = None
    read: Callable[[], Reading] | None = field(default=None, repr=False)
    quantity: str = ""

    @property
    def unit(self) -> str:
        """The unit of the value; empty for a plain number or word."""
        return unit_of(self.quantity or self.name)

    @cached_property
    def reading(self) -> Reading | None:
        """The formula behind the number; None for an input."""
        return self.read() if self.read else None

    @cached_property
    def children(self) -> list["Node"]:
        """The numbers that the formula is made of."""
        return [] if self.reading is None else list(references(self.reading.formula))
