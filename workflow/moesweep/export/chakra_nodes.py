"""One step of one stage as Chakra nodes: a block of bytes with gaps for ids, tags, groups and ranks.

Streams are those of a training process. An op waits for the op before it, with three exceptions: a send
is waited for only by the next send; a tp collective that runs beside a GEMM and that GEMM do not wait for
each other; and the first op of a step waits for its receive, which is posted when the step before ends.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moesweep.export.chakra_schema import COLLECTIVE, COMM_TYPES, COMPUTE, FIELD_NUMBERS, OWN_SIZE, RECV, SEND
from moesweep.export.wire import (
    ID_BASE,
    ID_BYTES,
    TAG_BASE,
    TAG_BYTES,
    Bytes,
    Numbers,
    bytes_field,
    fixed_varints,
    number_field,
    varint,
)
from moesweep.shapes.communication import GROUP_KINDS, HIDES_BEHIND

NODE, ATTRIBUTE = FIELD_NUMBERS["Node"], FIELD_NUMBERS["AttributeProto"]

BEFORE, SENT = -1, -2
"""Local ids of what an earlier step holds: the last op before this step, and the last send."""

LARGEST = "largest_comm_bytes"
"""What the rank of an all_to_all's group that sends most sends; 0 where all ranks of a group send alike."""

COLUMNS = (
    *("op", "layer", "kind", "phase", "flops", "hbm_bytes", "nanoseconds"),
    *("collective", "group_kind", "group_size", "comm_bytes", LARGEST),
)
"""What `Builder.add` reads of an op."""


@dataclass(frozen=True)
class Shape:
    """What fixes the lengths of a block's gaps and dependency lists.

    `digits` of a group's name; `rank_bytes` of the varints of this rank and of its neighbours `before`
    and `after`; whether there is an op before the step (`follows`), and a send (`has_sent`).
    """

    digits: int
    rank_bytes: tuple[int, int, int]
    follows: bool
    has_sent: bool


@dataclass(frozen=True)
class Template:
    """A step's nodes as bytes, and where its gaps are: an index row a gap, and what goes there."""

    data: Bytes
    nodes: int
    last: int
    send: int | None
    id_places: Numbers
    local_ids: Numbers
    tag_places: Numbers
    tag_kinds: list[str]
    group_places: Numbers
    group_kinds: Numbers
    rank_places: list[tuple[int, int, int]]

    def filled(self, first_id: int, before: int, sent: int, tags: Mapping[str, int]) -> Bytes:
        """Return a copy with ids and tags: what all ranks of the stage share in one step."""
        block = self.data.copy()
        ids = first_id + self.local_ids
        ids[self.local_ids == BEFORE] = before
        ids[self.local_ids == SENT] = sent
        block[self.id_places] = fixed_varints(ids, ID_BYTES)
        if self.tag_kinds:
            numbers = np.array([TAG_BASE + tags[kind] for kind in self.tag_kinds], dtype=np.int64)
            block[self.tag_places] = fixed_varints(numbers, TAG_BYTES)
        return block

    def give(self, block: Bytes, names: Bytes, around: list[Bytes]) -> None:
        """Put one rank's group names (a row a kind) and ranks (own, before, after) into a filled block."""
        block[self.group_places] = names[self.group_kinds]
        for at, who, width in self.rank_places:
            block[at : at + width] = around[who]


