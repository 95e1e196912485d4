"""A space: a sweep file whose points are enumerated in parts, the legal ones as frames, the others counted.

    space = load_space(root, "SPACE.yaml")   # BadInput: every fault of the file, a space too large
    for part in space.parts():               # the same parts, in order, in every run
        batch = space.batch(part)
        batch.workloads                      # legal points: keys.SCHEMA, `cluster` where the space says it
        batch.codes                          # the same rows: a UInt32 column an axis, and TWIN
        batch.left_out                       # reason -> points, in the order in which reasons count

Two rows of a block with equal codes on all of `space.axes_of(part)[column]` have equal values in that
column: sections are keyed by codes, not by values. Where `twins` is said, the dense twins of a batch's legal
MoE points follow them, each once and if it is legal itself: TWIN is 1 there, codes of options of experts and
`listed` are 0. Ids may repeat between grids and rows that overlap, not within one. No loop runs over points.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.problems import BadInput, Problem
from moesweep.shapes.weights import parameters
from moesweep.study.axes import rule_roots
from moesweep.study.blocks import CLUSTER, POINT, ROW, Block, is_of_experts
from moesweep.study.conditions import AGAIN, ERRORS, Alike, checks, removed
from moesweep.study.entries import blocks, points
from moesweep.study.ids import with_ids
from moesweep.study.keys import SCHEMA
from moesweep.study.of_clusters import OF_CLUSTERS, with_constants_of_rules
from moesweep.study.parts import Parts, read_parts
from moesweep.study.routing import as_written
from moesweep.study.workload import dense_twins, steps

MAX_POINTS = 1_000_000_000
"""Points of a space, unless more are asked for."""

PART_POINTS = 200_000
"""Points of a batch."""

MAX_WITH_ONE_TWIN = 1_000_000
TWIN = "is_twin"
"""Column of codes: 1 for a dense twin."""


@dataclass(frozen=True)
class Part:
    """Points `start` to before `stop` of a space's block, which are judged at once."""

    number: int
    block: int
    start: int
    stop: int


@dataclass(frozen=True)
class Batch:
    """What is left of a part, and what is not.

    workloads  legal points, then legal twins: columns of keys.SCHEMA, and `cluster` where the space says it
    codes      the same rows: each axis' code and TWIN, as UInt32
    positions  of the same points in the space; of a twin that of the first point that it belongs to
    left_out   reason -> points, in the order in which reasons count: a rule, or `where` and the condition
    refused    points, and twins, that break a rule: workload, `cluster`, rule; empty unless asked for
    """

    workloads: pl.DataFrame
    codes: pl.DataFrame
    positions: pl.Series
    left_out: Mapping[str, int]
    refused: pl.DataFrame


