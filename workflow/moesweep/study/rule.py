"""What a rule is, how it finds the nearest legal values, and what several rules look at."""

from dataclasses import dataclass
from functools import cache
from math import gcd, isqrt

import polars as pl

from moesweep.edge.problems import Severity

_c = pl.col

MLA, WINDOWED = _c("attention") == "mla", _c("window_size") != "none"
STAGE_RANKS = _c("world_size") // _c("pp")
PP_FITS = _c("world_size") % _c("pp") == 0
TP_FITS = PP_FITS & (STAGE_RANKS % _c("tp") == 0)
CP_FITS = TP_FITS & (STAGE_RANKS % (_c("tp") * _c("cp")) == 0)
"""Whether the ranks can be told apart by pp, then by tp, then by cp."""


@dataclass(frozen=True)
class Rule:
    """One rule: `violated` is true where the value of the column `key` breaks it.

    `message` may name columns in braces. `nearest` gives, on violating rows, as text the nearest values that
    do not break it, or what else to do. `also` names another key that could mend it and gives its values.
    """

    name: str
    severity: Severity
    key: str
    violated: pl.Expr
    message: str
    nearest: pl.Expr
    also: tuple[str, pl.Expr] | None = None


def nearest_divisors(value: str, *numbers: pl.Expr, most: pl.Expr | None = None) -> pl.Expr:
    """As text, the nearest values below and above the column `value` that divide all `numbers`.

    None of them is above `most`.
    """

    def nearest(row: dict[str, int]) -> str:
        given, limit = row.pop("value"), row.pop("most")
        known = [d for d in _divisors(gcd(*row.values())) if d <= limit]
        around = [d for d in known if d < given][-1:] + [d for d in known if d > given][:1]
        return "nearest: " + ", ".join(map(str, around)) if around else ""

    parts = [number.alias(str(i)) for i, number in enumerate(numbers)]
    limit = pl.lit(1 << 62) if most is None else most
    fields = pl.struct(pl.col(value).alias("value"), limit.alias("most"), *parts)
    return fields.map_elements(nearest, return_dtype=pl.String)


def all_divisors(*numbers: pl.Expr) -> pl.Expr:
    """The values that divide all `numbers`, as a list."""
    fields = pl.struct(number.alias(str(i)) for i, number in enumerate(numbers))
    return fields.map_elements(lambda row: _divisors(gcd(*row.values())), return_dtype=pl.List(pl.Int64))


def nearest_multiples(value: str, unit: pl.Expr) -> pl.Expr:
    """As text, the nearest positive multiples of `unit` below and above the column `value`."""
    below = pl.col(value) // unit * unit
    pair = pl.format("nearest: {}, {}", below, below + unit)
    return pl.when(below > 0).then(pair).otherwise(pl.format("nearest: {}", unit))


def nearest_is(value: pl.Expr | str | int) -> pl.Expr:
    """As text, the one nearest legal value."""
    return pl.format("nearest: {}", value if isinstance(value, pl.Expr) else pl.lit(value))


@cache
def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def error(name: str, key: str, violated: pl.Expr, message: str, nearest: pl.Expr) -> Rule:
    """Return a rule whose violation stops the run."""
    return Rule(name, "error", key, violated, message, nearest)


def warning(
    name: str,
    key: str,
    violated: pl.Expr,
    message: str,
    nearest: pl.Expr,
    also: tuple[str, pl.Expr] | None = None,
) -> Rule:
    """Return a rule whose violation is worth a word."""
    return Rule(name, "warning", key, violated, message, nearest, also)
