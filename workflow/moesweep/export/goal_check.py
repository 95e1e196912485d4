"""Whether a GOAL schedule can be read and comes to its end: LogGOPSim and ATLAHS exit 0 where it does not.

Grammar: `num_ranks N`, then ranks 0 to N-1 in order, each `rank R {`, one op or dependency a line, `}`.
`lX: calc T`, `lX: send Bb to R`, `lX: recv Bb from R`, with `tag T`, `cpu C`, `nic K` behind them; `lX
requires lY` and `lX irequires lY`, below the ops that they name. Whole numbers, B at least 1, no message to
oneself.
"""

import re
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path

from moesweep.edge.problems import Problem

_CALC = re.compile(r"l(\d+): calc (\d+)((?: cpu \d+)?)")
_MESSAGE = re.compile(r"l(\d+): (send|recv) (\d+)b (to|from) (\d+)(?: tag (\d+))?(?: cpu \d+)?(?: nic \d+)?")
_WAIT = re.compile(r"l(\d+) (i?requires) l(\d+)")
SHOWN_PROBLEMS = 20


@dataclass
class Op:
    """One op: `peer` and `tag` of a message, `waits` for ops to finish (or to start)."""

    kind: str
    amount: int
    peer: int = -1
    tag: int = 0
    waits: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)


Schedule = list[dict[int, Op]]
"""The ops of each rank by label."""


def read_schedule(path: Path) -> tuple[Schedule, list[Problem]]:
    """Return a schedule and what is wrong with its form."""
    schedule: Schedule = []
    problems: list[Problem] = []
    wanted, inside = 0, False
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), 1):
        text = line.strip()
        if number == 1:
            wanted = int(text.removeprefix("num_ranks ")) if re.fullmatch(r"num_ranks \d+", text) else -1
            fault = "" if wanted > 0 else "line 1 is not `num_ranks N`"
        elif not text:
            continue
        elif not inside:
            inside, fault = (
                True,
                "" if text == f"rank {len(schedule)} {{" else f"is not `rank {len(schedule)} {{`",
            )
            schedule.append({})
        elif text == "}":
            inside, fault = False, ""
        else:
            fault = _read_line(text, schedule[-1], len(schedule) - 1, wanted)
        if fault:
            problems.append(Problem(str(path), f"line {number}", "goal", text, fault))
    if len(schedule) != wanted or inside:
        open_ = ", the last one open," if inside else ""
        message = f"holds {len(schedule)} ranks{open_} where {wanted} are announced"
        problems.append(Problem(str(path), "", "ranks", str(wanted), message))
    return schedule, problems


def _read_line(text: str, ops: dict[int, Op], rank: int, ranks: int) -> str:
    """Add a line to a rank's ops; return what is wrong with it."""
    if wait := _WAIT.fullmatch(text):
        later, earlier = int(wait[1]), int(wait[3])
        if later not in ops or earlier not in ops:
            return f"names l{later if later not in ops else earlier}, which is not above it"
        (ops[later].waits if wait[2] == "requires" else ops[later].starts).append(earlier)
        return ""
    calc, message = _CALC.fullmatch(text), _MESSAGE.fullmatch(text)
    if calc:
        label, op = int(calc[1]), Op("calc", int(calc[2]))
    elif message and (message[2] == "send") == (message[4] == "to"):
        label, op = int(message[1]), Op(message[2], int(message[3]), int(message[5]), int(message[6] or 0))
        if op.amount < 1 or op.peer >= ranks or op.peer == rank:
            return "sends or gets less than a byte, or names itself or a rank that is not there"
    else:
        return "is no op and no dependency"
    if label in ops:
        return f"uses l{label} again"
    ops[label] = op
    return ""


def check_schedule(path: Path) -> tuple[int, list[Problem]]:
    """Return how many ops a schedule has, and all that is wrong: its form, then ops that never run."""
    schedule, problems = read_schedule(path)
    if not problems:
        problems = [
            Problem(
                str(path),
                f"rank {rank}",
                "finishes",
                str(left),
                f"{left} ops never run: a message without its other half, or a cycle",
            )
            for rank, left in enumerate(unfinished(schedule))
            if left
        ]
    return sum(map(len, schedule)), problems[:SHOWN_PROBLEMS]


def unfinished(schedule: Schedule) -> list[int]:
    """Return how many ops of each rank never run; a receive takes a message of its peer, tag and size."""
    waiting = [{label: len(op.waits) + len(op.starts) for label, op in ops.items()} for ops in schedule]
    followers: list[dict[int, list[int]]] = [defaultdict(list) for _ in schedule]
    for rank, ops in enumerate(schedule):
        for label, op in ops.items():
            for earlier in (*op.waits, *op.starts):
                followers[rank][earlier].append(label)
    ready = deque(
        (rank, label) for rank, ops in enumerate(waiting) for label, count in ops.items() if not count
    )
    arrived: dict[tuple[int, int, int, int], int] = defaultdict(int)
    open_: dict[tuple[int, int, int, int], deque[int]] = defaultdict(deque)
    left = [len(ops) for ops in schedule]
    while ready:
        rank, label = ready.popleft()
        op = schedule[rank][label]
        if op.kind == "recv":
            key = (op.peer, rank, op.tag, op.amount)
            if not arrived[key]:
                open_[key].append(label)
                continue
            arrived[key] -= 1
        elif op.kind == "send":
            key = (rank, op.peer, op.tag, op.amount)
            arrived[key] += 1
            if open_[key]:
                ready.append((op.peer, open_[key].popleft()))
        left[rank] -= 1
        for follower in followers[rank][label]:
            waiting[rank][follower] -= 1
            if not waiting[rank][follower]:
                ready.append((rank, follower))
    return left
