"""Numbers as people read them: four digits, a fitting prefix, the unit."""

_BINARY = (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("B", 1.0))
_SECONDS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


def rounded(value: float | None, digits: int = 4) -> str:
    """Return a number to so many significant digits, whole above 1000, thousands apart; a dash for None."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{float(f'{value:.{digits}g}'):.12g}"


def size(value: float | None) -> str:
    """Return bytes with a binary prefix: `5 MiB`."""
    return _scaled(value, _BINARY)


def seconds(value: float | None) -> str:
    """Return seconds with a prefix where they are short: `437 µs`."""
    return _scaled(value, _SECONDS)


def percent(value: float | None) -> str:
    """Return a share in percent, one digit after the point."""
    return "–" if value is None else f"{100 * value:.1f}%"


def count(number: int, thing: str) -> str:
    """Return `1 workload`, `2 workloads`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _scaled(value: float | None, scales: tuple[tuple[str, float], ...]) -> str:
    if value is None:
        return "–"
    if not value:
        return "0"
    label, factor = next((scale for scale in scales if abs(value) >= scale[1]), scales[-1])
    return f"{rounded(value / factor, 3)} {label}"
