"""Points that a sweep lists together: the product of a grid's axes, or rows that give the same keys.

A block knows its points by number and makes any range of them as a frame, without a loop over points.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import polars as pl

from moesweep.edge.problems import BadInput, Problem, collect
from moesweep.study.axes import Axis, encoded, ep_variants, values_of
from moesweep.study.column import NEEDED, Key
from moesweep.study.conditions import Condition, condition
from moesweep.study.ids import OF_OPTIONS
from moesweep.study.keys import KEYS, WORDED

POINT = "point"
"""Column of a point's number within its block."""

CLUSTER = "cluster"
ROW = "row"


@dataclass(frozen=True)
class Said:
    """What a sweep says beside its grids and rows: its file, its options, and what its models give."""

    file: str
    options: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]

    def instead(self, key: Key, model: str) -> Any:
        """Return what says a key that an entry leaves out; None where it follows from other columns."""
        if key.name in self.options:
            return self.options[key.name]
        plain = None if isinstance(key.default, pl.Expr) or key.default is NEEDED else key.default
        return self.models[model].get(key.name, plain) if key.of_model else plain


@dataclass(frozen=True)
class Block:
    """Points listed together.

    entries    number of the grid among all grids and rows, or of each row
    own        keys given there
    axes       the first varies slowest; rows are one axis
    constants  one row: the columns that no axis says
    written    values of the keys given there as they are written: of a grid each once, of rows row by row
    where      conditions that its points fulfil
    skips      whether points that break a rule are left out
    """

    entries: tuple[int, ...]
    own: tuple[str, ...]
    axes: tuple[Axis, ...]
    constants: pl.DataFrame
    written: Mapping[str, Sequence[Any]]
    where: tuple[Condition, ...] = ()
    skips: bool = False

    @cached_property
    def size(self) -> int:
        """Number of points."""
        return prod(axis.size for axis in self.axes)

    def codes(self, at: pl.Series) -> pl.DataFrame:
        """Return POINT, the numbers `at`, and each axis' code of these points."""
        columns, stride = [at.alias(POINT)], self.size
        for axis in self.axes:
            stride //= axis.size
            columns.append((at // stride % axis.size).cast(pl.UInt32).alias(axis.name))
        return pl.DataFrame(columns)

    def points(self, codes: pl.DataFrame) -> pl.DataFrame:
        """Return POINT and the columns that points of these codes say, rules still unresolved."""
        varying = [axis.values[codes[axis.name]] for axis in self.axes]
        frame = _side_by_side([codes.select(POINT), *varying])
        return frame.with_columns(pl.lit(column).first().alias(column.name) for column in self.constants)


def grid_block(
    number: int, path: str, grid: Mapping[str, Any], said: Said, experts_fastest: bool = False
) -> Block:
    """Return the points of one grid; raise BadInput with every range that has no value.

    Axes vary in the order of the keys, ep fastest; with `experts_fastest` the clusters slowest, and
    options of experts faster than all others, so that workloads with one twin stand together.
    """
    own = [key for key in grid if key in KEYS]
    values = _values(path, own, grid, said)
    frames = {key: encoded(key, values[key]) for key in KEYS if key in values}
    frames["model"] = _of_models(values["model"], own, said)
    frames["ep"] = frames.pop("ep")
    clusters = grid.get(CLUSTER, said.options.get(CLUSTER))
    if clusters is not None:
        several = clusters if isinstance(clusters, list) else [clusters]
        frames = {CLUSTER: pl.DataFrame({CLUSTER: several}), **frames}
    if experts_fastest:
        frames = dict(sorted(frames.items(), key=lambda item: is_of_experts(item[0])))
    return Block(
        (number,),
        tuple(own),
        tuple(Axis(name, frame) for name, frame in frames.items() if frame.height > 1),
        _side_by_side([*(frame for frame in frames.values() if frame.height == 1), _rest(own, said)]),
        {key: values[key] for key in own},
        _conditions(path, grid, said.file),
        grid.get("illegal") == "skip",
    )


def row_blocks(rows: Mapping[int, Mapping[str, Any]], said: Said) -> Iterator[Block]:
    """Yield the points of rows by their numbers; rows that give the same keys are one block."""
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for entry, row in rows.items():
        alike[tuple(sorted(row))].append(entry)
    for keys, entries in alike.items():
        own = [key for key in keys if key in KEYS]
        columns = {key: [rows[entry][key] for entry in entries] for key in keys}
        parts = [encoded(key, columns[key]) for key in own if key not in ("ep", "model")]
        if CLUSTER in columns:
            parts.append(pl.DataFrame({CLUSTER: columns[CLUSTER]}))
        eps = columns.get("ep", [said.options.get("ep", KEYS["ep"].default)] * len(entries))
        # A rule of ep that names several degrees lists several points.
        at = [i for i, ep in enumerate(eps) for _ in ep_variants(ep)]
        models = columns.get("model", [said.options.get("model")])
        distinct = list(dict.fromkeys(models))
        of_models = _of_models(distinct, own, said)[[distinct.index(model) for model in models]]
        single = [
            encoded(key, [value])
            for key, value in said.options.items()
            if key in KEYS and key not in (*own, "ep", "model")
        ]
        (parts if "model" in own else single).append(of_models)
        listed = _side_by_side([_side_by_side(parts)[at] if parts else pl.DataFrame(), encoded("ep", eps)])
        yield Block(
            tuple(entries[i] for i in at),
            tuple(own),
            (Axis(ROW, listed),),
            _side_by_side([*single, _rest(own, said)]),
            {key: [columns[key][i] for i in at] for key in own},
        )


def _values(path: str, own: list[str], grid: Mapping[str, Any], said: Said) -> dict[str, list[Any]]:
    """The values of every key that the grid or the options say; raise BadInput."""
    problems: list[Problem] = []
    values = {
        key: [value] for key, value in {"ep": KEYS["ep"].default, **said.options}.items() if key in KEYS
    }

    def divided(column: str) -> list[int]:
        """Return the values of a column that those of `all` divide."""
        if column not in values:
            return [said.instead(KEYS[column], model) for model in values["model"]]
        per_gpu = [value["per_gpu"] for value in values[column] if isinstance(value, dict)]
        return [value for value in values[column] if isinstance(value, int)] + [
            gpus * each for each in per_gpu for gpus in values["world_size"]
        ]

    # What `all` divides comes first.
    for name in sorted(own, key=lambda name: bool(KEYS[name].divides)):
        place = f"{path}.{name}"
        values[name] = collect(problems, values_of, KEYS[name], grid[name], divided, said.file, place) or []
    if problems:
        raise BadInput(problems)
    return values


def _conditions(path: str, grid: Mapping[str, Any], file: str) -> tuple[Condition, ...]:
    """The conditions of a grid; raise BadInput with every one that is none."""
    where = grid.get("where", [])
    texts = {f"{path}.where": where} if isinstance(where, str) else {}
    texts = texts or {f"{path}.where[{i}]": text for i, text in enumerate(where)}
    problems: list[Problem] = []
    found = [collect(problems, condition, text, file, place) for place, text in texts.items()]
    if problems:
        raise BadInput(problems)
    return tuple(each for each in found if each is not None)


def _of_models(names: list[str], own: list[str], said: Said) -> pl.DataFrame:
    """A row for each model: name, keys that the options leave to it, what it says of the entry's own."""
    keys = [key for key in KEYS.values() if key.of_model and key.name not in said.options]

    def column(key: Key) -> pl.DataFrame:
        values = encoded(key.name, [said.instead(key, name) for name in names])
        return values.rename({key.name: key.name + OF_OPTIONS}) if key.name in own else values

    return _side_by_side([pl.DataFrame({"model": names}), *map(column, keys)])


def _rest(own: list[str], said: Said) -> pl.DataFrame:
    """One row: defaults of keys that nothing says, and what options or defaults say of the entry's own."""
    frames = []
    for key in KEYS.values():
        if key.of_model and key.name not in said.options:
            continue
        value = said.instead(key, "")
        if key.name not in own and key.name not in said.options and key.name != "ep":
            frames.append(encoded(key.name, [value]))
        elif key.name in own and key in WORDED:
            frames.append(encoded(key.name, [value]).rename({key.name: key.name + OF_OPTIONS}))
    return _side_by_side(frames)


def is_of_experts(axis: str) -> bool:
    """Whether an axis is one that workloads without experts do not have."""
    return axis == "ep" or (axis in KEYS and KEYS[axis].without is not None)


def _side_by_side(frames: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames, how="horizontal") if frames else pl.DataFrame()
