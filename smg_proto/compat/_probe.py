"""Witnesses: messages really written by one side and really read by the other."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from smg_proto.compat._contract import Field
from smg_proto.compat._samples import (
    Side,
    Value,
    any_message,
    crossed,
    one_field,
    two_fields,
    wrapped,
)

Outcome = Literal["misread", "lost", "undecodable"]
Direction = Literal["old to new", "new to old"]


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


# --- finding witnesses -----------------------------------------------------------------------


def field_witness(old: Side, new: Side, number: int) -> Witness | None:
    """A message with this one field set, that one side writes and the other gets wrong."""

    def messages(writer: Side, reader: Side) -> Iterator[ProtoMessage]:
        return one_field(writer, reader, number, set())

    return _both_ways(old, new, messages)


def fields_witness(old: Side, new: Side, numbers: Iterable[int]) -> Witness | None:
    """A message with two of these fields set, that one side writes and the other gets wrong."""

    def messages(writer: Side, reader: Side) -> Iterator[ProtoMessage]:
        return two_fields(writer, numbers)

    return _both_ways(old, new, messages)


def message_witness(old: Side, new: Side) -> Witness | None:
    """Any message of one type that cannot be read as the other."""

    def messages(writer: Side, reader: Side) -> Iterator[ProtoMessage]:
        return any_message(writer, reader, set())

    return _both_ways(old, new, messages)


def value_witness(old: Side, new: Side, number: int, values: Iterable[int]) -> Witness | None:
    """A message whose enum field has one of these values, that the other side gets wrong."""
    known = set(values)

    def messages(writer: Side, reader: Side) -> Iterator[ProtoMessage]:
        field = writer.message.fields[number]
        there = writer.contract.enums[field.value.type_name].names
        for value in sorted(known & there.keys()):
            yield writer.build({number: wrapped(field, value)})

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
        if witness := _deliver(writer, reader, direction, sent):
            return witness
    return None


def _deliver(
    writer: Side, reader: Side, direction: Direction, sent: ProtoMessage
) -> Witness | None:
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
