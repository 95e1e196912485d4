"""The protobuf wire format, as much of it as Chakra's nodes need (protobuf.dev/programming-guides/encoding).

Traces are written as blocks of bytes with gaps for the numbers that differ from rank to rank or from
step to step. So those numbers have a fixed width: node ids count from 2²¹ and are four bytes long up to
2²⁸, tags count from 2¹⁴ and are three.
"""

from typing import Any

import numpy as np

from moesweep.store.thrift import varint

ID_BASE, ID_BYTES, ID_LIMIT = 1 << 21, 4, 1 << 28
TAG_BASE, TAG_BYTES, TAGS = 1 << 14, 3, 1 << 20

_VARINT, _BYTES = 0, 2

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]


def number_field(field: int, number: int) -> bytes:
    """Return an integer or boolean field."""
    return varint(field << 3 | _VARINT) + varint(number)


def bytes_field(field: int, content: bytes) -> bytes:
    """Return a text, a packed list or a message as a field."""
    return varint(field << 3 | _BYTES) + varint(len(content)) + content


def fixed_varints(numbers: Numbers, width: int) -> Bytes:
    """Return the varints of numbers that all are `width` bytes long, one a row."""
    shifts = 7 * np.arange(width)
    digits = numbers[:, None] >> shifts & 127
    digits[:, :-1] |= 128
    return digits.astype(np.uint8)
