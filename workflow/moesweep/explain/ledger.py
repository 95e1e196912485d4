"""The tables between one workload's catalogue numbers and its costs, and what defines each column.

Every definition is the expression that the trace or the cost evaluates: nothing is computed here.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path

import polars as pl

from moesweep.cost import buckets, collectives, iteration, memory, model, ops, pairs, stages, uncertainty
from moesweep.cost.fold import KEY
from moesweep.cost.model import OF_THE_WORKLOAD, cost, needed_by_the_model
from moesweep.cost.skewed_ranks import at_mean_load, computed_rows, flops_of
from moesweep.evaluate.costs import on_cluster
from moesweep.evaluate.programs import LOADS, Programs, programs_of
from moesweep.explain.columns import Definition, Table, over
from moesweep.explain.node import Node, Origin
from moesweep.network.slowed import busiest_link
from moesweep.shapes.layer_kinds import KINDS, has_experts
from moesweep.shapes.sizes import BALANCED, GIVEN
from moesweep.shapes.weights import layers_of
from moesweep.study.catalog import Cluster
from moesweep.study.workload import derivations
from moesweep.trace.programs import quantities, sections
from moesweep.trace.programs import stages as stage_contents
from moesweep.trace.vocabulary import Op

LAYOUT = Origin(
    "docs/trace.md", "which of num_layers a stage holds: layers over pp · virtual_pipeline stages"
)

STEPPED = Origin(
    "docs/costs.md", "the schedule of all chunks, stepped through: they do not last equally long"
)

COVERED = Origin("docs/new-cluster.md", "what measured runs cover: measured_... of the cluster")

LOADED = Origin("docs/trace.md", "layers of the stage whose experts have as many rows")
FULLEST = ("mean_rows", "most_rows")

QUANTITIES = (
    *("m", "n", "k", "groups", "flops", "hbm_bytes"),
    *("group_size", "comm_bytes", "wire_bytes", "num_microbatches", "repeats"),
)
"""Columns of an op that its vocabulary entry declares."""


class Ledger:
    """Every table of one workload on one cluster.

    `workload` is a frame of one row with the columns of results/workloads.parquet; `origins` says
    where its values are from. `programs` are its `programs_of`, made if not given.
    """

    def __init__(
        self,
        workload: pl.DataFrame,
        cluster: Cluster,
        origins: Mapping[str, Origin],
        programs: Programs | None = None,
    ) -> None:
        self._cluster, self._origins = cluster, origins
        self._described = on_cluster(workload, cluster)
        self.programs = programs or programs_of(workload, Path())
        programs = self.programs
        self._costs = cost(programs.folded, self._described, programs.fullest, programs.layers)
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
        return Table(name, frame, label, of_a_row, of_rows or {}, other or self._of_the_workload)

    def _of_the_workload(self, row: pl.DataFrame, name: str) -> Node:
        if name in self.workload.frame.columns:
            return self.workload.column(self.workload.frame, name)
        return Node(f"{_stage(row)} {name}", name, row[name][0], _stage(row), LAYOUT)

    def _input(self, row: pl.DataFrame, name: str) -> Node:
        constant, kind = self._cluster.constants.get(name), name.removesuffix("_slowdown")
        if kind != name:
            cluster, layout = self._cluster, row.row(0, named=True)
            link = busiest_link(cluster.network, cluster.values, layout, kind)
            origin = Origin(cluster.network.file, f"its busiest link: {link}")
        elif constant is None:
            origin = self._origins.get(name, Origin("results/workloads.parquet"))
        else:
            origin = Origin(constant.file, constant.source, constant.tag)
        return Node(name, name, row[name][0], "", origin)

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
        of_rows = None
        if self.programs.fullest is not None:
            shown, rows = self.programs.shown, self.programs.fullest.select(*KEY[:2], *computed_rows())
            frame = frame.join(shown, on=KEY, how="left", nulls_equal=True, maintain_order="left")
            frame = frame.join(rows, on=KEY[:2], how="left", maintain_order="left")
            of_rows = over(self.members, ("stage",), computed_rows())
        of_a_row = collectives.places(self._described.columns) | ops.timings() | {"runs": stages.runs()}
        return self._table("op", frame, _op, of_a_row, of_rows, self._of_an_op)

    @cached_property
    def passes(self) -> Table:
        """One row per pass through one layer, or through what a stage has around its layers."""
        parts = over(self.ops, stages.PASS_KEY[1:], stages.parts_of_a_pass())
        return self._table("pass", self._costs.passes, _pass, stages.seconds_of_a_pass(), parts)

    @cached_property
    def pairs(self) -> Table:
        """One row per stage and kind of layer: what its passes save that run in pairs."""
        both = over(self.passes, pairs.PAIR_KEY[1:], pairs.passes_of_a_pair())
        return self._table("pair", self._costs.pairs, _pair, pairs.hidden_of_a_pair(), both)

    @cached_property
    def stages(self) -> Table:
        """One row per stage: seconds of a micro-batch and of what follows the last one."""
        seconds = over(self.passes, ("stage",), iteration.seconds_of_a_stage())
        seconds |= over(self.pairs, ("stage",), pairs.pairs_of_a_stage())
        of_a_row = iteration.own_seconds() | iteration.alone()
        of_a_row |= buckets.hidden_of_the_tail() | iteration.seconds_of_the_tail()
        return self._table("stage", self._costs.stages, _stage, of_a_row, seconds)

    @cached_property
    def memory(self) -> Table:
        """One row per stage: bytes of its rank."""
        counted = over(self.ops, ("stage",), memory.contents_of_a_stage())
        of_a_row, frame = memory.bytes_of_a_stage() | memory.peak_bytes(), self._costs.memory
        if self.programs.fullest is not None:
            of_a_row |= memory.passes_of_the_fullest()
            counted |= over(self.members, ("stage",), {name: pl.col(name).max() for name in FULLEST})
            rows = frame.join(self.programs.fullest, on=KEY[:2], how="left", maintain_order="left")
            frame = rows.with_columns(pl.col(FULLEST).fill_null(0))
        return self._table("memory", frame, _stage, of_a_row, counted)

    @cached_property
    def loads(self) -> Table:
        """One row per MoE layer and ep rank, where routing is given: the copies it sends and gets."""

        def other(row: pl.DataFrame, name: str) -> Node:
            if name not in LOADS:
                return self._of_the_workload(row, name)
            origin = Origin("docs/trace.md", f"copies of tokens under the given routing {row['routing'][0]}")
            return Node(f"{_load(row)} {name}", name, row[name][0], _load(row), origin)

        rows = {"rows": pl.col("received") * pl.col("etp")}
        return self._table("load", self.programs.loads.with_columns(**rows), _load, rows, None, other)

    @cached_property
    def members(self) -> Table:
        """One row per stage and ep rank, where routing is given: the expert rows of its MoE layers."""
        rows = pl.col("rows")
        routed = layers_of(kind for kind in KINDS if has_experts(kind))
        of_rows = {"mean_rows": rows.sum() / routed.first(), "most_rows": rows.max()}
        ranks = self.loads.frame.group_by("stage", "ep_rank", maintain_order=True)
        frame = ranks.agg(**of_rows, ep=pl.col("ep").first())
        return self._table("member", frame, _member, {}, over(self.loads, ("stage", "ep_rank"), of_rows))

    @cached_property
    def needed(self) -> Table:
        """One row per distinct op as the model needs it: over computed rows, where routing is given."""
        if not self.programs.uneven:
            return self.ops

        def other(row: pl.DataFrame, name: str) -> Definition | Node:
            if name == "flops" and row["kind"][0] == "grouped_gemm":
                return Definition(flops_of(pl.col("computed_rows")), self.ops, tuple(KEY[1:]))
            return self.ops.column(row, name)

        frame = at_mean_load(self.ops.frame.drop(computed_rows()), self.programs.fullest)
        return self._table("needed", frame, _op, {}, None, other)

    @cached_property
    def costs(self) -> Table:
        """The row of results/costs.parquet."""
        of_rows = {
            **over(self.stages, (), iteration.seconds_of_the_slowest()),
            **over(self.memory, (), memory.bytes_of_the_fullest()),
            **over(self.needed, (), model.needed_flops(), needed_by_the_model),
        }
        of_a_row = (
            ({} if self._costs.workloads["stepped"][0] else iteration.filled_and_drained())
            | iteration.seconds_of_an_iteration()
            | iteration.bubble()
            | iteration.bubble_share()
            | model.throughput()
            | model.price()
            | uncertainty.regime()
            | uncertainty.band()
        )
        return self._table("cost", self._costs.workloads, _nowhere, of_a_row, of_rows, self._of_the_costs)

    def _of_the_costs(self, row: pl.DataFrame, name: str) -> Definition | Node:
        """Return what defines a column of the costs that has no formula."""
        known = {"pipeline_seconds": STEPPED, "validated": COVERED, "validated_why": COVERED}
        if name not in known:
            return self._of_the_workload(row, name)
        return Node(name, name, row[name][0], "", known[name])

    def _of_an_op(self, row: pl.DataFrame, name: str) -> Definition | Node:
        """Return what defines a column that the op's row has from the trace or from its workload."""
        if name in QUANTITIES:
            return self._declared(row, name)
        own = {renamed: own for own, renamed in OF_THE_WORKLOAD.items()}
        return self._of_the_workload(row, own.get(name, name))

    def _declared(self, row: pl.DataFrame, name: str) -> Definition | Node:
        """Return what the trace declares for a quantity of an op, over its stage's contents.

        Where routing is given, what depends on it is the largest over the ep ranks of the layer shown.
        """
        kind, stage = row["layer_kind"][0], row["stage"][0]
        if name == "repeats":
            return self._repeats(row, kind)
        entry = self._entry(row["phase"][0], kind, row["op"][0], stage)
        quantity = quantities(entry)[name]
        if not set(quantity.meta.root_names()) & set(LOADS):
            return Definition(quantity, self.contents, ("stage",))
        if entry.collective == "all_to_all":
            op = row["op"][0].removeprefix("recompute_")
            both = (self._entry(phase, kind, op, stage) for phase in ("forward", "backward"))
            quantity = pl.max_horizontal(quantities(each)[name] for each in both)
        return Definition(quantity.max(), self.loads, ("layer",))

    def _repeats(self, row: pl.DataFrame, kind: str | None) -> Definition | Node:
        """Return how many layers of the stage run an op; those of different loads are counted apart."""
        if kind is not None and " " in kind:
            return Node(f"{_op(row)} repeats", "repeats", row["repeats"][0], _op(row), LOADED)
        layers = pl.lit(1, dtype=pl.Int64) if kind is None else pl.col(f"{kind}_layers")
        return Definition(layers, self.contents, ("stage",))

    def _entry(self, phase: str, kind: str | None, op: str, stage: int) -> Op:
        """Return the vocabulary's entry for an op: of entries with the same name, the one that applies."""
        here = self._stages.filter(pl.col("stage") == stage)
        entries = self._entries[phase, kind and kind.split()[0], op]
        return next(entry for entry in entries if here.select(entry.when.alias("applies"))["applies"][0])

    @cached_property
    def _entries(self) -> dict[tuple[str, str | None, str], list[Op]]:
        entries: dict[tuple[str, str | None, str], list[Op]] = {}
        rows = GIVEN if self.programs.uneven else BALANCED
        for section in chain.from_iterable(sections(rows)):
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
    if kind is None:
        return f"{_stage(row)}, {phase} around the layers"
    return f"{_stage(row)}, {phase} of a {_layer(kind)}"


def _layer(kind: str) -> str:
    kind, _, load = kind.partition(" ")
    return f"{kind} layer{load and f' of load {load}'}"


def _pair(row: pl.DataFrame) -> str:
    return f"{_stage(row)}, both passes of a {_layer(row['layer_kind'][0])}"


def _member(row: pl.DataFrame) -> str:
    return f"{_stage(row)}, ep rank {row['ep_rank'][0]}"


def _load(row: pl.DataFrame) -> str:
    return f"ep rank {row['ep_rank'][0]} in layer {row['layer'][0]}"


def _op(row: pl.DataFrame) -> str:
    return f"{_pass(row)}, {row['op'][0]}"
