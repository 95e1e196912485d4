"""A batch of workloads on clusters, with the passes that have been evaluated of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, compress

import numpy as np
import polars as pl

from moesweep.cost.collectives import OF_THE_WORLD, PLACE, extent_of, placed
from moesweep.cost.memory import bytes_of_a_stage
from moesweep.cost.stages import COMM, busy_seconds
from moesweep.evaluate.layouts import CLASS_LAYERS, layouts
from moesweep.evaluate.passes import SUMS, Wide, of_a_layer, roots, sums, wide
from moesweep.evaluate.sharded import joined_with, reads_of
from moesweep.shapes.communication import GROUP_KINDS, OVER_DATA
from moesweep.shapes.distinct import Array, Coded, Codes, distinct, joined
from moesweep.shapes.expressions import Part, exact, total
from moesweep.shapes.placement import ARRIVALS, READS
from moesweep.shapes.sharding import shards_gradients
from moesweep.shapes.sizes import BALANCED, Rows, counts_globally, etp
from moesweep.trace.programs import Section, sections

Scope = tuple[str, str]
"""What a pass runs through (kind of layer, end, arrival; `stage` for the optimizer), and its phase."""

AWAY_FROM_THE_ENDS = {"recv_forward": 1, "recv_backward": 0}
"""A stage to which the message comes from another one; at the ends contents count it away."""

TAIL: Scope = ("stage", "optimizer")


@dataclass(frozen=True)
class Declared:
    """A section ready to be evaluated, and the columns that it reads."""

    section: Section
    ops: list[Wide]
    reads: frozenset[str]


EVEN = "even"
LOADS = {
    EVEN: BALANCED,
    "busiest": Rows(
        pl.col("sent"), pl.col("received"), pl.col("received") * etp, exchanged=pl.col("exchanged")
    ),
    "mean": Rows(pl.col("sent"), pl.col("received"), pl.col("computed")),
}
"""What a rank's experts have to do: as much as any other's, or columns of the busiest and the mean rank."""


@cache
def scopes(load: str) -> dict[Scope, Section]:
    """Return the sections by scope, under one of LOADS, those of one scope together.

    A send is waited for where it arrives.
    """
    found: dict[Scope, Section] = {}
    for section in chain.from_iterable(sections(LOADS[load])):
        scope: Scope = section.scope, section.phase
        if section.scope == "stage" and scope != TAIL:
            scope = section.ops[0].name, section.phase
            if scope[0] not in ARRIVALS:
                continue
        found[scope] = found[scope].then(section) if scope in found else section
    return found


@cache
def apart(scope: Scope, load: str, over_data: bool) -> Section:
    """Return what of a scope goes over data-parallel ranks in a pass, or what does not.

    Nothing else of a pass depends on how many there are.
    """
    return scopes(load)[scope].only(lambda op: (scope != TAIL and op.group_kind in OVER_DATA) == over_data)


@cache
def declared(scope: Scope, load: str, there: tuple[bool, ...]) -> Declared:
    """Return the section of a scope with those of its ops that are there, ready to be evaluated."""
    whole = apart(scope, load, over_data=False)
    section = replace(whole, make=lambda: list(compress(whole.ops, there)))
    passed = roots(*busy_seconds(total(COMM)).values()) - {*SUMS, "phase", "layer_kind"}
    ops = wide(section)
    return Declared(section, ops, frozenset().union(passed, *(op.reads for op in ops)) - {"stage"})


@cache
def over_data(scope: Scope) -> list[Wide]:
    """Return what goes over data-parallel ranks in a pass, ready to be evaluated."""
    return wide(apart(scope, EVEN, over_data=True))


@dataclass(frozen=True)
class Pass:
    """What a pass takes: for each workload the row (`codes`) of the `values` that are its own."""

    codes: Codes
    values: Mapping[str, Array]

    def of(self, rows: Array, name: str) -> Array:
        """Return a value of some workloads."""
        found: Array = self.values[name][self.codes.of[rows]]
        return found


class Batch:
    """Workloads, each on a cluster.

    workloads   columns of moesweep.study.workload.SCHEMA
    constants   one row a cluster, one column a constant, in base units
    cluster     the row of each workload's cluster
    """

    class_columns: tuple[str, ...] = (*CLASS_LAYERS, "is_first", "is_last", "stage")
    """The columns of a stage class."""

    def __init__(self, workloads: pl.DataFrame, constants: pl.DataFrame, cluster: Array) -> None:
        self.coded = Coded(workloads)
        self.constants = constants
        self.cluster = Codes(cluster, constants.height)
        placed = self.coded.distinct(READS)
        self.layout, self.layouts = placed.codes, layouts(workloads[placed.first])
        self.passes_known: dict[Scope, Pass] = {}
        self._declared: dict[tuple[Scope, str], Declared] = {}
        self._places: dict[str, Pass] = {}
        self._beside: Batch | None = None
        self.sharding = bool(workloads.select(shards_gradients.any()).item())
        apart = workloads.select(shards_gradients | counts_globally).to_series()
        self.over_data = np.flatnonzero(apart.to_numpy())
        counting = workloads.select(counts_globally.any()).item()
        self.also: tuple[str, ...] = ("spare",) if counting else ()

    @property
    def workloads(self) -> pl.DataFrame:
        """The workloads."""
        return self.coded.frame

    @property
    def scopes(self) -> list[Scope]:
        """The passes of a micro-batch."""
        return [scope for scope in scopes(EVEN) if scope != TAIL]

    def reads(self, scope: Scope) -> frozenset[str]:
        """Return the columns and constants that a pass depends on."""
        return self.declared(scope).reads

    def declared(self, scope: Scope, load: str = EVEN) -> Declared:
        """Return a pass with the ops that some workload may have: a section lists those of all options."""
        if (scope, load) not in self._declared:
            there = self._there([op.when for op in apart(scope, load, over_data=False).ops])
            self._declared[scope, load] = declared(scope, load, there)
        return self._declared[scope, load]

    def _there(self, conditions: list[pl.Expr]) -> tuple[bool, ...]:
        """Return which conditions hold for some workload; all may, if they ask for more than its columns."""
        reads = roots(*conditions)
        if not reads or not reads <= set(self.workloads.columns):
            return (True,) * len(conditions)
        rows, _, _ = self.distinct_rows(reads)
        return exact(rows).select(each.any().alias(f"{at}") for at, each in enumerate(conditions)).row(0)

    def on(self, constants: pl.DataFrame) -> "Batch":
        """Return the batch with other constants; passes that read none of those that differ are kept."""
        differ = {name for name in constants.columns if not constants[name].equals(self.constants[name])}
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__
        other.constants = constants
        other._beside = None
        other._places = {} if "gpus_per_node" in differ else dict(self._places)
        other.passes_known = {
            scope: known
            for scope, known in self.passes_known.items()
            if not differ & (self.reads(scope) | self._reads_over_data(scope))
        }
        return other

    def bytes_of_a_stage(self, part: Part) -> dict[str, pl.Expr]:
        """Return the parts of a rank's memory."""
        return bytes_of_a_stage(part, sharding=self.sharding)

    def distinct_rows(self, reads: Iterable[str], *also: Codes) -> tuple[pl.DataFrame, Codes, Array]:
        """Return the distinct rows of what is read, the row of each workload, and the first workload of each.

        `also` tell more workloads apart. Raises ValueError for what neither workloads nor constants have.
        """
        reads = set(reads)
        own, constants = reads & set(self.workloads.columns), reads & set(self.constants.columns)
        placed = {name: self.place(name.split()[0]) for name in sorted(reads - own - constants)}
        kinds = {id(each): each.codes for each in placed.values()}.values()
        found = self.coded.distinct(own, *also, *kinds, *([self._alike(constants)] if constants else []))
        rows = self.workloads[found.first].select(sorted(own))
        places = [pl.Series(name, each.of(found.first, name.split()[1])) for name, each in placed.items()]
        rows = self.with_constants(rows, found.first, constants)
        return rows.hstack(places), found.codes, found.first

    def _alike(self, constants: Iterable[str]) -> Codes:
        """Return codes of workloads that tell clusters apart by some constants alone."""
        if self.constants.height == 1:
            return self.cluster
        values = self.constants.select(sorted(constants)).to_numpy()
        found, same = np.unique(values, axis=0, return_inverse=True)
        return Codes(same.reshape(-1)[self.cluster.of], len(found))

    def place(self, group_kind: str) -> Pass:
        """Return where the communicators of a kind stand: PLACE of every workload's.

        It depends on the whole world, but takes few values: what reads it is told apart by those.
        """
        if group_kind not in GROUP_KINDS:
            raise ValueError(f"nothing gives {group_kind}")
        if group_kind not in self._places:
            extents = extent_of(group_kind, self.workloads.columns)
            rows, codes, _ = self.distinct_rows(roots(*extents.values()).union(OF_THE_WORLD))
            found = placed(rows.select(*OF_THE_WORLD, **extents))
            self._places[group_kind] = merged(codes, {name: found[name].to_numpy() for name in PLACE})
        return self._places[group_kind]

    def with_constants(self, rows: pl.DataFrame, workloads: Array, names: Iterable[str]) -> pl.DataFrame:
        """Add constants to rows, each of which belongs to one of the workloads."""
        own = self.constants.select(sorted(names))
        return rows.hstack(own[self.cluster.of[workloads]]) if own.width else rows

    def passes(self, scope: Scope) -> Pass:
        """Return what a pass takes on every workload."""
        if scope not in self.passes_known:
            found = self.evaluated(scope).items()
            self.passes_known |= {each: self._with_data(each, known) for each, known in found}
        return self.passes_known[scope]

    def _reads_over_data(self, scope: Scope) -> frozenset[str]:
        """Return what a pass depends on besides, where in some workloads ops go over data-parallel ranks."""
        ops = self._of_data(scope)
        return reads_of(ops) if ops else frozenset()

    def _of_data(self, scope: Scope) -> list[Wide]:
        """Return what goes over these in a pass of some workloads; one of given routing names its layer."""
        return over_data((scope[0].partition(" ")[0], scope[1])) if self.over_data.size else []

    def _with_data(self, scope: Scope, known: Pass) -> Pass:
        """Return a pass with what goes over data-parallel ranks, in the workloads that have that."""
        ops = self._of_data(scope)
        if not ops:
            return known
        if self._beside is None:
            some = self.over_data
            self._beside = Batch(self.workloads[some], self.constants, self.cluster.of[some])
        return merged(*joined_with(known, ops, self._beside, self.over_data))

    def evaluated(self, scope: Scope) -> dict[Scope, Pass]:
        """Return a pass evaluated on the distinct rows of what it reads, and others that come with it."""
        what = self.declared(scope)
        rows, codes, _ = self.distinct_rows(what.reads)
        if scope[0] in AWAY_FROM_THE_ENDS:
            rows = rows.with_columns(stage=pl.lit(AWAY_FROM_THE_ENDS[scope[0]], dtype=pl.Int64))
        return {scope: merged(codes, of_a_layer(what.section, sums(what.ops, rows), rows, self.also))}


def merged(codes: Codes, values: Mapping[str, Array]) -> Pass:
    """Return a pass in which rows of equal values are one, whatever they have read."""
    rows = len(next(iter(values.values())))
    parts = []
    for each in values.values():
        found, own = np.unique(each, return_inverse=True)
        parts.append(Codes(own, len(found)))
    same = distinct(joined(parts, rows))
    return Pass(
        Codes(same.index[codes.of], len(same.first)),
        {name: each[same.first] for name, each in values.items()},
    )
