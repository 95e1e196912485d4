"""What a grid or row says of a key, as values and then as columns: lists, ranges, `all`, rules.

Columns that stand for a rule until the point is known: `per_gpu`, sequences of a batch, and `largest_at`, the
tensor-parallel degree (0: the point's own) at which ep is the largest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import polars as pl

from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.study.column import Key
from moesweep.study.ids import OF_OPTIONS
from moesweep.study.keys import KEYS, SCHEMA

ALL = "all"
MAX_VALUES = 1_000_000
"""Values of one axis."""

_EP: dict[str, pl.DataType] = {"ep": pl.Int64(), "largest_at": pl.Int64()}


@dataclass(frozen=True)
class Axis:
    """One axis: its name, and a frame with a row for each of its values, which may say several columns."""

    name: str
    values: pl.DataFrame

    @property
    def size(self) -> int:
        """Number of its values."""
        return self.values.height


def values_of(
    key: Key, given: Any, divided: Callable[[str], Sequence[int]], file: str, path: str
) -> list[Any]:
    """Return the values that `given` stands for; raise BadInput for a range without one.

    `divided` returns the values of a column in the grid: `all` are the divisors of those of key.divides.
    """
    if given == ALL and key.divides:
        return sorted({d for number in divided(key.divides) for d in divisors(number)})
    if isinstance(given, dict) and "from" in given:
        return _range(key, given, file, path)
    several = isinstance(given, list)
    if key.takes_lists:
        several = several and any(isinstance(item, list) for item in given)
    return list(given) if several else [given]


def divisors(number: int) -> list[int]:
    """Return the divisors of a number in order; of 0, which nothing need divide, 1."""
    if number < 1:
        return [1]
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _range(key: Key, given: dict[str, Any], file: str, path: str) -> list[int]:
    """The numbers from `from` to `to` at most, each `times` or `step` more than the one before."""
    first, last = given["from"], given["to"]
    least, most = key.form["minimum"], key.form["maximum"]
    message, advice = "", ""
    if ("times" in given) == ("step" in given):
        message, advice = "a range has either times or step", "write {from: 1, to: 64, times: 2}, for example"
    elif first > last:
        message, advice = (
            f"a range from {first} to {last} has no value",
            f"write {{from: {last}, to: {first}}}",
        )
    elif first < least or last > most:
        message = f"a range from {first} to {last} leaves what {key.name} may be"
        advice = f"nearest: from {max(first, least)} to {min(last, most)}"
    elif "times" in given and first == 0:
        message, advice = "times leads nowhere from 0", "nearest: from 1"
    if message:
        raise BadInput([Problem(file, path, "range", shown(given), message, advice)])
    if "step" in given:
        evenly = range(first, last + 1, given["step"])
        if len(evenly) > MAX_VALUES:
            message, advice = f"a range of {len(evenly)} values", f"an axis has {MAX_VALUES} at most"
            raise BadInput([Problem(file, path, "range", shown(given), message, advice)])
        return list(evenly)
    values = [first]
    while values[-1] * given["times"] <= last:
        values.append(values[-1] * given["times"])
    return values


def ep_variants(value: Any) -> list[tuple[int | None, int | None]]:
    """Return what a value of ep says in columns: itself, or each degree at which it is the largest."""
    if isinstance(value, int):
        return [(value, None)]
    return [(None, degree) for degree in ([0] if isinstance(value, str) else value["largest_for_tp"])]


def encoded(name: str, values: Sequence[Any]) -> pl.DataFrame:
    """Return a frame of what the values of a key say, a row a value; of ep, a row a variant."""
    key = KEYS[name]
    if name == "ep":
        variants = [variant for value in values for variant in ep_variants(value)]
        return pl.DataFrame(variants, schema=_EP, orient="row")
    if name == "etp":
        values = [None if value == "tp" else value for value in values]
    elif name == "global_batch_size":
        per_gpu = [value["per_gpu"] if isinstance(value, dict) else None for value in values]
        whole = [None if isinstance(value, dict) else value for value in values]
        return pl.DataFrame({name: whole, "per_gpu": per_gpu}, schema={name: pl.Int64, "per_gpu": pl.Int64})
    elif key.text is not None:
        values = [None if value is None else key.text(value) for value in values]
    return pl.DataFrame({name: pl.Series(name, values, dtype=SCHEMA[name])})


def with_rules_applied(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of points with etp, global_batch_size and ep as they are at each point.

    ep is null where world_size is no multiple of the degree times pp, so that there is no largest one;
    `largest_at` is that degree.
    """
    tp_alike = [name for name in ("etp", "etp" + OF_OPTIONS) if name in frame.columns]
    frame = frame.with_columns(
        *(pl.coalesce(name, "tp").alias(name) for name in tp_alike),
        pl.coalesce("global_batch_size", pl.col("per_gpu") * pl.col("world_size")),
    )
    if frame["largest_at"].null_count() < frame.height:
        at = frame.select(pl.when(pl.col("largest_at") == 0).then("tp").otherwise("largest_at"))
        degree = at.to_series().alias("largest_at")
        frame = frame.with_columns(degree, ep=pl.coalesce("ep", _largest_ep(frame, degree)))
    return frame.drop("per_gpu")


def said_before(frame: pl.DataFrame, axis: Axis, code: pl.Series) -> pl.Series | None:
    """Whether a value before that of number `code` says the same of a point: rules may; None if none can.

    `frame` holds the points, rules applied.
    """
    said = axis.values.rows(named=True)
    if axis.name == "etp" and axis.values["etp"].null_count():
        alike = [frame["tp"] if row["etp"] is None else row["etp"] for row in said]
    elif axis.name == "global_batch_size" and axis.values["per_gpu"].count():
        alike = [row[axis.name] or frame["world_size"] * row["per_gpu"] for row in said]
    elif axis.name == "ep" and axis.values["largest_at"].count():
        alike = [
            row["ep"]
            or _largest_ep(frame, pl.Series([row["largest_at"]]) if row["largest_at"] else frame["tp"])
            for row in said
        ]
    else:
        return None
    again = pl.zeros(len(code), dtype=pl.Boolean, eager=True)
    for number, value in enumerate(alike):
        again |= ((code > number) & (frame[axis.name] == value)).fill_null(False)
    return again


def _largest_ep(frame: pl.DataFrame, degree: pl.Series) -> pl.Series:
    """gcd(num_experts, world_size / (degree * pp)), 1 without experts; null where that is no whole number."""
    unit = frame["pp"] * degree
    whole = (frame["world_size"] // unit).fill_null(1)
    common = pl.Series("ep", np.gcd(frame["num_experts"].to_numpy(), whole.to_numpy()))
    parts = pl.DataFrame({"ep": common, "unit": unit, "world_size": frame["world_size"]})
    fits = pl.col("world_size") % pl.col("unit") == 0
    experts = frame["num_experts"] > 0
    return parts.select(pl.when(fits).then(pl.when(experts).then("ep").otherwise(1)))["ep"]


def rule_roots(frames: Sequence[pl.DataFrame]) -> dict[str, list[str]]:
    """Return from which columns those follow that a rule says, given every frame of values."""
    said = {column.name: column for frame in frames for column in frame}
    found = {}
    for name in ("etp", "etp" + OF_OPTIONS):
        if name in said and said[name].null_count():
            found[name] = [name, "tp"]
    if "per_gpu" in said and said["per_gpu"].count():
        found["global_batch_size"] = ["global_batch_size", "world_size"]
    if said["largest_at"].count():
        found["ep"] = ["ep", "num_experts", "world_size", "tp", "pp"]
    return found
