"""Messages that are likely to be misunderstood: where two contracts differ, what shows it.

A number is one field to both sides, unless the names show that it went to another field.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.message import Message as ProtoMessage

from smg_proto.compat._contract import Contract, Field, Message

# What a field is set to: a scalar, a message, a list of these, or a dict.
Value: TypeAlias = Any

# For each type: an everyday value, then those that a narrower or differently coded type gets wrong.
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
    F.TYPE_BYTES: (b"\xff\x01",),  # neither UTF-8 nor a message, yet a fine list of numbers
}
_DEPTH = 2  # of sample messages


@dataclass(frozen=True)
class Side:
    """A message type as one contract has it."""

    contract: Contract
    message: Message

    def of(self, field: Field) -> "Side":
        """The type of one of its message fields."""
        return Side(self.contract, self.contract.messages[field.type_name])

    def build(self, values: Mapping[int, Value]) -> ProtoMessage:
        made = self.contract.message_class(self.message.name)()
        for number, value in values.items():
            _put(made, self.message.fields[number], value)
        return made


def crossed(f: Field, g: Field, writer: Message, reader: Message) -> bool:
    """One number, two fields: either name lives on (or lived before) under another number."""
    return f.name != g.name and (f.name in reader.by_name or g.name in writer.by_name)


def alike(f: Field, g: Field) -> bool:
    """Same type on the wire, as far as can be said without a look into messages and enums."""
    return (f.kind, f.repeated, f.entry is None) == (g.kind, g.repeated, g.entry is None)


def one_field(
    writer: Side, reader: Side, number: int, seen: set[tuple[str, str]]
) -> Iterator[ProtoMessage]:
    f, g = writer.message.fields.get(number), reader.message.fields.get(number)
    if f is None:
        return
    if g is None:
        values: Iterator[Value] = iter([next(_samples(writer.contract, f, 1))])
    elif crossed(f, g, writer.message, reader.message):
        values = _samples(writer.contract, f, _DEPTH)
    else:
        values = _tries(writer, reader, f, g, seen)
    for value in values:
        yield writer.build({number: value})


def two_fields(writer: Side, numbers: Iterable[int]) -> Iterator[ProtoMessage]:
    there = [writer.message.fields[n] for n in numbers if n in writer.message.fields]
    for pair in combinations(there, 2):
        # Of one oneof: only the latter would be set.
        if pair[0].oneof == "" or pair[0].oneof != pair[1].oneof:
            yield writer.build({f.number: next(_samples(writer.contract, f, 1)) for f in pair})


def any_message(writer: Side, reader: Side, seen: set[tuple[str, str]]) -> Iterator[ProtoMessage]:
    if (key := (writer.message.name, reader.message.name)) in seen:
        return
    seen.add(key)
    for number in writer.message.fields:
        yield from one_field(writer, reader, number, seen)
    if writer.message.oneofs or reader.message.oneofs:
        yield from two_fields(writer, writer.message.fields)


def _tries(
    writer: Side, reader: Side, f: Field, g: Field, seen: set[tuple[str, str]]
) -> Iterator[Value]:
    """Values of f that g may get wrong; none where both are plainly the same."""
    if not alike(f, g):
        yield from _samples(writer.contract, f, _DEPTH)
    elif f.entry and g.entry:
        key = f.entry.fields[1]
        key_sample = next(_samples(writer.contract, key, _DEPTH))
        for inner in _tries(writer, reader, f.value, g.value, seen):
            yield {key_sample: inner}
        value_sample = next(_samples(writer.contract, f.value, _DEPTH))
        for inner in _tries(writer, reader, key, g.entry.fields[1], seen):
            yield {inner: value_sample}
    elif f.type_name == g.type_name:
        return  # a type of the same name is looked at for itself
    elif f.is_message:
        for message in any_message(writer.of(f), reader.of(g), seen):
            yield wrapped(f, message)
    else:
        for number in sorted(writer.contract.enums[f.type_name].names):
            yield wrapped(f, number)


def _samples(contract: Contract, field: Field, depth: int) -> Iterator[Value]:
    """Values of any field: an everyday one first."""
    if field.entry:
        first = next(_samples(contract, field.entry.fields[1], depth))
        for inner in _samples(contract, field.value, depth):
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
        yield from sorted(contract.enums[field.type_name].names, key=lambda n: (n == 0, n))
    elif field.is_message:
        side = Side(contract, contract.messages[field.type_name])
        inner = list(side.message.fields.values()) if depth else []
        # All fields at once, of each oneof the first; then each field alone.
        chosen = {f.oneof or f.number: f for f in reversed(inner)}.values()
        yield side.build({f.number: next(_samples(contract, f, depth - 1)) for f in chosen})
        for f in inner:
            for value in _samples(contract, f, depth - 1):
                yield side.build({f.number: value})
    else:
        yield from _SCALARS[field.kind]


def wrapped(field: Field, single: Value) -> Value:
    if field.entry:
        key = _SCALARS[field.entry.fields[1].kind][0]
        return {key: single}
    return [single] if field.repeated else single


def _put(message: ProtoMessage, field: Field, value: Value) -> None:
    there = getattr(message, field.name)
    if field.entry:
        for key, inner in value.items():
            if field.value.is_message:
                there[key].CopyFrom(inner)
            else:
                there[key] = inner
    elif field.repeated:
        there.extend(value)
    elif field.is_message:
        there.SetInParent()
        there.CopyFrom(value)
    else:
        setattr(message, field.name, value)
