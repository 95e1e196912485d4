"""Numbers and words for people: prefixes, significant digits."""

import polars as pl

_BINARY = (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("B", 1.0))
_SECONDS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
_DECIMAL = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))

PREFIXED = ("byte", "s", "flop", "flop/s")
"""Units that are shown with prefixes."""


def text(value: object) -> str:
    """Return a word or truth value as a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("|", "\\|")


def prefix(size: float, unit: str) -> tuple[str, float]:
    """Return the prefixed unit that suits a size, and how much of the unit it is: `("MiB", 2**20)`."""
    scales = _BINARY if unit == "byte" else _SECONDS if unit == "s" else _DECIMAL
    label, factor = next(((label, factor) for label, factor in scales if size >= factor), scales[-1])
    return (label if unit in ("byte", "s") else f"{label}{unit}"), factor


def quantity(value: float, unit: str, digits: int = 4) -> str:
    """Return a value with a fitting prefix: `5 MiB`, `437 µs`, `1.23 Tflop`."""
    if not value:
        return "0"
    if unit not in PREFIXED:
        return f"{value if isinstance(value, int) else rounded(value)} {unit}".rstrip()
    label, factor = prefix(abs(value), unit)
    return f"{rounded(value / factor, digits)} {label}".rstrip()


def rounded(value: float, digits: int = 4) -> str:
    """Return a value to some significant digits, but whole above 1000, with thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{float(f'{value:.{digits}g}'):.12g}"


def whole_spread(values: pl.Series) -> str:
    """Return `low to high` of whole numbers, or the one there is, every digit of them."""
    low, high = (f"{int(end):,}" for end in values.sort().gather([0, -1]))
    return low if low == high else f"{low} to {high}"
