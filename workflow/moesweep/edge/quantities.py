"""Quantities with units: text such as "80 GiB" is read once, at the edge, into a number of base units."""

import math
import re
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from moesweep.edge.problems import shown

EXAMPLES = {
    "byte": "80 GiB",
    "byte/second": "200 Gbit/s",
    "flop/second": "312 TFLOP/s",
    "second": "4 us",
}
"""The base units a quantity can be asked for in, each with an example of how a user writes one."""

MAX_CHARACTERS = 60
"""Longest quantity: Python refuses numbers of thousands of digits in words of its own."""

_PREFIXES = {
    "nano": ("1e-9", "n"),
    "micro": ("1e-6", "u", "µ"),
    "milli": ("1e-3", "m"),
    "kilo": ("1e3", "k"),
    "mega": ("1e6", "M"),
    "giga": ("1e9", "G"),
    "tera": ("1e12", "T"),
    "peta": ("1e15", "P"),
    "kibi": ("1024", "Ki"),
    "mebi": ("1048576", "Mi"),
    "gibi": ("1073741824", "Gi"),
    "tebi": ("1099511627776", "Ti"),
}
"""Prefixes by name: what one stands for, and its symbols."""

_UNITS = {
    "byte": ("B", "[information]", ""),
    "bit": ("bit", "1/8", "byte"),
    "second": ("s", "[time]", ""),
    "minute": ("min", "60", "second"),
    "hour": ("h", "3600", "second"),
    "flop": ("FLOP", "[operation]", ""),
}
"""Units by name: symbol, and how many of another unit one is; of a base unit its dimension."""

# A number, a space or none, a unit or a quotient of two. Nothing of the text is ever evaluated.
_QUANTITY = re.compile(r"\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?)\s*(.*?)\s*")
_UNIT = re.compile(r"[A-Za-zµ]+(/[A-Za-zµ]+)?")


class QuantityError(ValueError):
    """A quantity that cannot be used: why (`message`), and what to write instead (`suggestion`)."""

    def __init__(self, message: str, suggestion: str) -> None:
        super().__init__(f"{message}; {suggestion}")
        self.message, self.suggestion = message, suggestion


@cache
def _registry() -> Any:
    """Return pint's registry of these units, which knows their whole names, also in the plural, as well.

    A registry of our own: in pint's default one a bit has no dimension, so "80" or "80 radian" would pass as
    bytes.
    """
    # Imported here: pint takes 0.1 to 0.4 s, and symbols need it not.
    import pint

    # Fractions, so that 2.039 TB/s is the float nearest to 2.039e12 and not one rounded twice.
    registry: Any = pint.UnitRegistry(None, non_int_type=Fraction)
    for name, (amount, *symbols) in _PREFIXES.items():
        registry.define(" = ".join([f"{name}-", amount, *(f"{symbol}-" for symbol in symbols)]))
    for name, (symbol, amount, base) in _UNITS.items():
        short = f" = {symbol}" if symbol != name else ""
        registry.define(f"{name} = {f'{amount} * {base}' if base else amount}{short}")
    return registry


@cache
def _symbols() -> dict[str, tuple[Fraction, str]]:
    """Return what each symbol stands for, with a prefix or without: how many of which base unit."""
    prefixes = {"": Fraction(1)}
    prefixes |= {symbol: Fraction(amount) for amount, *own in _PREFIXES.values() for symbol in own}
    return {
        f"{prefix}{symbol}": (times * Fraction(amount if base else 1), base or name)
        for prefix, times in prefixes.items()
        for name, (symbol, amount, base) in _UNITS.items()
    }


def _of_symbols(written: str, unit: str) -> Fraction | None:
    """Return how many `unit` a symbol, or a quotient of two, stands for; None unless it is such a unit's."""
    parts, wanted = [_symbols().get(part) for part in written.split("/")], unit.split("/")
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or [base for _, base in known] != wanted:
        return None
    return known[0][0] / math.prod((amount for amount, _ in known[1:]), start=Fraction(1))


def parse_quantity(value: object, unit: str) -> float:
    """The amount of `unit` (a key of EXAMPLES, or "" for a plain number) that `value` says.

    With a unit, `value` must be text such as "80 GiB"; without, a number. Raises QuantityError for a missing
    unit or one of another dimension, an unknown unit, and amounts that are negative, NaN or infinite.
    """
    try:
        amount = _with_unit(value, unit) if unit else _plain(value)
    except OverflowError:
        amount = math.inf
    if not math.isfinite(amount):
        raise QuantityError(f"{shown(value)} is not a finite number", _advice(unit))
    if amount < 0:
        positive = value.strip().lstrip("-") if isinstance(value, str) else amount * -1
        raise QuantityError(f"{shown(value)} is negative", f"write {positive}")
    return amount


def _advice(unit: str) -> str:
    """What to write where a quantity of a unit is needed, with an example."""
    if not unit:
        return "write it without unit or quotes, such as 0.9"
    return f'write a quantity in {unit}, such as "{EXAMPLES[unit]}"'


def _plain(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise QuantityError(f"{shown(value)} is not a plain number", _advice(""))
    return float(value)


def _with_unit(value: object, unit: str) -> float:
    if not isinstance(value, str):
        raise QuantityError(f"{shown(value)} has no unit", _advice(unit))
    match = _QUANTITY.fullmatch(value) if len(value) <= MAX_CHARACTERS else None
    if match is None:
        raise QuantityError(f"{shown(value)} is not a number with a unit", _advice(unit))
    number, written = match.groups()
    if not written:
        raise QuantityError(f"{shown(value)} has no unit", _advice(unit))
    return float(Fraction(number) * _factor(written, unit))


@lru_cache(256)
def _factor(written: str, unit: str) -> Fraction:
    """How many `unit` one `written` is."""
    found = _of_symbols(written, unit)
    if found is not None:
        return found
    registry = _registry()
    try:
        if not _UNIT.fullmatch(written):
            raise ValueError(written)
        parsed = registry.parse_units(written)
    except (ValueError, AttributeError):  # pint's UndefinedUnitError is an AttributeError
        raise QuantityError(f"unknown unit {shown(written)}", _advice(unit)) from None
    wanted = registry.parse_units(unit)
    if parsed.dimensionality != wanted.dimensionality:
        raise QuantityError(f"{shown(written)} is of another dimension", _advice(unit))
    return Fraction(registry.convert(Fraction(1), parsed, wanted))
