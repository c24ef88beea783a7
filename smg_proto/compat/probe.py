"""Witnesses: messages really written by one side and really read by the other.

A number is one field to both sides, unless the names show that it went to another field.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, TypeAlias

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from smg_proto.compat.contract import Contract, Field, Message

Outcome = Literal["misread", "lost", "undecodable"]
Direction = Literal["old to new", "new to old"]
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
class Witness:
    """One message that did not arrive as it was meant."""

    direction: Direction
    outcome: Outcome
    message: str  # the sender's name of its type
    bytes: str  # hexadecimal
    sent: str  # what the sender meant, in text format
    read: str  # what the receiver reads, in text format
    reverse: "Witness | None" = None  # what happens in the other direction, if that fails too


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


# --- finding witnesses -----------------------------------------------------------------------


def field_witness(old: Side, new: Side, number: int) -> Witness | None:
    """A message with this one field set, that one side writes and the other gets wrong."""

    def messages(writer: Side, reader: Side) -> Iterator[ProtoMessage]:
        return _one_field(writer, reader, number, set())

    return _both_ways(old, new, messages)


def fields_witness(old: Side, new: Side, numbers: Iterable[int]) -> Witness | None:
    """A message with two of these fields set, that one side writes and the other gets wrong."""

    def messages(writer: Side, reader: Side) -> Iterator[ProtoMessage]:
        return _two_fields(writer, numbers)

    return _both_ways(old, new, messages)


def message_witness(old: Side, new: Side) -> Witness | None:
    """Any message of one type that cannot be read as the other."""

    def messages(writer: Side, reader: Side) -> Iterator[ProtoMessage]:
        return _any_message(writer, reader, set())

    return _both_ways(old, new, messages)


def value_witness(old: Side, new: Side, number: int, values: Iterable[int]) -> Witness | None:
    """A message whose enum field has one of these values, that the other side gets wrong."""
    known = set(values)

    def messages(writer: Side, reader: Side) -> Iterator[ProtoMessage]:
        field = writer.message.fields[number]
        there = writer.contract.enums[field.value.type_name].names
        for value in sorted(known & there.keys()):
            yield writer.build({number: _wrapped(field, value)})

    return _both_ways(old, new, messages)


def _both_ways(
    old: Side, new: Side, messages: Callable[[Side, Side], Iterator[ProtoMessage]]
) -> Witness | None:
    there = _first(old, new, "old to new", messages(old, new))
    back = _first(new, old, "new to old", messages(new, old))
    return replace(there, reverse=back) if there else back


def _first(
    writer: Side, reader: Side, direction: Direction, messages: Iterator[ProtoMessage]
) -> Witness | None:
    for sent in messages:
        if witness := deliver(writer, reader, direction, sent):
            return witness
    return None


def deliver(writer: Side, reader: Side, direction: Direction, sent: ProtoMessage) -> Witness | None:
    """Serialize, parse on the other side, compare: None if all that counts has arrived."""
    data = sent.SerializePartialToString()
    read = reader.contract.message_class(reader.message.name)()
    outcome: Outcome | None
    try:
        read.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError):
        outcome, text = "undecodable", "nothing: it cannot be parsed"
    else:
        outcome, text = _heard(writer, reader, sent, read, direction == "old to new"), _text(read)
    if outcome is None:
        return None
    return Witness(direction, outcome, writer.message.name, data.hex(), _text(sent), text)


def _text(message: ProtoMessage) -> str:
    text = text_format.MessageToString(message, as_one_line=True, print_unknown_fields=True)
    return text or "nothing"


# --- comparing what was meant with what was read ---------------------------------------------


def _heard(
    writer: Side, reader: Side, sent: ProtoMessage, read: ProtoMessage, forward: bool
) -> Outcome | None:
    arrived = {descriptor.number for descriptor, _ in read.ListFields()}
    for descriptor, value in sent.ListFields():
        f = writer.message.fields.get(descriptor.number)
        g = reader.message.fields.get(descriptor.number)
        if f is None:
            continue  # an extension
        if g is None:
            # A field that is new is no loss to an old reader, unless it knows it by another number.
            if forward or f.name in reader.message.by_name:
                return "lost"
            continue
        there = g.number in arrived
        if crossed(f, g, writer.message, reader.message) or (f.is_message and not there):
            return "misread" if there else "lost"
        got = getattr(read, g.name)
        if outcome := _compared(writer, reader, f, g, value, got, forward):
            return outcome if there else "lost"
    return None


def _compared(
    writer: Side, reader: Side, f: Field, g: Field, sent: Value, read: Value, forward: bool
) -> Outcome | None:
    if f.entry and g.entry:
        arrived = {_plain(key): value for key, value in read.items()}
        if any(_plain(key) not in arrived for key in sent):
            return "lost" if len(arrived) < len(sent) else "misread"
        f, g = f.value, g.value
        pairs = [(value, arrived[_plain(key)]) for key, value in sent.items()]
    else:
        if f.entry or g.entry:
            return "misread"  # a map on one side alone
        there, here = (sent if f.repeated else [sent]), (read if g.repeated else [read])
        if len(there) != len(here):
            return "lost" if len(here) < len(there) else "misread"
        pairs = list(zip(there, here, strict=True))
    for one, other in pairs:
        if outcome := _compared_one(writer, reader, f, g, one, other, forward):
            return outcome
    return None


def _compared_one(
    writer: Side, reader: Side, f: Field, g: Field, sent: Value, read: Value, forward: bool
) -> Outcome | None:
    if f.is_message and g.is_message:
        return _heard(writer.of(f), reader.of(g), sent, read, forward)
    if f.is_message or g.is_message:
        return "misread"
    if f.is_enum and g.is_enum:
        mine, theirs = writer.contract.enums[f.type_name], reader.contract.enums[g.type_name]
        meant = mine.names.get(sent, frozenset())
        here = theirs.names.get(sent, frozenset())
        if meant and not here:
            if forward or meant & theirs.numbers.keys():
                return "lost"
            return None  # a value that is new
        renumbered = meant & theirs.numbers.keys() or here & mine.numbers.keys()
        if meant and not meant & here and renumbered:
            return "misread"
    return None if _plain(sent) == _plain(read) else "misread"


def _plain(value: Value) -> Value:
    """Text counts as its bytes: string and bytes are one on the wire."""
    return value.encode() if isinstance(value, str) else value


# --- messages that are likely to fail --------------------------------------------------------


def _one_field(
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


def _two_fields(writer: Side, numbers: Iterable[int]) -> Iterator[ProtoMessage]:
    there = [writer.message.fields[n] for n in numbers if n in writer.message.fields]
    for pair in combinations(there, 2):
        # Of one oneof: only the latter would be set.
        if pair[0].oneof == "" or pair[0].oneof != pair[1].oneof:
            yield writer.build({f.number: next(_samples(writer.contract, f, 1)) for f in pair})


def _any_message(writer: Side, reader: Side, seen: set[tuple[str, str]]) -> Iterator[ProtoMessage]:
    if (key := (writer.message.name, reader.message.name)) in seen:
        return
    seen.add(key)
    for number in writer.message.fields:
        yield from _one_field(writer, reader, number, seen)
    if writer.message.oneofs or reader.message.oneofs:
        yield from _two_fields(writer, writer.message.fields)


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
        for message in _any_message(writer.of(f), reader.of(g), seen):
            yield _wrapped(f, message)
    else:
        for number in sorted(writer.contract.enums[f.type_name].names):
            yield _wrapped(f, number)


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


def _wrapped(field: Field, single: Value) -> Value:
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
