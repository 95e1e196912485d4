"""Chakra execution traces as ASTRA-sim 2 reads them: one `trace.<rank>.et` a rank, and `comm_groups.json`.

Ranks of a stage (those of one ep rank, where routing is given) differ only in the names of their groups and
in who their neighbours are. So each step of a stage is laid out once, filled with its ids once, and copied
to every rank with those few bytes changed; memory holds one step, whatever the length of the trace.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from moesweep.export.chakra_nodes import ATTRIBUTE, COLUMNS, LARGEST, Builder, Shape, Template
from moesweep.export.chakra_schema import FIELD_NUMBERS, ROUTING
from moesweep.export.folder import whole_folder
from moesweep.export.request import Request, chosen_ranks
from moesweep.export.skewed_costs import alike
from moesweep.export.source import Traced
from moesweep.export.timeline import nanoseconds, step_programs, steps
from moesweep.export.wire import ID_BASE, ID_LIMIT, TAGS, Bytes, bytes_field
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.shapes.parallelism import groups, ranks, stages_on
from moesweep.store.thrift import varint

GROUPS_FILE = "comm_groups.json"
SCHEMA_VERSION = b"0.0.4"
OPEN_FILES = 256

_Kind = tuple[int, str, int]
"""A kind of step: stage, phase, chunk."""


def export(traced: Traced, request: Request) -> None:
    """Write the set of a workload into `<out>/<workload>/`."""
    with whole_folder(request.out / traced.workload["workload"], (GROUPS_FILE, "trace.*.et")) as folder:
        write_set(traced, folder, chosen_ranks(request), request.microbatches)


def write_set(
    traced: Traced, folder: Path, chosen: list[int] | None = None, microbatches: int | None = None
) -> None:
    """Write the traces of the chosen ranks (None: all), and the members of every group they name."""
    everyone = ranks(traced.workload)
    if chosen is not None:
        everyone = everyone.filter(pl.col("rank").is_in(chosen))
    names = _GroupNames(traced)
    (folder / GROUPS_FILE).write_text(names.json(), encoding="utf-8")
    header, largest = _header(traced), _largest(traced)
    for own, members in alike(traced, everyone):
        program = own.program.join(largest, on=["stage", "op_index"], how="left", maintain_order="left")
        filled = replace(own, program=program.with_columns(pl.col(LARGEST).fill_null(0)))
        writer = _StageWriter(filled, names, header, microbatches)
        for (stage,), part in members.partition_by("stage", as_dict=True, maintain_order=True).items():
            writer.write(int(stage), part, folder)


def _largest(traced: Traced) -> pl.DataFrame:
    """Return what the rank that sends most sends in each all_to_all, where routing is given."""
    each = traced.program.head(0) if traced.each is None else traced.each
    exchanges = each.filter((pl.col("collective") == "all_to_all") & (pl.col("group_kind") == "ep"))
    return exchanges.group_by("stage", "op_index").agg(pl.col("comm_bytes").max().alias(LARGEST))


def _header(traced: Traced) -> bytes:
    """Return the first message of every file: the version, and the routing that makes ranks differ."""
    version = bytes_field(FIELD_NUMBERS["GlobalMetadata"]["version"], SCHEMA_VERSION)
    if traced.each is None:
        return version
    text = traced.workload["routing"].encode()
    routing = bytes_field(ATTRIBUTE["name"], ROUTING.encode()) + bytes_field(ATTRIBUTE["string_val"], text)
    return version + bytes_field(FIELD_NUMBERS["GlobalMetadata"]["attr"], routing)


class _GroupNames:
    """Groups as numbers of equal length, since 0 means all ranks to ASTRA-sim and lengths must not differ."""

    def __init__(self, traced: Traced) -> None:
        used = traced.program["group_kind"].drop_nulls().unique().cast(pl.String).to_list()
        members = groups(traced.workload).filter(
            pl.col("group_kind").is_in(used) & (pl.col("group_kind") != "pp")
        )
        self._groups = members.group_by("group_kind", "group_id", maintain_order=True).agg("rank")
        self.digits = 1
        while 9 * 10 ** (self.digits - 1) < self._groups.height:
            self.digits += 1
        self._first = 10 ** (self.digits - 1)
        named = self._groups.with_row_index("name", offset=self._first)
        self._numbers = {(kind, id_): name for name, kind, id_ in named.drop("rank").iter_rows()}

    def json(self) -> str:
        """Return name to ranks, as text."""
        members = enumerate(self._groups["rank"].to_list(), start=self._first)
        return json.dumps({str(name): ranks_ for name, ranks_ in members}, separators=(",", ":")) + "\n"

    def text(self, kind: str, id_: int) -> Bytes:
        """Return the digits of a group's name, zeros where no op runs over that group."""
        return np.frombuffer(
            str(self._numbers.get((kind, id_), 0)).zfill(self.digits).encode(), dtype=np.uint8
        )


