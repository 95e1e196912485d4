"""GOAL schedules for LogGOPSim and ATLAHS: what each rank computes, sends and receives, and after what.

Collectives are expanded into their messages (export/rounds.py). An op waits for the op before it; a tp
collective that runs beside a GEMM and that GEMM do not wait for each other; the next send alone waits for a
send. Of chosen ranks, which are numbered on from 0, a collective with members that are not among them takes
its costed time.
"""

from dataclasses import dataclass, field
from typing import Any, TextIO

import polars as pl

from moesweep.export.request import Request, chosen_ranks
from moesweep.export.rounds import Exchange, name_of_op
from moesweep.export.source import Traced
from moesweep.export.unroll import by_stage
from moesweep.shapes.communication import GROUP_KINDS, HIDES_BEHIND
from moesweep.shapes.parallelism import ranks, stages_on
from moesweep.store.tablefile import whole

PER_NANOSECOND = {"ns": 1, "ps": 1000}
"""Units of time: ATLAHS counts nanoseconds, LogGOPSim, whose -G is a whole number a byte, picoseconds."""

FIRST_TAG = 32
"""Tags below it are those of collectives, by kind; above, of messages between stages."""

_OP = (
    *("op", "name", "collective", "group_kind", "comm_bytes", "phase"),
    *("stage", "microbatch", "chunk", "nanoseconds", "wait"),
)


def export(traced: Traced, request: Request) -> None:
    """Write `<workload>.goal` and the command that runs it."""
    unit = request.time_unit or "ns"
    path = request.out / f"{traced.workload['workload']}.goal"
    everyone = ranks(traced.workload)
    chosen = chosen_ranks(request)
    members = everyone if chosen is None else everyone.filter(pl.col("rank").is_in(chosen))
    with whole(path) as partial, partial.open("w", encoding="ascii") as file:
        write_schedule(file, traced, members, unit, request.microbatches)
    nic = request.configuration.cluster().value("nic_bytes_per_second")
    with whole(path.with_suffix(".goal.command.txt")) as partial:
        partial.write_text(_command(path.name, unit, nic, members["rank"].to_list()), encoding="ascii")


def write_schedule(
    file: TextIO, traced: Traced, members: pl.DataFrame, unit: str, microbatches: int | None
) -> None:
    """Write the schedule of some ranks of `ranks`."""
    numbers = {rank: number for number, rank in enumerate(members["rank"])}
    exchange = Exchange(traced)
    file.write(f"num_ranks {len(numbers)}\n\n")
    for (stage,), part in members.partition_by("stage", as_dict=True, maintain_order=True).items():
        # Where routing is given, every ep rank runs a program of its own.
        ops: dict[int, list[dict[str, Any]]] = {}
        for rank, ep_rank in part.select("rank", "ep_rank").iter_rows():
            own = 0 if traced.each is None else ep_rank
            if own not in ops:
                ops[own] = _ops(traced.of(own), int(stage), microbatches)
            _Rank(traced, exchange, numbers, rank, unit).write(file, ops[own])


def _ops(own: Traced, stage: int, microbatches: int | None) -> list[dict[str, Any]]:
    """Return what a stage runs, in order."""
    ((_, frame),) = by_stage(own, [stage], microbatches)
    waits = own.program.select(
        "stage", "op_index", wait=(pl.col("wait_seconds") * 1e9).round().cast(pl.Int64)
    )
    rows = (
        frame.join(waits.lazy(), on=["stage", "op_index"], how="left", maintain_order="left")
        .with_columns(nanoseconds=pl.col("end_nanoseconds") - pl.col("start_nanoseconds"), name=name_of_op())
        .select(_OP)
        .collect()
    )
    return list(rows.iter_rows(named=True))


