"""Random messages of any type, from a seed: every field now and then, and the values that hurt."""

import random
import struct
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

Known = Callable[[FieldDescriptor], bool]

INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (0, 6),  # beyond the known values too: proto3 enums are open
}
FLOATS = [0.0, -0.0, 1.0, -1.5, 1e-40, 3.4e38, float("inf"), float("-inf"), 1 / 3]
TEXTS = ["", " ", "a", "\0", "naïve 東京 🙂", '{"json": [1, 2.50]}', "x" * 300]
DEPTH = 4
# Of these only some values have a JSON form, so they are not random.
WELL_KNOWN: dict[str, Message] = {
    "google.protobuf.Timestamp": Timestamp(seconds=-1, nanos=999_999_999),
    "google.protobuf.Duration": Duration(seconds=-1, nanos=-5),
    "google.protobuf.Struct": json_format.ParseDict({"a": [1, None, {"b": "\0"}]}, Struct()),
}


def random_message(
    kind: type[Message], seed: int, known: Known = lambda field: True, full: bool = False
) -> Message:
    """A message of this class. known: the fields that may be set; full: set all that can be."""
    message = kind()
    _fill(message, random.Random(f"{kind.DESCRIPTOR.full_name} {seed}"), known, full, DEPTH)
    return message


def _fill(message: Any, chance: random.Random, known: Known, full: bool, depth: int) -> None:
    if example := WELL_KNOWN.get(message.DESCRIPTOR.full_name):
        message.CopyFrom(example)
        return
    for field in chosen(message.DESCRIPTOR, chance, known, full):
        count = chance.randint(1, 3)
        if field.message_type and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            for _ in range(count):
                into, name = getattr(message, field.name), _value(key, chance)
                if value.message_type:
                    _fill(into[name], chance, known, full and depth > 0, depth - 1)
                else:
                    into[name] = _value(value, chance)
        elif field.message_type:
            if depth == 0:
                continue
            into = getattr(message, field.name)
            if not field.is_repeated:
                into.SetInParent()
            for child in [into.add() for _ in range(count)] if field.is_repeated else [into]:
                _fill(child, chance, known, full, depth - 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(_value(field, chance) for _ in range(count))
        else:
            setattr(message, field.name, _value(field, chance))


def chosen(
    kind: Descriptor, chance: random.Random, known: Known, full: bool
) -> list[FieldDescriptor]:
    """Some of the fields (or all), at most one of each oneof."""
    fields = [field for field in kind.fields if known(field) and (full or chance.random() < 0.5)]
    chance.shuffle(fields)
    by_oneof = {field.containing_oneof or field: field for field in fields}
    return list(by_oneof.values())


def _value(field: FieldDescriptor, chance: random.Random) -> Any:
    kind = field.cpp_type
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        return chance.choice([low, high, 0, 1, chance.randint(low, high)])
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        value = chance.choice([*FLOATS, chance.uniform(-1e6, 1e6)])
        return struct.unpack("f", struct.pack("f", value))[0]
    if field.type == FieldDescriptor.TYPE_BYTES:
        return chance.choice([b"", b"\0", bytes(range(256)), chance.randbytes(40)])
    return chance.choice(TEXTS)
