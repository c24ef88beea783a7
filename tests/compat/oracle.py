"""What really happens to messages between two contracts, told without a look at smg_proto.compat.

Random messages of all of protobuf are written by one side and read by the other. A message is
broken when the reader cannot parse it, finds it incomplete though its sender did not, or reads
another fact than the sender meant. What is new to an old reader is no loss.
"""

import random
from collections.abc import Iterator
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

F = FieldDescriptor
Fact = tuple[tuple[object, ...], object, bool]  # where, what, and whether it is on the wire
UNNAMED = 1234567  # a number that no enum value has

# --- the fields of a type, with the extensions that its pool knows --------------------------------


def described(kind: type[Message]) -> Descriptor:
    return cast(Descriptor, kind.DESCRIPTOR)


def members(message: Descriptor) -> list[FieldDescriptor]:
    pool = message.file.pool
    return [*message.fields, *pool.FindAllExtensions(message)]


def named(field: FieldDescriptor) -> str:
    return field.full_name if field.is_extension else field.name


def by_number(message: Descriptor | None) -> dict[int, FieldDescriptor]:
    return {field.number: field for field in members(message)} if message else {}


def names(message: Descriptor | None) -> set[str]:
    return {named(field) for field in members(message)} if message else set()


def get(message: Message, field: FieldDescriptor) -> Any:
    known: Any = field
    return message.Extensions[known] if field.is_extension else getattr(message, field.name)


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def is_many(field: FieldDescriptor) -> bool:
    repeated = getattr(field, "is_repeated", None)
    return bool(cast(Any, field).label == F.LABEL_REPEATED if repeated is None else repeated)


def is_scalar(field: FieldDescriptor) -> bool:
    return not is_many(field) and field.message_type is None


def is_required(field: FieldDescriptor) -> bool:
    required = getattr(field, "is_required", None)
    return bool(cast(Any, field).label == F.LABEL_REQUIRED if required is None else required)


def is_closed(enum: EnumDescriptor) -> bool:
    return bool(enum.is_closed)


# --- facts ---------------------------------------------------------------------------------------


def facts(message: Message, theirs: Descriptor | None, forward: bool | None) -> Iterator[Fact]:
    """What a message says. forward None: a reader's message; else a sender's, in that direction."""
    here = {field.number: value for field, value in message.ListFields()}
    others, known_names = by_number(theirs), names(theirs)
    for field in members(cast(Any, message.DESCRIPTOR)):
        other = others.get(field.number)
        known = named(field) in known_names
        if forward is False and other is None and not known:
            continue  # new to an old reader
        name: object = named(field) if known else field.number
        value = here.get(field.number)
        if value is None:
            # What is not set says its default, unless the other side has another kind of field, or
            # this one under another number.
            moved = known and other is not None and named(other) != named(field)
            if other is not None and not moved and is_scalar(field) and is_scalar(other):
                default = field.default_value
                for path, fact, _ in of_one((name, 0), default, field, other, None):
                    yield path, fact, False
            continue
        if is_many(field):
            yield (name, "count"), len(value), True
        for key, single, kind, their_kind in singles(field, other, value):
            yield from of_one((name, key), single, kind, their_kind, forward)


def singles(
    field: FieldDescriptor, other: FieldDescriptor | None, value: Any
) -> Iterator[tuple[object, Any, FieldDescriptor, FieldDescriptor | None]]:
    if is_map(field):
        inner = cast(Descriptor, field.message_type).fields_by_name["value"]
        theirs = None
        if other is not None and is_map(other):
            theirs = cast(Descriptor, other.message_type).fields_by_name["value"]
        for key, single in value.items():
            yield ("key", key), single, inner, theirs
    elif is_many(field):
        for place, single in enumerate(value):
            yield place, single, field, other
    else:
        yield 0, value, field, other


def of_one(
    path: tuple[object, ...],
    value: Any,
    field: FieldDescriptor,
    other: FieldDescriptor | None,
    forward: bool | None,
) -> Iterator[Fact]:
    if field.message_type is not None:
        yield path, "a message", True
        theirs = other.message_type if other is not None else None
        for inner, fact, on_wire in facts(value, theirs, forward):
            yield (*path, *inner), fact, on_wire
    elif field.enum_type is not None and other is not None and other.enum_type is not None:
        label = label_of(value, field.enum_type, other.enum_type, forward)
        if label is not None or not is_closed(other.enum_type):
            yield path, label, True
    elif isinstance(value, str):
        yield path, value.encode(), True
    elif isinstance(value, bytes) and field.type == F.TYPE_STRING:
        yield path, ("not text", value), True
    else:
        yield path, repr(value) if isinstance(value, float) else value, True


def label_of(
    value: int, mine: EnumDescriptor, theirs: EnumDescriptor, forward: bool | None
) -> object:
    """What an enum value says; None for one that is merely new to the other side: any will do."""
    known = value in mine.values_by_number
    name = mine.values_by_number[value].name if known else "?"
    if name in theirs.values_by_name:
        return name
    if forward is False and known and value not in theirs.values_by_number:
        return None
    return value if known else "?"


