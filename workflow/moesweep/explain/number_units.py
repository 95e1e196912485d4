"""The unit of a number by its name, and how it reads."""

from functools import cache

from moesweep.explain.formula import Value, shown
from moesweep.store.tablefile import dictionary

_SUFFIXES = {
    "_bytes_per_second": "byte/s",
    "_flops_per_second": "flop/s",
    "_tokens_per_second_per_gpu": "token/s",
    "_usd_per_hour": "USD/h",
    "_usd_per_gpu_hour": "USD/h",
    "_seconds": "s",
    "_bytes": "byte",
    "_comm": "s",
    "_exposed": "s",
    "_hidden": "s",
    "_compute": "s",
    "_flops": "flop",
}
_NAMES = dict.fromkeys(("seconds", "comm", "compute", "exposed", "hidden"), "s")
_SCALED = {"s": ((1e-6, "µs"), (1e-3, "ms")), "byte": ((2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB"))}


@cache
def _declared() -> dict[str, str]:
    tables = ("workloads", "cost_ops", "costs")
    return {
        column["name"]: column["unit"]
        for table in tables
        for column in dictionary(table)["columns"]
        if "unit" in column
    }


def unit_of(name: str) -> str:
    """Return the unit that the tables' dictionaries declare, else the one that the name ends in."""
    if name in _NAMES:
        return _NAMES[name]
    by_suffix = (unit for suffix, unit in _SUFFIXES.items() if name.endswith(suffix))
    return _declared().get(name) or next(by_suffix, "")


def with_unit(value: Value, unit: str) -> str:
    """Return a value in base units, and again in a unit of its size: `0.00215 s (2.15 ms)`."""
    if isinstance(value, bool | str) or value is None:
        return shown(value)
    plain = f"{shown(value)} {unit}".rstrip()
    fitting = [(size, name) for size, name in _SCALED.get(unit, ()) if abs(value) >= size]
    if (unit == "s" and abs(value) >= 1) or not fitting:
        return plain
    size, name = fitting[-1]
    return f"{plain} ({value / size:.4g} {name})"
