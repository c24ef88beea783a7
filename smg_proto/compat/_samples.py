"""Sample messages that are likely to show a difference between two contracts.

Fields of the same number are the same field, unless the names show that the number was reused.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.message import Message as ProtoMessage

from smg_proto.compat._contract import Contract, Field, Message

# The value of a field: a scalar, a message, a list of these, or a dict.
Value: TypeAlias = Any

# For each type: an ordinary value, then values that a narrower type or another encoding misreads.
_WIDE = 2**40 + 5
_SCALARS: Mapping[int, Sequence[Value]] = {
    F.TYPE_INT32: (7, -1),
    F.TYPE_INT64: (7, -1, _WIDE),
    F.TYPE_UINT32: (7, 2**32 - 1),
    F.TYPE_UINT64: (7, _WIDE, 2**64 - 1),
    F.TYPE_SINT32: (7, -1),
    F.TYPE_SINT64: (7, -1, _WIDE),
    F.TYPE_FIXED32: (7, 2**32 - 1),
    F.TYPE_FIXED64: (7, 2**64 - 1),
    F.TYPE_SFIXED32: (7, -1),
    F.TYPE_SFIXED64: (7, -1),
    F.TYPE_FLOAT: (1.5,),
    F.TYPE_DOUBLE: (1.5,),
    F.TYPE_BOOL: (True,),
    F.TYPE_STRING: ("text",),
    F.TYPE_BYTES: (b"\xff\x01",),  # neither UTF-8 nor a message, but a valid packed list
}
_DEPTH = 2  # of nested sample messages


@dataclass(frozen=True)
class Side:
    """A message type of one contract."""

    contract: Contract
    message: Message

    def of(self, field: Field) -> "Side":
        """The type of one of the message's fields."""
        return Side(self.contract, self.contract.messages[field.type_name])

    def empty(self) -> ProtoMessage:
        return self.contract.message_class(self.message.name)()

    def build(self, values: Mapping[int, Value]) -> ProtoMessage:
        message = self.empty()
        for number, value in values.items():
            self._set(message, self.message.fields[number], value)
        return message

    def get(self, message: ProtoMessage, field: Field) -> Value:
        """The value of a field in a message of this type; its default if it is unset."""
        if field.extension:
            extension: Any = self.contract.pool.FindExtensionByName(field.name)
            return message.Extensions[extension]
        return getattr(message, field.name)

    def _set(self, message: ProtoMessage, field: Field, value: Value) -> None:
        if field.entry:
            target = self.get(message, field)
            for key, inner in value.items():
                if field.value.is_message:
                    target[key].CopyFrom(inner)
                else:
                    target[key] = inner
        elif field.repeated:
            self.get(message, field).extend(value)
        elif field.is_message:
            target = self.get(message, field)
            target.SetInParent()
            target.CopyFrom(value)
        elif field.extension:
            extension: Any = self.contract.pool.FindExtensionByName(field.name)
            message.Extensions[extension] = value
        else:
            setattr(message, field.name, value)


def went_elsewhere(f: Field, g: Field, writer: Message, reader: Message) -> bool:
    """Whether the number was reused: one of the names has another number on the other side."""
    return f.name != g.name and (f.name in reader.by_name or g.name in writer.by_name)


def same_encoding(f: Field, g: Field) -> bool:
    """Whether both have the same type on the wire, not counting what messages and enums hold."""
    return (f.kind, f.repeated, f.entry is None) == (g.kind, g.repeated, g.entry is None)


def of_one_field(writer: Side, reader: Side, number: int) -> Iterator[ProtoMessage]:
    """Messages with only this field set that the reader may misread.

    Yields nothing if both fields are messages, because their types are compared on their own.
    """
    f, g = writer.message.fields.get(number), reader.message.fields.get(number)
    if f is None:
        if g is not None and g.presence == "required":
            yield writer.empty()
        return
    if g is None:
        values: Iterator[Value] = iter([next(samples(writer.contract, f, 1))])
    elif went_elsewhere(f, g, writer.message, reader.message):
        values = samples(writer.contract, f, _DEPTH)
    else:
        if f.default != g.default or (g.presence == "required" != f.presence):
            yield writer.empty()
        values = _suspect_values(writer.contract, reader.contract, f, g)
    for value in values:
        yield writer.build({number: value})


def of_two_fields(writer: Side, numbers: Iterable[int]) -> Iterator[ProtoMessage]:
    """Messages with two of these fields set, which must not be in the same oneof."""
    fields = [writer.message.fields[n] for n in numbers if n in writer.message.fields]
    for pair in combinations(fields, 2):
        if pair[0].oneof == "" or pair[0].oneof != pair[1].oneof:
            yield writer.build({f.number: next(samples(writer.contract, f, 1)) for f in pair})


def _suspect_values(writer: Contract, reader: Contract, f: Field, g: Field) -> Iterator[Value]:
    """Values of f that g may misread; none if both are plainly the same."""
    if not same_encoding(f, g):
        yield from samples(writer, f, _DEPTH)
    elif f.entry and g.entry:
        key, other = f.entry.fields[1], g.entry.fields[1]
        key_sample = next(samples(writer, key, _DEPTH))
        for inner in _suspect_values(writer, reader, f.value, g.value):
            yield {key_sample: inner}
        value_sample = next(samples(writer, f.value, _DEPTH))
        for inner in _suspect_values(writer, reader, key, other):
            yield {inner: value_sample}
    elif f.is_enum:
        ours, theirs = writer.enums[f.type_name], reader.enums[g.type_name]
        if f.type_name != g.type_name:  # enums of the same name are compared on their own
            for number in sorted(ours.names):
                yield wrapped(f, number)
        if theirs.closed and not ours.closed:
            yield wrapped(f, unnamed(ours.numbers.values(), theirs.numbers.values()))


def unnamed(*numbers: Iterable[int]) -> int:
    """A number that no enum value has."""
    return max(number for some in numbers for number in some) + 1


def samples(contract: Contract, field: Field, depth: int) -> Iterator[Value]:
    """Values for a field, an ordinary one first."""
    if field.entry:
        first = next(samples(contract, field.entry.fields[1], depth))
        for inner in samples(contract, field.value, depth):
            yield {first: inner}
        return
    singles = _singles(contract, field, depth)
    if not field.repeated:
        yield from singles
        return
    first = next(singles)
    yield [first]
    yield [first, first]
    for single in singles:
        yield [single]


def _singles(contract: Contract, field: Field, depth: int) -> Iterator[Value]:
    if field.is_enum:
        enum = contract.enums[field.type_name]
        yield from sorted(enum.names, key=lambda n: (n == 0, n))
        if not enum.closed:
            yield unnamed(enum.numbers.values())
    elif field.is_message:
        side = Side(contract, contract.messages[field.type_name])
        inner = list(side.message.fields.values()) if depth else []
        # All fields at once, with the first of each oneof; then each field alone.
        chosen = {f.oneof or f.number: f for f in reversed(inner)}.values()
        yield side.build({f.number: next(samples(contract, f, depth - 1)) for f in chosen})
        for f in inner:
            for value in samples(contract, f, depth - 1):
                yield side.build({f.number: value})
    else:
        yield from _SCALARS[field.kind]


def wrapped(field: Field, single: Value) -> Value:
    """The value, in a list or map if the field is one."""
    if field.entry:
        key = _SCALARS[field.entry.fields[1].kind][0]
        return {key: single}
    return [single] if field.repeated else single
