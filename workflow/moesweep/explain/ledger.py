"""The tables between one workload's catalogue numbers and its costs, and what defines each column.

Every definition is the expression that the trace or the cost evaluates: nothing is computed here.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import chain

import polars as pl

from moesweep.catalog import Cluster, Constant
from moesweep.cost import collectives, iteration, memory, model, ops, stages, uncertainty
from moesweep.cost.model import OF_THE_WORKLOAD, cost, needed_by_the_model, with_constants
from moesweep.explain.node import Node, Origin
from moesweep.explain.tables import Definition, Table, over
from moesweep.trace.programs import folded, quantities, sections
from moesweep.trace.programs import stages as stage_contents
from moesweep.trace.vocabulary import Op
from moesweep.workload import derivations

LAYOUT = Origin(
    "docs/trace.md", "which of num_layers a stage holds: layers over pp · virtual_pipeline stages"
)

QUANTITIES = (
    *("m", "n", "k", "groups", "flops", "hbm_bytes"),
    *("group_size", "comm_bytes", "wire_bytes", "num_microbatches", "repeats"),
)
"""Columns of an op that its vocabulary entry declares."""


class Ledger:
    """Every table of one workload on one cluster.

    `workload` is a frame of one row with the columns of results/workloads.parquet; `origins` says
    where its values are from. `moved` names the constant that stands at the end of its range.
    """

    def __init__(
        self, workload: pl.DataFrame, cluster: Cluster, origins: Mapping[str, Origin], moved: str = ""
    ) -> None:
        self._given, self._cluster, self._origins, self._moved = workload, cluster, origins, moved
        self._described = with_constants(workload, cluster.values)
        self._folded = folded(workload)
        self._costs = cost(self._folded, self._described)
        self._stages = stage_contents(workload)

    def _table(
        self,
        name: str,
        frame: pl.DataFrame,
        label: Callable[[pl.DataFrame], str],
        of_a_row: Mapping[str, pl.Expr],
        of_rows: Mapping[str, Definition] | None = None,
        other: Callable[[pl.DataFrame, str], Definition | Node] | None = None,
    ) -> Table:
        name = f"{name} with {self._moved}" if self._moved else name
        return Table(name, frame, label, of_a_row, of_rows or {}, other or self._of_the_workload)

    def _of_the_workload(self, row: pl.DataFrame, name: str) -> Node:
        if name in self.workload.frame.columns:
            return self.workload.column(self.workload.frame, name)
        return Node(f"{_stage(row)} {name}", name, row[name][0], _stage(row), LAYOUT)

    def _input(self, row: pl.DataFrame, name: str) -> Node:
        constant = self._cluster.constants.get(name)
        if constant is None:
            origin = self._origins.get(name, Origin("results/workloads.parquet"))
        else:
            origin = Origin(constant.file, constant.source, constant.tag)
        return Node(f"{name} with {self._moved}", name, row[name][0], "", origin)

    @cached_property
    def workload(self) -> Table:
        """The workload's row with the constants of its cluster."""
        return self._table("workload", self._described, _nowhere, derivations(), None, self._input)

    @cached_property
    def contents(self) -> Table:
        """One row per stage: how many layers of each kind it holds, as the trace sees it."""
        return self._table("contents", self._stages, _stage, {})

    @cached_property
    def ops(self) -> Table:
        """One row per distinct op of a stage."""
        frame = self._costs.ops.with_columns(runs=stages.runs())
        of_a_row = collectives.places() | ops.timings() | {"runs": stages.runs()}
        return self._table("op", frame, _op, of_a_row, None, self._of_an_op)

    @cached_property
    def passes(self) -> Table:
        """One row per pass through one layer, or through what a stage has around its layers."""
        parts = over(self.ops, stages.PASS_KEY[1:], stages.parts_of_a_pass())
        return self._table("pass", self._costs.passes, _pass, stages.seconds_of_a_pass(), parts)

    @cached_property
    def stages(self) -> Table:
        """One row per stage: seconds of a micro-batch and of what follows the last one."""
        seconds = over(self.passes, ("stage",), iteration.seconds_of_a_stage())
        return self._table("stage", self._costs.stages, _stage, {}, seconds)

    @cached_property
    def memory(self) -> Table:
        """One row per stage: bytes of its rank."""
        counted = over(self.ops, ("stage",), memory.contents_of_a_stage())
        of_a_row = memory.bytes_of_a_stage() | memory.peak_bytes()
        return self._table("memory", self._costs.memory, _stage, of_a_row, counted)

    @cached_property
    def costs(self) -> Table:
        """The row of results/costs.parquet, its uncertainty band aside."""
        of_rows = {
            **over(self.stages, (), iteration.seconds_of_an_iteration()),
            **over(self.memory, (), memory.bytes_of_the_fullest()),
            **over(self.ops, (), model.needed_flops(), needed_by_the_model),
        }
        of_a_row = iteration.bubble() | iteration.bubble_share() | model.throughput() | model.price()
        return self._table("cost", self._costs.workloads, _nowhere, of_a_row, of_rows)

    @cached_property
    def moved(self) -> Table:
        """One row per uncertain constant: the iteration with that one alone at the end of its range."""
        ends = uncertainty.farther_ends(self._cluster.constants)
        ends_frame = with_constants(self._given.select("workload"), ends)
        moved = uncertainty.sensitivity(self._folded, self._described, ends_frame)
        frame = uncertainty.changes(self._costs.workloads, moved)

        def other(row: pl.DataFrame, name: str) -> Node:
            constant = row["constant"][0]
            ledger = self if name == "own" else self._with(constant, ends[constant])
            return ledger.costs.column(ledger.costs.frame, "iteration_seconds")

        return self._table(
            "moved", frame, lambda row: f"{row['constant'][0]} moved", uncertainty.change(), None, other
        )

    @cached_property
    def band(self) -> Table:
        """The row of results/costs.parquet with its uncertainty band."""
        frame = uncertainty.banded(self._costs.workloads, self.moved.frame.drop("own", "share"))

        def other(_: pl.DataFrame, name: str) -> Node:
            costed = name in self.costs.of_rows or name in self.costs.of_a_row
            table = self.costs if costed else self.workload
            return table.column(table.frame, name)

        spread = over(self.moved, (), uncertainty.spread())
        return self._table("band", frame, _nowhere, uncertainty.band(), spread, other)

    def _with(self, name: str, end: float) -> "Ledger":
        """Return the ledger of the same workload with one constant at the end of its range."""
        constant = self._cluster.constants[name]
        source = f"the farther end of its range, {constant.low:g} to {constant.high:g}"
        moved: dict[str, Constant] = {name: replace(constant, value=end, source=source)}
        cluster = replace(self._cluster, constants=self._cluster.constants | moved)
        return Ledger(self._given, cluster, self._origins, name)

    def _of_an_op(self, row: pl.DataFrame, name: str) -> Definition | Node:
        """Return what defines a column that the op's row has from the trace or from its workload."""
        if name in QUANTITIES:
            return self._declared(row, name)
        own = {renamed: own for own, renamed in OF_THE_WORKLOAD.items()}
        return self._of_the_workload(row, own.get(name, name))

    def _declared(self, row: pl.DataFrame, name: str) -> Definition:
        """Return what the trace declares for a quantity of an op, over its stage's contents."""
        kind, stage = row["layer_kind"][0], row["stage"][0]
        if name == "repeats":
            layers = pl.lit(1, dtype=pl.Int64) if kind is None else pl.col(f"{kind}_layers")
            return Definition(layers, self.contents, ("stage",))
        entry = self._entry(row["phase"][0], kind, row["op"][0], stage)
        return Definition(quantities(entry)[name], self.contents, ("stage",))

    def _entry(self, phase: str, kind: str | None, op: str, stage: int) -> Op:
        """Return the vocabulary's entry for an op: of entries with the same name, the one that applies."""
        here = self._stages.filter(pl.col("stage") == stage)
        entries = self._entries[phase, kind, op]
        return next(entry for entry in entries if here.select(entry.when.alias("applies"))["applies"][0])

    @cached_property
    def _entries(self) -> dict[tuple[str, str | None, str], list[Op]]:
        entries: dict[tuple[str, str | None, str], list[Op]] = {}
        for section in chain.from_iterable(sections()):
            for op in section.ops:
                entries.setdefault((section.phase, section.layer_kind, op.name), []).append(op)
        return entries


def _nowhere(_: pl.DataFrame) -> str:
    return ""


def _stage(row: pl.DataFrame) -> str:
    return f"stage {row['stage'][0]}"


def _pass(row: pl.DataFrame) -> str:
    phase, kind = row["phase"][0], row["layer_kind"][0]
    if phase == "optimizer":
        return f"{_stage(row)}, optimizer"
    return f"{_stage(row)}, {phase} {'around the layers' if kind is None else f'of a {kind} layer'}"


def _op(row: pl.DataFrame) -> str:
    return f"{_pass(row)}, {row['op'][0]}"
