"""Reading Chakra traces back, node by node."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError

from moesweep.export.chakra_schema import message_classes

MAX_MESSAGE_BYTES = 1 << 24


class BrokenTrace(Exception):
    """A file that is no Chakra trace: cut short, or not made of its messages."""


@dataclass(frozen=True)
class Node:
    """One node, its attributes by name."""

    id: int
    name: str
    type: int
    waits: list[int]
    attributes: dict[str, Any]


def metadata(path: Path) -> dict[str, Any]:
    """Return the attributes in a trace's first message by name; raise BrokenTrace."""
    with path.open("rb") as file:
        return {each.name: _value(each) for each in _metadata(_messages(file), file).attr}


def nodes(path: Path) -> Iterator[Node]:
    """Yield the nodes of a trace in file order; raise BrokenTrace."""
    classes = message_classes()
    with path.open("rb") as file:
        messages = _messages(file)
        _metadata(messages, file)
        try:
            for content in messages:
                node = classes["Node"].FromString(content)
                waits = [*node.data_deps, *node.ctrl_deps]
                attributes = {each.name: _value(each) for each in node.attr}
                yield Node(node.id, node.name, node.type, waits, attributes)
        except DecodeError as error:
            raise BrokenTrace(f"byte {file.tell()}: no Chakra message ends here: {error}") from error


def _metadata(messages: Iterator[bytes], file: BinaryIO) -> Any:
    """Return the first of a file's messages."""
    try:
        found = message_classes()["GlobalMetadata"].FromString(next(messages))
    except StopIteration:
        raise BrokenTrace("the file is empty") from None
    except DecodeError as error:
        raise BrokenTrace(f"byte {file.tell()}: no Chakra message ends here: {error}") from error
    if not found.version:
        raise BrokenTrace("the first message is no GlobalMetadata with a version")
    return found


def _value(attribute: Any) -> Any:
    kind = attribute.WhichOneof("value")
    return None if kind is None else getattr(attribute, kind)


def _messages(file: BinaryIO) -> Iterator[bytes]:
    """Yield the messages of a file, each behind its length as a varint."""
    while first := file.read(1):
        length, shift = first[0] & 127, 7
        while first[0] & 128:
            first = file.read(1)
            if not first or shift > 28:
                raise BrokenTrace(f"byte {file.tell()}: the file ends in a message's length")
            length |= (first[0] & 127) << shift
            shift += 7
        content = file.read(length) if length <= MAX_MESSAGE_BYTES else b""
        if len(content) < length:
            raise BrokenTrace(f"byte {file.tell()}: the file ends inside a message of {length} bytes")
        yield content