class _StageWriter:
    """Writes the traces of one stage after another."""

    def __init__(self, traced: Traced, names: _GroupNames, header: bytes, microbatches: int | None) -> None:
        self._workload, self._names, self._header = traced.workload, names, header
        repeated = step_programs(traced)
        self._schedule = steps(traced, repeated, microbatches)
        final = nanoseconds(traced.program).filter(pl.col("phase") == "optimizer").with_columns(chunk=0)
        parts = [frame.select("stage", "chunk", *COLUMNS) for frame in (repeated, final)]
        self._ops: dict[_Kind, list[tuple[Any, ...]]] = {}
        for part in parts:
            kinds = part.partition_by("stage", "phase", "chunk", as_dict=True, maintain_order=True)
            for (stage, phase, chunk), ops in kinds.items():
                self._ops[stage, str(phase), chunk] = ops.select(COLUMNS).rows()
        self._templates: dict[tuple[_Kind, Shape], Template] = {}

    def write(self, stage: int, members: pl.DataFrame, folder: Path) -> None:
        """Write the traces of a stage's ranks, a number of open files at a time."""
        alike: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
        for member in members.iter_rows(named=True):
            alike.setdefault(_lengths(self._around(member["rank"])), []).append(member)
        for rank_bytes, ranks_ in alike.items():
            for at in range(0, len(ranks_), OPEN_FILES):
                self._write_some(stage, rank_bytes, ranks_[at : at + OPEN_FILES], folder)

    def _write_some(
        self, stage: int, rank_bytes: tuple[int, int, int], members: list[dict[str, Any]], folder: Path
    ) -> None:
        with ExitStack() as stack:
            owners = [self._owner(member) for member in members]
            files = [
                stack.enter_context((folder / f"trace.{member['rank']}.et").open("wb")) for member in members
            ]
            for file in files:
                file.write(varint(len(self._header)) + self._header)
            for template, block in self._blocks(stage, rank_bytes):
                for owner, file in zip(owners, files, strict=True):
                    template.give(block, *owner)
                    file.write(block.data)

    def _blocks(self, stage: int, rank_bytes: tuple[int, int, int]) -> Iterator[tuple[Template, Bytes]]:
        """Yield each step of a stage in order, filled with what its ranks share."""
        next_id, before, sent = ID_BASE, 0, 0
        for kind, tags in self._steps(stage):
            shape = Shape(self._names.digits, rank_bytes, follows=before > 0, has_sent=sent > 0)
            template = self._template(kind, shape)
            yield template, template.filled(next_id, before, sent, tags)
            before = next_id + template.last
            sent = sent if template.send is None else next_id + template.send
            next_id += template.nodes
            if next_id > ID_LIMIT:
                raise OverflowError(f"a rank runs more than {ID_LIMIT - ID_BASE} ops; use --microbatches")

    def _steps(self, stage: int) -> Iterator[tuple[_Kind, dict[str, int]]]:
        """Yield the kind and tags of each step. A tag names the receiver's chunk, micro-batch and pass."""
        pp, chunks = self._workload["pp"], self._workload["virtual_pipeline"]
        rows = self._schedule.filter(pl.col("stage") == stage).select("phase", "microbatch", "chunk")
        for phase, microbatch, chunk in rows.iter_rows():
            backward = phase == "backward"
            receiver = chunk * pp + stage + (-1 if backward else 1)
            there = {"recv": chunk, "send": receiver // pp}
            tags = {way: (2 * (microbatch * chunks + c) + backward) % TAGS for way, c in there.items()}
            yield (stage, phase, chunk), tags
        if (stage, "optimizer", 0) in self._ops:
            yield (stage, "optimizer", 0), {}

    def _template(self, kind: _Kind, shape: Shape) -> Template:
        if (kind, shape) not in self._templates:
            self._templates[kind, shape] = Builder(shape).build(self._ops[kind])
        return self._templates[kind, shape]

    def _around(self, rank: int) -> tuple[int, int, int]:
        """Return a rank and its neighbours in the stages before and after, the first following the last."""
        return rank, stages_on(rank, -1, self._workload), stages_on(rank, 1, self._workload)

    def _owner(self, member: dict[str, Any]) -> tuple[Bytes, list[Bytes]]:
        """Return a rank's group names, a row a kind, and the varints of `_around`."""
        names = [self._names.text(kind, member[f"{kind}_group"]) for kind in GROUP_KINDS]
        around = [np.frombuffer(varint(rank), dtype=np.uint8) for rank in self._around(member["rank"])]
        return np.stack(names), around


def _lengths(around: tuple[int, int, int]) -> tuple[int, int, int]:
    first, before, after = (len(varint(rank)) for rank in around)
    return first, before, after
