"""What is made of a foreign file: values with the key that each came from, and what was left."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moesweep.edge.problems import Problem, shown
from moesweep.study.keys import KEYS

DEFAULT = "Megatron's default"
"""How the source of a value begins that no file says."""

MAX_LAYERS: int = KEYS["num_layers"].form["maximum"]


class Told:
    """The keys of a foreign file with their values; what is taken is crossed off."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)
        self.taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def take(self, name: str, default: Any = None) -> Any:
        """Return the value of a key and cross it off; null, like a missing one, is the default."""
        self.taken.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def left(self) -> dict[str, Any]:
        """Return what was not taken."""
        return {name: value for name, value in self.values.items() if name not in self.taken}


@dataclass
class Draft:
    """A model and a row in the making.

    file       the foreign file, as the user names it
    form       what it is: an architecture, `Megatron launch script`
    model      model keys: value, and where it is from
    row        the other keys of a row of a sweep, likewise
    unread     foreign keys that nothing here knows or models, with their values
    idle       foreign keys that say nothing about what is modelled
    open       keys whose values only a run would know: foreign key, and what stands there
    problems   what is wrong with the file
    """

    file: str
    form: str
    model: dict[str, tuple[Any, str]] = field(default_factory=dict)
    row: dict[str, tuple[Any, str]] = field(default_factory=dict)
    unread: dict[str, Any] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    open: dict[str, tuple[str, str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def at(self, name: str) -> str:
        """Return a source: the file's name and a key in it."""
        return f"{Path(self.file).name}: {name}"

    def say(self, key: str, value: Any, source: str) -> None:
        """Give a key its value; one that is not modelled is left."""
        if key not in KEYS:
            name, _, place = source.partition(": ")
            self.unread[place if name == Path(self.file).name else key] = value
            return
        part = self.model if KEYS[key].of_model else self.row
        part[key] = (value, source)

    def copy(
        self, told: Told, key: str, *names: str, value: Callable[[Any], Any] = lambda value: value
    ) -> bool:
        """Give a key the value of the first of some foreign keys that is said; return whether one is."""
        said = next((name for name in names if name in told), None)
        told.taken.update(names)
        if said is None:
            return False
        self.say(key, value(told.values[said]), self.at(said))
        return True

    def leave(self, told: Told, idle: Iterable[str]) -> None:
        """List what was not taken: as idle what is of those names, or off; others with their values."""
        for name, value in told.left().items():
            if name in idle or value is None or value is False:
                self.idle.append(name)
            else:
                self.unread[name] = value

    def refuse(self, path: str, rule: str, value: Any, message: str, advice: str = "") -> None:
        """Note a problem of the foreign file."""
        self.problems.append(Problem(self.file, path, rule, shown(value), message, advice))


def whole(draft: Draft, told: Told, name: str, default: int = 0) -> int:
    """Return a foreign key, a whole number; a default where it is not said, or, with a problem, is none."""
    value = told.take(name, default)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    draft.refuse(name, "type", value, f"{shown(value)} where a whole number is needed")
    return default


def numbers(draft: Draft, told: Told, name: str) -> list[int]:
    """Return a foreign key that must be a list of whole numbers, likewise; empty where it is not said."""
    value = told.take(name, [])
    if isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) for item in value
    ):
        return value
    draft.refuse(name, "type", value, f"{shown(value)} where a list of whole numbers is needed")
    return []


def layers_of(draft: Draft, told: Told, name: str) -> range:
    """Return the numbers of a model's layers, as many as a foreign key says and a model may have."""
    return range(min(whole(draft, told, name), MAX_LAYERS))
