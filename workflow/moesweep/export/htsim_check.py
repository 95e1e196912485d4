"""Whether htsim can read a connection matrix, and whether all of its flows start.

`Nodes N`, `Connections C`, `Triggers T`, then flows `S->D id I start PS size B` or `S->D id I trigger J size
B`, with `send_done_trigger K` and `prio P` behind, then `trigger id J oneshot|multishot|barrier [count C]`.
One space between words; comments above the first flow alone; ids once, from 1 to 999,999,999; 1 <= B < 2^31;
S and D differ and are below N. (recv_done_trigger is read by htsim and never fires.)
"""

import re
from collections import Counter
from pathlib import Path

from moesweep.edge.problems import Problem

_HEAD = (re.compile(r"Nodes (\d+)"), re.compile(r"Connections (\d+)"), re.compile(r"Triggers (\d+)"))
_FLOW = re.compile(
    r"(\d+)->(\d+) id (\d+) (start|trigger) (\d+) size (\d+)(?: send_done_trigger (\d+))?(?: prio \d+)?"
)
_TRIGGER = re.compile(r"trigger id (\d+) (oneshot|multishot|barrier)(?: count (\d+))?")
MOST_ID = 999_999_999
SHOWN_PROBLEMS = 20


class _Reader:
    """What a matrix says, gathered line by line."""

    def __init__(self, path: Path) -> None:
        self.file = str(path)
        self.problems: list[Problem] = []
        self.flows: list[tuple[int, int, int]] = []
        self.ids: Counter[int] = Counter()
        self.waits: Counter[int] = Counter()
        self.fired: Counter[int] = Counter()
        self.triggers: dict[int, int] = {}
        self.nodes = 0

    def fault(self, number: int, text: str, message: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(self.file, f"line {number}", "htsim", text, message))

    def flow(self, number: int, text: str, found: re.Match[str]) -> None:
        """Take a flow."""
        source, target, id_, at, size = (int(found[group]) for group in (1, 2, 3, 5, 6))
        self.flows.append((source, target, size))
        self.ids[id_] += 1
        if found[4] == "trigger":
            self.waits[at] += 1
        if found[7]:
            self.fired[int(found[7])] += 1
        if source == target or max(source, target) >= self.nodes:
            self.fault(number, text, f"goes from {source} to {target} of {self.nodes} nodes")
        if not 1 <= size < 2**31:
            self.fault(number, text, f"has {size} bytes, where 1 to 2^31 - 1 are allowed")
        if not 1 <= id_ <= MOST_ID or self.ids[id_] > 1:
            self.fault(number, text, f"has the id {id_}, which is there already, or not from 1 to {MOST_ID}")

    def trigger(self, number: int, text: str, found: re.Match[str]) -> None:
        """Take a trigger."""
        id_ = int(found[1])
        if id_ in self.triggers or (found[2] == "barrier") != bool(found[3]):
            self.fault(number, text, "is there already, or a count does not fit its kind")
        self.triggers[id_] = int(found[3] or 1)


def read_matrix(path: Path) -> tuple[list[tuple[int, int, int]], list[Problem]]:
    """Return the flows of a connection matrix, source, target and bytes, and all that is wrong with it."""
    reader = _Reader(path)
    counts: list[int] = []
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), 1):
        if line.startswith("#") and not reader.flows:
            continue
        if len(counts) < len(_HEAD):
            found = _HEAD[len(counts)].fullmatch(line)
            counts.append(int(found[1]) if found else 0)
            reader.nodes = counts[0]
            if not found:
                reader.fault(number, line, f"is not `{_HEAD[len(counts) - 1].pattern}`")
        elif found := _FLOW.fullmatch(line):
            reader.flow(number, line, found)
        elif found := _TRIGGER.fullmatch(line):
            reader.trigger(number, line, found)
        else:
            reader.fault(number, line, "is no flow and no trigger")
    _check_counts(reader, counts)
    return reader.flows, reader.problems[:SHOWN_PROBLEMS]


def _check_counts(reader: _Reader, counts: list[int]) -> None:
    """Report counts that differ from the header's, and triggers that never fire or that nobody waits for."""
    for what, said, there in zip(
        ("Connections", "Triggers"), counts[1:], (len(reader.flows), len(reader.triggers)), strict=False
    ):
        if said != there:
            message = f"announces {said}, and {there} follow"
            reader.problems.append(Problem(reader.file, what, "htsim", str(said), message))
    for id_ in sorted(reader.triggers.keys() | reader.waits.keys() | reader.fired.keys()):
        problem = (
            "is waited for or fired, and not declared"
            if id_ not in reader.triggers
            else "is waited for by no flow"
            if not reader.waits[id_]
            else f"waits for {reader.triggers[id_]} flows, and {reader.fired[id_]} fire it"
            if reader.fired[id_] != reader.triggers[id_]
            else ""
        )
        if problem:
            reader.problems.append(Problem(reader.file, f"trigger {id_}", "htsim", str(id_), problem))