@dataclass
class Builder:
    """Lays one op after another."""

    shape: Shape
    data: bytearray = field(default_factory=bytearray)
    nodes: int = 0
    send: int | None = None
    frontier: list[int] = field(default_factory=list)
    gaps: dict[str, list[tuple[int, Any]]] = field(
        default_factory=lambda: {"id": [], "tag": [], "group": [], "rank": []}
    )

    def build(self, ops: Iterable[tuple[Any, ...]]) -> Template:
        """Return the block of a step's ops, given as rows of COLUMNS in program order."""
        rows = [dict(zip(COLUMNS, op, strict=True)) for op in ops]
        self.frontier = [BEFORE] if self.shape.follows else []
        following = [row["op"] for row in rows[1:]] + [""]
        beside = None
        for row, next_op in zip(rows, following, strict=True):
            me = self._add(row)
            if row["collective"] == "send":
                self.send = me
            elif beside is not None:
                self.frontier, beside = [beside, me], None
            elif HIDES_BEHIND.get(row["op"]) == next_op:
                beside = me
            else:
                self.frontier = [me]
        (last,) = self.frontier
        return self._template(last)

    def _template(self, last: int) -> Template:
        def places(kind: str, width: int) -> Numbers:
            starts = np.array([at for at, _ in self.gaps[kind]], dtype=np.int64)
            return starts[:, None] + np.arange(width)

        return Template(
            data=np.frombuffer(self.data, dtype=np.uint8),
            nodes=self.nodes,
            last=last,
            send=self.send,
            id_places=places("id", ID_BYTES),
            local_ids=np.array([local for _, local in self.gaps["id"]], dtype=np.int64),
            tag_places=places("tag", TAG_BYTES),
            tag_kinds=[kind for _, kind in self.gaps["tag"]],
            group_places=places("group", self.shape.digits),
            group_kinds=np.array([GROUP_KINDS.index(kind) for _, kind in self.gaps["group"]], dtype=np.int64),
            rank_places=[(at, who, self.shape.rank_bytes[who]) for at, who in self.gaps["rank"]],
        )

    def _add(self, row: Mapping[str, Any]) -> int:
        """Append the node of an op and return its local id."""
        me, self.nodes = self.nodes, self.nodes + 1
        waits = list(self.frontier)
        if row["collective"] == "send" and self.shape.has_sent:
            waits.append(SENT)
        name = row["op"] if row["layer"] < 0 else f"{row['op']}.{row['layer']}"
        message = bytearray(number_field(NODE["id"], ID_BASE))
        gaps = [("id", len(message) - ID_BYTES, me)]
        message += bytes_field(NODE["name"], name.encode()) + number_field(NODE["type"], _node_type(row))
        if waits:
            message += bytes_field(NODE["data_deps"], bytes(ID_BYTES * len(waits)))
            start = len(message) - ID_BYTES * len(waits)
            gaps += [("id", start + ID_BYTES * i, local) for i, local in enumerate(waits)]
        if row["kind"] not in ("collective", "p2p"):
            message += number_field(NODE["duration_micros"], max(1, round(row["nanoseconds"] / 1000)))
        for attribute, gap in self._attributes(row):
            message += bytes_field(NODE["attr"], attribute)
            if gap is not None:
                kind, width, value = gap
                gaps.append((kind, len(message) - width, value))
        self.data += varint(len(message))
        for kind, at, value in gaps:
            self.gaps[kind].append((len(self.data) + at, value))
        self.data += message
        return me

    def _attributes(self, row: Mapping[str, Any]) -> list[tuple[bytes, tuple[str, int, Any] | None]]:
        """Return each attribute and, if its value is a gap at its end, the gap's kind, width and meaning."""
        own: list[tuple[bytes, tuple[str, int, Any] | None]] = [(_attribute("is_cpu_op", "bool", 0), None)]
        if row["kind"] == "collective":
            digits = self.shape.digits
            name = bytes_field(ATTRIBUTE["name"], b"pg_name") + bytes_field(
                ATTRIBUTE["string_val"], bytes(digits)
            )
            return [
                *own,
                (_attribute("comm_type", "int64", COMM_TYPES[row["collective"]]), None),
                (_attribute("comm_size", "int64", row[LARGEST] or _comm_size(row)), None),
                *([(_attribute(OWN_SIZE, "int64", row["comm_bytes"]), None)] if row[LARGEST] else []),
                (name, ("group", digits, row["group_kind"])),
            ]
        if row["kind"] == "p2p":
            # A rank's neighbour is the stage before it, unless it sends forward or receives backward.
            onward = (row["collective"] == "send") == (row["phase"] == "forward")
            ends = (0, 2 if onward else 1)
            source, target = ends if row["collective"] == "send" else ends[::-1]
            widths = self.shape.rank_bytes
            return [
                *own,
                (_attribute("comm_size", "int64", row["comm_bytes"]), None),
                (_gap("comm_src", widths[source]), ("rank", widths[source], source)),
                (_gap("comm_dst", widths[target]), ("rank", widths[target], target)),
                (_gap("comm_tag", TAG_BYTES), ("tag", TAG_BYTES, row["collective"])),
            ]
        # A roofline divides flops by bytes: an op without flops is one that moves its bytes.
        return [
            *own,
            (_attribute("num_ops", "int64", max(1, row["flops"])), None),
            (_attribute("tensor_size", "uint64", max(1, row["hbm_bytes"])), None),
        ]


def _node_type(row: Mapping[str, Any]) -> int:
    return {"collective": COLLECTIVE, "p2p": SEND if row["collective"] == "send" else RECV}.get(
        row["kind"], COMPUTE
    )


def _comm_size(row: Mapping[str, Any]) -> int:
    """Return the bytes as ASTRA-sim reads them: the shard of an all_gather, else the input buffer."""
    size: int = row["comm_bytes"]
    return size // int(row["group_size"]) if row["collective"] == "all_gather" else size


def _attribute(name: str, value: str, number: int) -> bytes:
    return bytes_field(ATTRIBUTE["name"], name.encode()) + number_field(ATTRIBUTE[f"{value}_val"], number)


def _gap(name: str, width: int) -> bytes:
    """Return an int32 attribute whose value, at its end, is still to be filled in."""
    return bytes_field(ATTRIBUTE["name"], name.encode()) + varint(ATTRIBUTE["int32_val"] << 3) + bytes(width)