@dataclass
class _Rank:
    """Writes what one rank does. `numbers` are the chosen ranks' in the schedule."""

    traced: Traced
    exchange: Exchange
    numbers: dict[int, int]
    rank: int
    unit: str
    labels: int = 0
    sent: int = 0
    lines: list[str] = field(default_factory=list)

    def write(self, file: TextIO, ops: list[dict[str, Any]]) -> None:
        """Write the rank's block."""
        file.write(f"rank {self.numbers[self.rank]} {{\n")
        frontier: list[int] = []
        beside: list[int] | None = None
        following = [row["op"] for row in ops[1:]] + [""]
        for row, after in zip(ops, following, strict=True):
            overlaps = beside is None and HIDES_BEHIND.get(row["op"]) == after
            ends = self._add(row, frontier, overlaps)
            if row["collective"] == "send":
                pass
            elif beside is not None:
                frontier, beside = [*beside, *ends], None
            elif overlaps:
                beside = ends
            else:
                frontier = ends
            file.writelines(self.lines)
            self.lines.clear()
        file.write("}\n\n")

    def _add(self, row: dict[str, Any], waits: list[int], overlaps: bool) -> list[int]:
        """Add an op; return what the next one has to wait for."""
        if row["collective"] in ("send", "recv"):
            ends = self._message(row, waits)
        elif row["collective"] is None or self._strangers(row):
            ends = self._calc(row["nanoseconds"], waits)
        else:
            ends = self._collective(row, waits, " cpu 1" if overlaps and self.unit == "ns" else "")
        return self._calc(row["wait"], ends) if row["wait"] else ends

    def _strangers(self, row: dict[str, Any]) -> bool:
        return not self.exchange.members[row["group_kind"], self.rank] <= self.numbers.keys()

    def _line(self, text: str, waits: list[int]) -> int:
        self.labels += 1
        self.lines.append(f"l{self.labels}: {text}\n")
        self.lines += [f"l{self.labels} requires l{other}\n" for other in waits]
        return self.labels

    def _calc(self, nanoseconds: int, waits: list[int]) -> list[int]:
        if not nanoseconds:
            return waits
        return [self._line(f"calc {nanoseconds * PER_NANOSECOND[self.unit]}", waits)]

    def _collective(self, row: dict[str, Any], waits: list[int], cpu: str) -> list[int]:
        """Add a collective's rounds: sends wait for the round before, receives for its receives."""
        kind = row["group_kind"]
        tag = 1 + GROUP_KINDS.index(kind)
        before, got = waits, waits
        for each in self.exchange.rounds(self.rank, row["name"], row["collective"], kind):
            sends = [
                self._line(f"send {size}b to {self.numbers[peer]} tag {tag}{cpu}", before)
                for peer, size in each.sends
            ]
            receives = [
                self._line(f"recv {size}b from {self.numbers[peer]} tag {tag}{cpu}", got)
                for peer, size in each.receives
            ]
            before = [*sends, *receives] or before
            got = receives or got
        return before

    def _message(self, row: dict[str, Any], waits: list[int]) -> list[int]:
        """Add a message between stages: a send holds nothing up but the next send."""
        peer, tag = self._other_end(row)
        sending = row["collective"] == "send"
        if peer not in self.numbers:
            return waits if sending else self._calc(row["nanoseconds"], waits)
        size = row["comm_bytes"]
        if not sending:
            return [self._line(f"recv {size}b from {self.numbers[peer]} tag {tag}", waits)]
        own = [*waits, *([self.sent] if self.sent and self.sent not in waits else [])]
        self.sent = self._line(f"send {size}b to {self.numbers[peer]} tag {tag}", own)
        return waits

    def _other_end(self, row: dict[str, Any]) -> tuple[int, int]:
        """Return a message's other end, and its tag: the receiver's chunk, the micro-batch and the pass."""
        workload = self.traced.workload
        pp, chunks = (workload[name] for name in ("pp", "virtual_pipeline"))
        sending, backward = row["collective"] == "send", row["phase"] == "backward"
        step = 1 if sending != backward else -1
        chunk = (row["chunk"] * pp + row["stage"] + ((-1 if backward else 1) if sending else 0)) // pp
        return stages_on(self.rank, step, workload), FIRST_TAG + 2 * (
            row["microbatch"] * chunks + chunk
        ) + backward


def _command(name: str, unit: str, nic: float, chosen: list[int]) -> str:
    """Return the command that runs a schedule, with a card's rate; latency and overheads are examples."""
    scale = PER_NANOSECOND[unit]
    per_byte = 1e9 / nic * scale
    rate = f"{round(per_byte)}" if unit == "ps" else f"{per_byte:g}"
    simulator = "LogGOPSim" if unit == "ps" else "LogGOPSim of ATLAHS, whose -G takes fractions"
    lines = [
        f"# {simulator}: times are in {unit}.",
        "# It succeeds where every host has a time and none a queue; the exit code says nothing.",
        f"txt2bin -i {name} -o {name.removesuffix('.goal')}.bin",
        f"LogGOPSim -f {name.removesuffix('.goal')}.bin -L {1500 * scale} -o {500 * scale} -g 0 -G {rate}",
        "# Rank here: rank of the workload",
    ]
    return "\n".join([*lines, *(f"# {number}: {rank}" for number, rank in enumerate(chosen))]) + "\n"
