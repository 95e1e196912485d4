"""Whether a set of Chakra traces can run: what each rank waits for exists, and the ranks agree.

Collectives of a group must come in the same order on all its ranks, or a simulator deadlocks; a message
needs a receiver that expects its size. Where a set's metadata name a routing, every rank also says what it
sends itself in an all_to_all, and what one sends in all, the next one sends back. Ranks that are not in the
set cannot be judged, and no simulator runs a set without them.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from moesweep.edge.problems import Problem, shown
from moesweep.export.chakra_read import BrokenTrace, Node, metadata, nodes
from moesweep.export.chakra_schema import COLLECTIVE, COMM_TYPES, COMPUTE, OWN_SIZE, RECV, ROUTING, SEND

SHOWN_PROBLEMS = 20
_RANK = re.compile(r"\.(\d+)\.et$")
_EVERYONE = ("", "0")
TOKEN = 32
"""A probability of 4 bytes beside a token of at least 32 times as many."""

Message = tuple[int, int, int]
"""Source, destination, tag."""


@dataclass
class Checked:
    """What a check of one folder found, and how much of it there was."""

    folder: Path
    ranks: int = 0
    absent: int = 0
    nodes: int = 0
    unjudged_messages: int = 0
    problems: list[Problem] = field(default_factory=list)


@dataclass
class _Set:
    """What ranks say of one another, gathered rank by rank."""

    ranks: dict[int, Path]
    groups: dict[str, list[int]]
    checked: Checked
    sent: dict[Message, list[int]] = field(default_factory=lambda: defaultdict(list))
    received: dict[Message, list[int]] = field(default_factory=lambda: defaultdict(list))
    orders: dict[str, tuple[int, list[str], array[int]]] = field(default_factory=dict)
    exchanged: dict[str, list[array[int]]] = field(default_factory=lambda: defaultdict(list))

    def problem(self, file: str, path: str, rule: str, value: object, message: str) -> None:
        """Note a problem of a file."""
        self.checked.problems.append(Problem(file, path, rule, shown(value), message))


def folders(root: Path) -> list[Path]:
    """Return the folder and those below it that hold traces."""
    return sorted({path.parent for path in root.rglob("*.et")})


def check_folder(folder: Path) -> Checked:
    """Return every fault of the set in a folder."""
    checked = Checked(folder)
    ranks = {
        int(found[1]): path for path in sorted(folder.glob("*.et")) if (found := _RANK.search(path.name))
    }
    set_ = _Set(ranks, {}, checked)
    set_.groups = _groups(folder, set_)
    for rank, path in sorted(ranks.items()):
        try:
            _check_rank(rank, path, set_)
        except BrokenTrace as error:
            set_.problem(str(path), "", "readable", "", str(error))
        checked.ranks += 1
    checked.absent = len({rank for members in set_.groups.values() for rank in members} - ranks.keys())
    if not any(problem.rule == "readable" for problem in checked.problems):
        _check_messages(set_)
        _check_exchanges(set_)
    return checked


def _groups(folder: Path, set_: _Set) -> dict[str, list[int]]:
    """Return the members of each group; the one JSON file of a folder says them."""
    files = sorted(folder.glob("*.json"))
    if not files:
        return {}
    try:
        groups = json.loads(files[0].read_text(encoding="utf-8"))
    except ValueError as error:
        set_.problem(str(files[0]), "", "readable", "", f"is no JSON: {error}")
        return {}
    for name, members in groups.items():
        if not name.isdecimal() or name in _EVERYONE:
            set_.problem(
                str(files[0]), name, "group_name", name, "a group's name is a number above 0, as text"
            )
        if len(set(members)) != len(members) or len(members) < 2:
            set_.problem(str(files[0]), name, "members", members, "a group has two different members or more")
    return {name: list(members) for name, members in groups.items()}


def _check_rank(rank: int, path: Path, set_: _Set) -> None:
    waits: dict[int, list[int]] = {}
    orders: dict[str, tuple[list[str], array[int]]] = defaultdict(lambda: ([], array("q")))
    exchanged: dict[str, array[int]] = defaultdict(lambda: array("q"))
    later, skewed = False, ROUTING in metadata(path)
    for node in nodes(path):
        if node.id in waits:
            set_.problem(str(path), f"node {node.id}", "unique_id", node.id, f"a second node {node.id}")
        later |= any(other not in waits for other in node.waits)
        waits[node.id] = node.waits
        _check_node(node, rank, path, set_)
        if node.type == COLLECTIVE:
            group = str(node.attributes.get("pg_name", ""))
            names, sequence = orders[group]
            names.append(node.name)
            type_, size = (int(node.attributes.get(name, -1)) for name in ("comm_type", "comm_size"))
            if skewed and type_ == COMM_TYPES["all_to_all"]:
                exchanged[group].append(_own_size(node, path, size, set_))
            sequence.extend((type_, size))
    set_.checked.nodes += len(waits)
    if later:
        _check_waits(waits, path, set_)
    for group in sorted(set(orders) | {name for name, members in set_.groups.items() if rank in members}):
        _check_order(group, rank, path, *orders[group], set_)
    for group, sizes in exchanged.items():
        set_.exchanged[group].append(sizes)


def _own_size(node: Node, path: Path, most: int, set_: _Set) -> int:
    """Return what a rank sends itself in an all_to_all, no more than the most of its group."""
    own = node.attributes.get(OWN_SIZE)
    if isinstance(own, int) and 0 <= own <= most:
        return own
    message = f"is no number from 0 to comm_size, {most}, as the routing of the set asks for"
    set_.problem(str(path), f"node {node.id} ({node.name}).{OWN_SIZE}", "attribute", own, message)
    return 0


def _check_waits(waits: dict[int, list[int]], path: Path, set_: _Set) -> None:
    """Report waits for nodes that are not there, and cycles; not needed if no node waits for a later one."""
    missing = 0
    open_waits: dict[int, int] = {}
    followers: dict[int, list[int]] = defaultdict(list)
    for id_, others in waits.items():
        for other in others:
            if other not in waits:
                missing += 1
                if missing <= SHOWN_PROBLEMS:
                    message = f"waits for node {other}, which does not exist"
                    set_.problem(str(path), f"node {id_}", "dependency", other, message)
            else:
                followers[other].append(id_)
        open_waits[id_] = sum(other in waits for other in others)
    ready = [id_ for id_, count in open_waits.items() if count == 0]
    while ready:
        for follower in followers[ready.pop()]:
            open_waits[follower] -= 1
            if open_waits[follower] == 0:
                ready.append(follower)
    stuck = [id_ for id_, count in open_waits.items() if count > 0]
    if stuck:
        message = f"waits for itself, over other nodes: {len(stuck)} nodes of the rank can never run"
        set_.problem(str(path), f"node {stuck[0]}", "acyclic", stuck[0], message)


def _check_node(node: Node, rank: int, path: Path, set_: _Set) -> None:
    """Report attributes that are missing or impossible; note messages for later."""
    for path_, rule, value, message in _node_faults(node, rank, set_):
        set_.problem(str(path), f"node {node.id} ({node.name}){path_}", rule, value, message)
    if node.type in (SEND, RECV):
        source, target, tag = (node.attributes.get(name, -1) for name in ("comm_src", "comm_dst", "comm_tag"))
        there = set_.sent if node.type == SEND else set_.received
        there[source, target, tag].append(int(node.attributes.get("comm_size", -1)))


_NEEDED = {
    COLLECTIVE: ("comm_type", "comm_size"),
    SEND: ("comm_size", "comm_src", "comm_dst", "comm_tag"),
    RECV: ("comm_size", "comm_src", "comm_dst", "comm_tag"),
}


def _node_faults(node: Node, rank: int, set_: _Set) -> Iterator[tuple[str, str, object, str]]:
    have = node.attributes
    for name in _NEEDED.get(node.type, ()):
        if not isinstance(have.get(name), int):
            yield f".{name}", "attribute", have.get(name), f"has no number {name}"
    if isinstance(have.get("comm_size"), int) and have["comm_size"] < 0:
        yield ".comm_size", "size", have["comm_size"], "has a negative size"
    if node.type == COMPUTE and not {"num_ops", "tensor_size"} <= have.keys():
        yield "", "attribute", "", "has neither num_ops nor tensor_size"
    if node.type == COLLECTIVE and have.get("comm_type") not in COMM_TYPES.values():
        yield (
            ".comm_type",
            "known",
            have.get("comm_type"),
            f"is no collective of {sorted(COMM_TYPES.values())}",
        )
    if node.type == COLLECTIVE and str(have.get("pg_name", "")) not in _EVERYONE:
        members = set_.groups.get(str(have["pg_name"]))
        if members is None:
            yield (
                ".pg_name",
                "group",
                have["pg_name"],
                f"runs over group {have['pg_name']}, which is not declared",
            )
        elif rank not in members:
            yield ".pg_name", "group", have["pg_name"], f"rank {rank} is no member of group {have['pg_name']}"
    mine = {SEND: "comm_src", RECV: "comm_dst"}.get(node.type)
    if mine is not None and have.get(mine) != rank:
        yield f".{mine}", "rank", have.get(mine), f"stands on rank {rank} but names rank {have.get(mine)}"


def _check_order(
    group: str, rank: int, path: Path, names: list[str], sequence: array[int], set_: _Set
) -> None:
    """Compare a rank's collectives over a group with those of the group's first rank."""
    if group not in set_.orders:
        set_.orders[group] = (rank, names, sequence)
        return
    first, their_names, theirs = set_.orders[group]
    if sequence == theirs:
        return
    at = next((i // 2 for i, (a, b) in enumerate(zip(sequence, theirs, strict=False)) if a != b), None)
    if at is None:
        counts = f"{len(names)} collectives over group {group}, rank {first} has {len(their_names)}"
        set_.problem(str(path), f"group {group}", "same_collectives", len(names), f"has {counts}")
        return
    mine, other = (
        f"{name[at]} (type {values[2 * at]}, {values[2 * at + 1]} bytes)"
        for name, values in ((names, sequence), (their_names, theirs))
    )
    message = f"collective {at} over the group is {mine}; on rank {first} it is {other}"
    set_.problem(str(path), f"group {group}", "same_collectives", names[at], message)


def _check_messages(set_: _Set) -> None:
    """Report messages without their other half, and halves of different sizes."""
    for key in sorted(set_.sent.keys() | set_.received.keys()):
        source, target, tag = key
        if source not in set_.ranks or target not in set_.ranks:
            set_.checked.unjudged_messages += len(set_.sent[key]) + len(set_.received[key])
            continue
        sent, received = set_.sent[key], set_.received[key]
        place = f"message from rank {source} to rank {target}, tag {tag}"
        if len(sent) != len(received):
            message = f"is sent {len(sent)} times and received {len(received)} times"
            set_.problem(str(set_.checked.folder), place, "paired", len(sent), message)
        elif sent != received:
            a, b = next(pair for pair in zip(sent, received, strict=True) if pair[0] != pair[1])
            message = f"{a} bytes are sent and {b} received"
            set_.problem(str(set_.checked.folder), place, "equal_sizes", a, message)


def _check_exchanges(set_: _Set) -> None:
    """Report uneven all_to_alls that come in no pairs, there and back, of as many bytes in all.

    Where routers are of fp32, what goes to experts has a probability with each token.
    """
    for group, parts in sorted(set_.exchanged.items()):
        if len(parts) != len(set_.groups.get(group, ())):
            continue
        totals = [sum(sizes) for sizes in zip(*parts, strict=False)]
        pairs = zip_longest(totals[::2], totals[1::2], fillvalue=0)
        unlike = ((i, *pair) for i, pair in enumerate(pairs) if abs(pair[0] - pair[1]) * TOKEN > max(pair))
        wrong = next(unlike, None)
        if wrong is not None:
            at, there, back = wrong
            message = (
                f"its ranks send {there} bytes in all_to_all {2 * at} over the group and {back} in the next"
            )
            set_.problem(str(set_.checked.folder), f"group {group}", "sent_and_returned", there, message)