@dataclass(frozen=True)
class Space:
    """An enumerable space: the parts of its file, blocks of points, and constants of its clusters by name."""

    file: Parts
    blocks: tuple[Block, ...]
    machines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def on(self, machines: Mapping[str, Mapping[str, float]]) -> "Space":
        """Return the space with its points judged on clusters, whose constants are given by name."""
        return replace(self, machines=machines)

    @cached_property
    def size(self) -> int:
        """Number of points, legal or not, twins apart."""
        return sum(block.size for block in self.blocks)

    def parts(self, most: int = PART_POINTS) -> Iterator[Part]:
        """Yield the parts of about `most` points; workloads with one twin are never in two of them."""
        number = 0
        for at, block in enumerate(self.blocks):
            unit = _with_one_twin(block) if self.file.twins else 1
            length = block.size if _is_of_rows(block) else max(most // unit, 1) * unit
            for start in range(0, block.size, length):
                yield Part(number, at, start, min(start + length, block.size))
                number += 1

    def batch(self, part: Part, with_refused: bool = False) -> Batch:
        """Return the legal points of a part; raise BadInput where a condition cannot be asked of them."""
        block = self.blocks[part.block]
        at = pl.int_range(part.start, part.stop, eager=True)
        gone = removed(self._alike(block, at), block.where, legal=True)
        names = list(checks(block.where, legal=True))
        legal = with_ids(self._points(block, at.filter(gone.is_null())))
        left_out = _counted(gone, names)
        refused = [_refused(lambda some: points(block, at.filter(some)), gone, names)] if with_refused else []
        if self.file.twins:
            legal, twins, lost = _with_twins(legal, block, self.machines)
            names = list(checks((), legal=True))
            left_out |= {f"{rule} (of a twin)": count for rule, count in _counted(lost, names).items()}
            refused += [_refused(twins.filter, lost, names)] if with_refused else []
        before = sum(other.size for other in self.blocks[: part.block])
        return Batch(
            legal.select(*SCHEMA, *_cluster(legal)),
            _codes(legal, block),
            (legal[POINT] + before).alias("position"),
            left_out,
            pl.concat(refused) if refused else pl.DataFrame(),
        )

    def axes_of(self, part: Part) -> dict[str, tuple[str, ...]]:
        """Return the axes, TWIN among them, that each column of a part's workloads follows from."""
        behind = self._behind(self.blocks[part.block])
        return {name: tuple(sorted(behind[name])) for name in (*SCHEMA, CLUSTER) if name in behind}

    def _behind(self, block: Block) -> dict[str, set[str]]:
        """Return the axes that columns follow from: those of workloads, and what else checks read."""
        behind: dict[str, set[str]] = {name: set() for name in block.constants.columns}
        behind |= {name: {axis.name} for axis in block.axes for name in axis.values.columns}
        if self.file.twins:
            for name in ("ep", "num_experts", "listed"):
                behind[name].add(TWIN)
        ruled = rule_roots([block.constants, *(axis.values for axis in block.axes)])
        followed = [
            {name: expr.meta.root_names() for name, expr in step.items()} for step in steps(tuple(behind))
        ]
        for step in (ruled, *followed):
            behind |= {
                name: set().union(*(behind.get(root, ()) for root in roots)) for name, roots in step.items()
            }
        behind |= dict.fromkeys(OF_CLUSTERS, behind.get(CLUSTER, set()))
        if not _is_of_rows(block):
            # Rules alone make two points of a grid the same; rows may be so anyhow.
            behind[AGAIN] = set().union(*(behind[root] for roots in ruled.values() for root in roots))
        return behind

    def _points(self, block: Block, at: pl.Series) -> pl.DataFrame:
        """Return points of a block; the size of each model is counted once."""
        alike = self._alike(block, at)
        return points(block, at, alike.distinct(alike.axes_of(*parameters().values())))

    def _alike(self, block: Block, at: pl.Series) -> Alike:
        """Return what points of these numbers share, as checks see them."""
        return Alike(
            block.codes(at),
            {axis.name: axis.size for axis in block.axes},
            self._behind(block),
            lambda places: with_constants_of_rules(points(block, at[places]), self.machines),
        )

    def rows(self, positions: Iterable[int]) -> list[dict[str, Any]]:
        """Return points, by their positions in the space, as rows of a sweep with the space's options."""
        return [self._row(position) for position in positions]

    def _row(self, position: int) -> dict[str, Any]:
        for block in self.blocks:
            if position < block.size:
                break
            position -= block.size
        codes = block.codes(pl.Series([position])).row(0, named=True)
        row = {key: values[codes.get(key, codes.get(ROW, 0))] for key, values in block.written.items()}
        if "routing" in row:
            row["routing"] = as_written(row["routing"])
        return row | {"ep": points(block, pl.Series([position]))["ep"].item()}


def load_space(root: Path, path: Path | str, most: int = MAX_POINTS) -> Space:
    """Read and check a space; raise BadInput with every fault, or where it has more than `most` points."""
    return space_of(*read_parts(root, path, space=True), most)


def space_of(file: Parts, problems: list[Problem], most: int = MAX_POINTS) -> Space:
    """Return the space of a file's parts; raise BadInput with `problems`, and all that is wrong besides."""
    found, unresolved = blocks(file.listed, file.said, experts_fastest=True)
    space = Space(file, tuple(found))
    problems += unresolved
    if space.size > most:
        message = f"the space has {space.size} points; the limit is {most}"
        advice = f"ask for less, or for all of them with --points {space.size}"
        problems.append(Problem(file.said.file, "grids", "space_size", str(space.size), message, advice))
    for block in found if file.twins else []:
        if (unit := _with_one_twin(block)) > MAX_WITH_ONE_TWIN:
            message = f"{unit} workloads of a grid have one twin; the limit is {MAX_WITH_ONE_TWIN}"
            advice = "leave twins out, or split the grid"
            problems.append(Problem(file.said.file, "twins", "space_size", str(unit), message, advice))
    if problems:
        raise BadInput(problems)
    return space


def nothing_left(space: Space, left_out: Mapping[str, int]) -> Problem:
    """Return what to say of a space without a legal point: what left out how many, in order."""
    *first, (last, count) = left_out.items()
    before = "".join(f"{reason} leaves out {points_}, " for reason, points_ in first)
    message = f"of {space.size} points none is legal: {before}{last} removes the last {count}"
    return Problem(space.file.said.file, "", "empty", last, message, "ask for less, or for other values")


def _with_one_twin(block: Block) -> int:
    """How many points in a row have one twin: the options of experts vary fastest."""
    if _is_of_rows(block):
        return block.size
    return prod(axis.size for axis in block.axes if is_of_experts(axis.name))


def _with_twins(
    listed: pl.DataFrame, block: Block, machines: Mapping[str, Mapping[str, float]]
) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
    """Legal points followed by their legal twins; all the twins, and what removes each of them."""
    group = pl.col(POINT) // (1 if _is_of_rows(block) else _with_one_twin(block))
    cluster = _cluster(listed)
    moe = listed.filter(kind="moe")
    twins = dense_twins(moe.filter(group.is_first_distinct()))
    ids = twins.select(group.alias("group"), twin="workload")
    twins = twins.unique(["workload", *cluster], keep="first", maintain_order=True)
    twins = twins.join(
        listed.filter(kind="dense"), on=["workload", *cluster], how="anti", maintain_order="left"
    )
    gone = removed(with_constants_of_rules(twins, machines), (), legal=True)
    lost = twins.filter(gone.is_not_null())["workload"].implode()
    named = (
        listed.with_columns(group=group)
        .drop("twin")
        .join(ids, on="group", how="left", maintain_order="left")
        .with_columns(pl.when(kind="moe").then(pl.when(~pl.col("twin").is_in(lost)).then("twin")))
    )
    legal = twins.filter(gone.is_null())
    return pl.concat([named.select(twins.columns), legal]), twins, gone


def _is_of_rows(block: Block) -> bool:
    return any(axis.name == ROW for axis in block.axes)


def _codes(workloads: pl.DataFrame, block: Block) -> pl.DataFrame:
    """The codes of points and twins; a twin is dense whatever options of experts its workloads have."""
    twin = workloads.select((pl.col("listed") == 0).cast(pl.UInt32).alias(TWIN))
    codes = pl.concat([block.codes(workloads[POINT]).drop(POINT), twin], how="horizontal")
    of_experts = [axis.name for axis in block.axes if is_of_experts(axis.name)]
    return codes.with_columns(pl.when(pl.col(TWIN) == 0).then(pl.col(of_experts)).otherwise(0).name.keep())


def _counted(gone: pl.Series, names: list[str]) -> dict[str, int]:
    """How many points each reason left out, in the order in which reasons count."""
    numbers = gone.drop_nulls().alias("number").value_counts().sort("number")
    return {names[number]: count for number, count in numbers.iter_rows()}


def _refused(some: Callable[[pl.Series], pl.DataFrame], gone: pl.Series, names: list[str]) -> pl.DataFrame:
    """The points that break a rule, with their ids: those without a largest ep have none.

    `some` gives points where a mask is true, `gone` what removes each of them all.
    """
    ruled = (gone >= len(names) - len(ERRORS)).fill_null(False)
    rules = pl.Series("rule", names)[gone.filter(ruled)]
    broken = with_ids(some(ruled))
    return broken.select("workload", *_cluster(broken)).with_columns(rules)


def _cluster(frame: pl.DataFrame) -> list[str]:
    return [CLUSTER] if CLUSTER in frame.columns else []
