"""Thrift's compact protocol, as much of it as the footer of a Parquet file needs.

A struct is a dict from field id to (type, value); a list is (type of its items, items). What is read can be
changed and written again: `encoded(decoded(raw)) == raw`.
Source: thrift/doc/specs/thrift-compact-protocol.md, github.com/apache/thrift.
"""

from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 8, 9, 12

Struct = dict[int, tuple[int, Any]]


def varint(number: int) -> bytes:
    """Return a number of 0 or more, seven bits a byte, lowest first."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def decoded(raw: bytes) -> Struct:
    """Return the struct that some bytes start with."""
    return _Reader(raw).struct()


def encoded(struct: Struct) -> bytes:
    """Return a struct as bytes."""
    written, last = bytearray(), 0
    for field, (kind, value) in sorted(struct.items()):
        # The value of a boolean is the type of its field.
        marked = (TRUE if value else FALSE) if kind in (TRUE, FALSE) else kind
        step = field - last
        written += bytes([step << 4 | marked]) if 0 < step < 16 else bytes([marked]) + _zigzag(field)
        written += b"" if kind in (TRUE, FALSE) else _encoded(kind, value)
        last = field
    return bytes(written) + b"\0"


def _encoded(kind: int, value: Any) -> bytes:
    if kind in (I16, I32, I64):
        return _zigzag(value)
    if kind == BINARY:
        return varint(len(value)) + bytes(value)
    if kind == STRUCT:
        return encoded(value)
    if kind == LIST:
        of, items = value
        count = len(items)
        head = bytes([count << 4 | of]) if count < 15 else bytes([15 << 4 | of]) + varint(count)
        return head + b"".join(_encoded(of, item) for item in items)
    return bytes([value])


def _zigzag(number: int) -> bytes:
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


class _Reader:
    """Reads values one after the other from where it stands."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0

    def struct(self) -> Struct:
        """Return the fields of a struct by number, each with its kind, up to its end."""
        found: Struct = {}
        last = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            last = last + step if step else self._signed()
            found[last] = (kind, kind == TRUE if kind in (TRUE, FALSE) else self._value(kind))
        return found

    def _value(self, kind: int) -> Any:
        if kind in (I16, I32, I64):
            return self._signed()
        if kind == BINARY:
            return self._taken(self._unsigned())
        if kind == STRUCT:
            return self.struct()
        if kind == LIST:
            head = self._byte()
            count = head >> 4 if head >> 4 != 15 else self._unsigned()
            return head & 15, [self._value(head & 15) for _ in range(count)]
        if kind in (TRUE, FALSE, BYTE):
            return self._byte()
        raise ValueError(f"thrift type {kind} does not occur in the footers that polars writes")

    def _byte(self) -> int:
        self._at += 1
        return self._raw[self._at - 1]

    def _taken(self, count: int) -> bytes:
        self._at += count
        return self._raw[self._at - count : self._at]

    def _unsigned(self) -> int:
        number = shift = 0
        while (digit := self._byte()) > 127:
            number |= (digit & 127) << shift
            shift += 7
        return number | digit << shift

    def _signed(self) -> int:
        number = self._unsigned()
        return number >> 1 if number % 2 == 0 else -(number + 1 >> 1)