def broken(data: bytes, writer: type[Message], reader: type[Message], forward: bool) -> str:
    """What a reader gets wrong of these bytes; "" where all that counts has arrived."""
    sent, read = writer(), reader()
    sent.MergeFromString(data)
    try:
        read.MergeFromString(data)
        received = {path: fact for path, fact, _ in facts(read, described(writer), None)}
    except (DecodeError, UnicodeDecodeError) as error:
        return f"cannot be parsed: {error}"
    if not complete(read) and complete(sent):
        return "is incomplete to its reader"
    for path, fact, on_wire in facts(sent, described(reader), forward):
        if path in received:
            if fact is not None and received[path] != fact:
                return f"{path}: {fact!r} is {received[path]!r}"
        elif on_wire:
            return f"{path}: {fact!r} is lost"
    return ""


def complete(message: Message) -> bool:
    return bool(message.IsInitialized())


# --- random messages ------------------------------------------------------------------------------

INTEGERS = [0, 1, 2, 7, -1, 300, 2**31 - 1, -(2**31), 2**32 - 1, 2**40 + 5, 2**63 - 1, 2**64 - 1]
RANGES = {
    F.TYPE_INT32: (-(2**31), 2**31), F.TYPE_SINT32: (-(2**31), 2**31),
    F.TYPE_SFIXED32: (-(2**31), 2**31), F.TYPE_UINT32: (0, 2**32), F.TYPE_FIXED32: (0, 2**32),
    F.TYPE_INT64: (-(2**63), 2**63), F.TYPE_SINT64: (-(2**63), 2**63),
    F.TYPE_SFIXED64: (-(2**63), 2**63), F.TYPE_UINT64: (0, 2**64), F.TYPE_FIXED64: (0, 2**64),
}  # fmt: skip
MAX_DEPTH = 4


def some(kind: FieldDescriptor, chance: random.Random) -> Any:
    if kind.enum_type is not None:
        there = sorted(kind.enum_type.values_by_number)
        return chance.choice(there if is_closed(kind.enum_type) else [*there, *there, UNNAMED])
    if kind.type in RANGES:
        low, high = RANGES[kind.type]
        return chance.choice([number for number in INTEGERS if low <= number < high])
    if kind.type == F.TYPE_BOOL:
        return chance.random() < 0.7
    if kind.type == F.TYPE_STRING:
        return chance.choice(["", "text", "é", "\x01"])
    if kind.type == F.TYPE_BYTES:
        return chance.choice([b"", b"text", b"\xff", b"\x08\x01", b"\xff\x01"])
    return chance.choice([0.0, 1.5, -2.0])


def fill(message: Message, chance: random.Random, depth: int = 0) -> None:
    """Set fields at random, and all that are required."""
    for field in members(cast(Any, message.DESCRIPTOR)):
        holds = field.message_type is not None and not is_map(field)
        if not is_required(field) and (
            chance.random() < 0.4 or (holds and (depth >= MAX_DEPTH or chance.random() < 0.3))
        ):
            continue
        if is_map(field):
            inner = cast(Descriptor, field.message_type).fields_by_name["value"]
            key_kind = cast(Descriptor, field.message_type).fields_by_name["key"]
            there = get(message, field)
            for _ in range(chance.randint(1, 2)):
                key = some(key_kind, chance)
                if inner.message_type is not None:
                    fill(there[key], chance, depth + 1)
                else:
                    there[key] = some(inner, chance)
        elif is_many(field):
            there = get(message, field)
            for _ in range(chance.randint(1, 3)):
                if field.message_type is not None:
                    fill(there.add(), chance, depth + 1)
                else:
                    there.append(some(field, chance))
        elif field.message_type is not None:
            there = get(message, field)
            there.SetInParent()
            fill(there, chance, depth + 1)
        elif field.is_extension:
            known: Any = field
            message.Extensions[known] = some(field, chance)
        else:
            setattr(message, field.name, some(field, chance))


def written(kind: type[Message], chance: random.Random) -> bytes:
    """A random message; one in some has a string that is not UTF-8, where that is not forbidden."""
    message = kind()
    fill(message, chance)
    data = message.SerializeToString()
    loose = [f for f in members(described(kind)) if f.type == F.TYPE_STRING]
    if loose and chance.random() < 0.3:
        field = chance.choice(loose)
        trial = data + varint(field.number << 3 | 2) + b"\x02\xff\xfe"
        try:
            kind().MergeFromString(trial)
        except (DecodeError, UnicodeDecodeError):
            return data
        return trial
    return data


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def break_of(
    writer: type[Message], reader: type[Message], forward: bool, tries: int, chance: random.Random
) -> str:
    """The first of some random messages that does not arrive as it was meant; "" for none."""
    for _ in range(tries):
        data = written(writer, chance)
        if problem := broken(data, writer, reader, forward):
            return f"{described(writer).full_name} {data.hex()}: {problem}"
    return ""
