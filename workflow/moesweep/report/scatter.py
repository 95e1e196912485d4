"""Price against memory: every workload as a point that leads to its section, and those that none betters.

Drawn here and not by a library in the page, so that it is there without script and under a strict policy
(docs/decisions/page.md). The page's script hides points with the rows of the table, and draws the line anew.
"""

from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.words import rounded, seconds, size

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 46
"""Margins around the points."""

COLOURS = 6
"""Degrees of ep that have a colour of their own; higher ones share the last."""

STEPS = (
    (1,),
    (1, 3),
    (1, 1.5, 2, 3, 5, 7),
    (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9),
    tuple(tenth / 10 for tenth in range(10, 100)),
)
"""Steps of an axis: the coarsest ones of which it shows FEWEST."""

FEWEST = 4

PRICE = "gpu_hours_per_billion_tokens"


@dataclass(frozen=True)
class Scatter:
    """The picture: points with their place and words, ticks as (place, text), the line of the best."""

    points: list[dict[str, Any]]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    line: str
    limit: float | None
    degrees: list[tuple[int, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = HEIGHT - BOTTOM


class _Axis:
    """A logarithmic axis from `start` to `end`, in the picture's units."""

    def __init__(self, values: pl.Series, start: float, end: float) -> None:
        low, high = log10(float(values.min())), log10(float(values.max()))  # type: ignore[arg-type]
        room = max(0.04 * (high - low), 0.02)
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def place(self, value: float) -> float:
        """Return where a value stands, to a tenth of a unit."""
        share = (log10(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, factor: float = 1.0) -> list[tuple[float, str]]:
        """Places of STEPS times powers of ten, of value / factor."""
        shift = log10(factor)
        powers = range(floor(self.low - shift), ceil(self.high - shift) + 1)
        inside: list[float] = []
        for steps in STEPS:
            values = [step * 10.0**power for power in powers for step in steps]
            inside = [value for value in values if self.low <= log10(value * factor) <= self.high]
            if len(inside) >= FEWEST:
                break
        return [(self.place(value * factor), rounded(value)) for value in inside]


def scatter(evidence: Evidence) -> Scatter:
    """Return the picture of a sweep: GPU hours of a billion tokens across, the worst rank's peak up."""
    rows = evidence.workloads
    hbm = evidence.cluster.value("hbm_bytes")
    across = _Axis(rows[PRICE], LEFT, WIDTH - RIGHT)
    up = _Axis(rows["peak_memory_bytes"], HEIGHT - BOTTOM, TOP)
    degrees = rows.filter(pl.col("kind") == "moe")["ep"].unique().sort().to_list()
    points = [_point(row, across, up, degrees) for row in rows.iter_rows(named=True)]
    named = [(min(at, COLOURS - 1), str(degree)) for at, degree in enumerate(degrees)]
    inside = up.low <= log10(hbm) <= up.high
    limit = up.place(hbm) if inside else None
    return Scatter(points, across.ticks(), up.ticks(2.0**30), _best(points), limit, named)


def _point(row: dict[str, Any], across: _Axis, up: _Axis, degrees: list[int]) -> dict[str, Any]:
    moe = row["kind"] == "moe"
    return {
        "id": row["workload"],
        "kind": row["kind"],
        "x": across.place(row[PRICE]),
        "y": up.place(row["peak_memory_bytes"]),
        "colour": min(degrees.index(row["ep"]), COLOURS - 1) if moe else "dense",
        "words": (
            f"{row['workload']}: {rounded(row[PRICE])} GPU hours per 10⁹ tokens, "
            f"{seconds(row['iteration_seconds'])} an iteration, {size(row['peak_memory_bytes'])}"
        ),
    }


def _best(points: list[dict[str, Any]]) -> str:
    """Return the line through the points of which none is both cheaper and smaller, as a path."""
    best: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda each: (each["x"], -each["y"])):
        if not best or point["y"] > best[-1]["y"]:
            best.append(point)
    return "M" + "L".join(f"{point['x']} {point['y']}" for point in best) if best else ""
