"""Chakra's protobuf messages, built at run time: no package on PyPI provides them.

The fields that traces for ASTRA-sim use (mlcommons/chakra, schema/protobuf/et_def.proto); others stay unread.
"""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "ChakraProtoMsg"
COMPUTE, SEND, RECV, COLLECTIVE = 4, 5, 6, 7
"""Types of nodes."""
COMM_TYPES = {"all_reduce": 0, "all_gather": 2, "all_to_all": 6, "reduce_scatter": 7}
ROUTING = "routing"
"""Attribute of a file's metadata: the routing that lets the ranks of an all_to_all send different sizes."""
OWN_SIZE = "own_comm_size"
"""Attribute of an all_to_all where routing is given: what this rank sends. comm_size is the most of its
group: ASTRA-sim stops without a word at the first collective whose members differ in it."""

_Field = descriptor_pb2.FieldDescriptorProto
_REPEATED = ("repeated",)
_MESSAGES: dict[str, dict[str, tuple[Any, ...]]] = {
    "BoolList": {"values": (1, _Field.TYPE_BOOL, *_REPEATED)},
    "AttributeProto": {
        "name": (1, _Field.TYPE_STRING),
        "int32_val": (7, _Field.TYPE_INT32),
        "int64_val": (9, _Field.TYPE_INT64),
        "uint64_val": (13, _Field.TYPE_UINT64),
        "bool_val": (27, _Field.TYPE_BOOL),
        "bool_list": (28, "BoolList"),
        "string_val": (29, _Field.TYPE_STRING),
    },
    "GlobalMetadata": {"version": (1, _Field.TYPE_STRING), "attr": (2, "AttributeProto", *_REPEATED)},
    "Node": {
        "id": (1, _Field.TYPE_UINT64),
        "name": (2, _Field.TYPE_STRING),
        "type": (3, _Field.TYPE_INT32),
        "ctrl_deps": (4, _Field.TYPE_UINT64, *_REPEATED),
        "data_deps": (5, _Field.TYPE_UINT64, *_REPEATED),
        "start_time_micros": (6, _Field.TYPE_UINT64),
        "duration_micros": (7, _Field.TYPE_UINT64),
        "attr": (10, "AttributeProto", *_REPEATED),
    },
}
"""Message to its fields: name to number, type or message, and whether it repeats. `type` is an enum in the
original; as a number it reads values that this list does not know."""

FIELD_NUMBERS = {
    message: {name: int(spec[0]) for name, spec in fields.items()} for message, fields in _MESSAGES.items()
}


def _message(name: str) -> descriptor_pb2.DescriptorProto:
    message = descriptor_pb2.DescriptorProto(name=name)
    if name == "AttributeProto":
        message.oneof_decl.add(name="value")
    for field_name, (number, type_, *repeated) in _MESSAGES[name].items():
        field = message.field.add(name=field_name, number=number)
        field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
        if isinstance(type_, str):
            field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{type_}"
        else:
            field.type = type_
        if name == "AttributeProto" and field_name != "name":
            field.oneof_index = 0
    return message


@cache
def message_classes() -> dict[str, Any]:
    """Return the class of each message by its name."""
    file = descriptor_pb2.FileDescriptorProto(name="moesweep/et_def.proto", package=PACKAGE, syntax="proto3")
    file.message_type.extend(_message(name) for name in _MESSAGES)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in _MESSAGES
    }
