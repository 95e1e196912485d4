"""Changes that break a set of Chakra traces, each with the reason a check gives."""

from collections.abc import Callable
from typing import Any


def split(data: bytes) -> list[bytes]:
    """Cut a file into its messages; a reader of its own, not the one under test."""
    messages, at = [], 0
    while at < len(data):
        length, shift = 0, 0
        while True:
            byte, at = data[at], at + 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        messages.append(data[at : at + length])
        at += length
    return messages


def joined(messages: list[bytes]) -> bytes:
    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    return b"".join(varint(len(message)) + message for message in messages)


Change = Callable[[list[Any]], None]


def find(found: list[Any], name: str, nth: int = 0) -> int:
    return [i for i, node in enumerate(found) if node.name.split(".")[0] == name][nth]


def set_number(node: Any, attribute: str, kind: str, value: int | str) -> None:
    (mine,) = (each for each in node.attr if each.name == attribute)
    setattr(mine, f"{kind}_val", value)


def drop(name: str) -> Change:
    def change(found: list[Any]) -> None:
        del found[find(found, name)]

    return change


def wrong_size(name: str) -> Change:
    return lambda found: set_number(found[find(found, name)], "comm_size", "int64", 12345)


def swap_collectives(found: list[Any]) -> None:
    a, b = find(found, "expert_gather"), find(found, "expert_scatter")
    for part in ("name", "attr"):
        ours, theirs = found[a].__class__(), found[a].__class__()
        ours.CopyFrom(found[a])
        theirs.CopyFrom(found[b])
        for node, other in ((found[a], theirs), (found[b], ours)):
            node.ClearField(part)
            node.MergeFrom(other.__class__(**{part: getattr(other, part)}))


def dangling(found: list[Any]) -> None:
    found[10].data_deps.append(1)


def cycle(found: list[Any]) -> None:
    found[10].data_deps.append(found[20].id)


def twice(found: list[Any]) -> None:
    found[10].id = found[11].id


def foreign_group(found: list[Any]) -> None:
    set_number(found[find(found, "moe_dispatch")], "pg_name", "string", "999999")


def other_ranks_group(found: list[Any]) -> None:
    set_number(found[find(found, "attention_gather")], "pg_name", "string", "17")


def wrong_source(found: list[Any]) -> None:
    set_number(found[find(found, "send_forward")], "comm_src", "int32", 3)


def no_type(found: list[Any]) -> None:
    node = found[find(found, "moe_dispatch")]
    kept = [each for each in node.attr if each.name != "comm_type"]
    del node.attr[:]
    node.attr.extend(kept)


MUTATIONS: list[tuple[str, Change, str]] = [
    ("dropped kernel", drop("qkv"), "which does not exist"),
    ("dropped collective", drop("moe_dispatch"), "which does not exist"),
    ("dropped last collective", drop("param_gather_expert"), "collectives over group"),
    ("dropped send", drop("send_forward"), "is sent 0 times and received 1 times"),
    (
        "collective of another size",
        wrong_size("moe_dispatch"),
        "on rank 5 it is moe_dispatch.0 (type 6, 12345 bytes)",
    ),
    ("message of another size", wrong_size("send_forward"), "12345 bytes are sent and 4194304 received"),
    ("swapped collectives", swap_collectives, "on rank 4 it is expert_gather"),
    ("dangling dependency", dangling, "waits for node 1, which does not exist"),
    ("cycle", cycle, "can never run"),
    ("id given twice", twice, "a second node"),
    ("unknown group", foreign_group, "runs over group 999999, which is not declared"),
    ("another rank's group", other_ranks_group, "is no member of group 17"),
    ("message from elsewhere", wrong_source, "stands on rank 5 but names rank 3"),
    ("missing attribute", no_type, "has no number comm_type"),
]
