"""Compares a message as it was sent with the message as it was read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as ProtoMessage

from smg_proto.compat._contract import Field
from smg_proto.compat._samples import Side, Value, went_elsewhere

ANY = "google.protobuf.Any"
Outcome = Literal["misread", "lost", "undecodable"]


@dataclass(frozen=True)
class Judgement:
    outcome: Outcome
    by_name: bool = False  # only the names show that it is wrong
    sent: str = ""  # describes what was sent, if the message itself does not show it
    read: str = ""  # describes what was read, if the message itself does not show it


def judge(
    writer: Side,
    reader: Side,
    sent: ProtoMessage,
    read: ProtoMessage,
    forward: bool,  # from the old side to the new one
    only: int | None = None,  # one field of the message
) -> Judgement | None:
    """What went wrong, or None if everything that matters arrived.

    A field that is new to an old reader is not a loss, unless it changes one that the reader knows.
    """
    sent_values = {descriptor.number: value for descriptor, value in sent.ListFields()}
    read_values = {descriptor.number: value for descriptor, value in read.ListFields()}
    numbers: list[int] = [] if only is None else [only]
    for number in numbers or sorted(writer.message.fields.keys() | reader.message.fields.keys()):
        f, g = writer.message.fields.get(number), reader.message.fields.get(number)
        arrived = number in read_values
        if g and g.presence == "required" and not arrived:
            # Samples may omit a field that their own side requires; real senders do not.
            if f is None or f.presence != "required" or number in sent_values:
                text = f"nothing: the required {g.name} is missing, so the message is rejected"
                return Judgement("undecodable", read=text)
            continue
        if f is None:
            continue
        if number not in sent_values:
            if g and (judgement := _unset(writer, reader, f, g)):
                return judgement
        elif g is None:
            if forward:
                return Judgement("lost")
            # A new field, unless the old reader has it under another number.
            if f.name in reader.message.by_name:
                return Judgement("lost", by_name=True)
        elif judgement := _set(
            writer, reader, f, g, sent_values[number], read_values.get(number), forward
        ):
            if not arrived and judgement.outcome == "misread":
                return Judgement("lost", judgement.by_name)
            if went_elsewhere(f, g, writer.message, reader.message):
                return Judgement("misread" if arrived else "lost", judgement.by_name)
            return judgement
        elif went_elsewhere(f, g, writer.message, reader.message):
            return Judgement("misread" if arrived else "lost", by_name=True)
    return None


def _unset(writer: Side, reader: Side, f: Field, g: Field) -> Judgement | None:
    """Each side reads a field that is not on the wire as its own default."""
    if f.default is None or g.default is None or f.default == g.default or f.kind != g.kind:
        return None
    if went_elsewhere(f, g, writer.message, reader.message):
        return None
    ours, theirs = _default_text(writer, f), _default_text(reader, g)
    if f.is_enum and ours == theirs:
        return None
    return Judgement(
        "misread",
        sent=f"nothing, so {f.name} is {ours}",
        read=f"nothing, so {g.name} is {theirs}",
    )


def _default_text(side: Side, field: Field) -> str:
    if field.is_enum and isinstance(field.default, int):
        names = side.contract.enums[field.type_name].names.get(field.default)
        return min(names) if names else str(field.default)
    return field.shown_default


def _set(
    writer: Side,
    reader: Side,
    f: Field,
    g: Field,
    sent: Value,
    read: Value,  # None: it did not arrive
    forward: bool,
) -> Judgement | None:
    if read is None:
        if f.is_message and not f.repeated:
            return Judgement("lost")
        read = reader.get(reader.empty(), g)
    for pair in _pairs(f, g, sent, read):
        if isinstance(pair, Judgement):
            return pair
        if judgement := _value(writer, reader, f.value, g.value, *pair, forward):
            return judgement
    return None


def _pairs(
    f: Field, g: Field, sent: Value, read: Value
) -> Iterator[tuple[Value, Value] | Judgement]:
    """Each value that was sent, with the value that was read."""
    if f.entry and g.entry:
        arrived = {_plain(key): value for key, value in read.items()}
        if any(_plain(key) not in arrived for key in sent):
            yield Judgement("misread")
            return
        yield from ((value, arrived[_plain(key)]) for key, value in sent.items())
    elif f.entry or g.entry:
        yield Judgement("misread")  # a map on one side only
    else:
        sent_list, read_list = (sent if f.repeated else [sent]), (read if g.repeated else [read])
        if len(sent_list) != len(read_list):
            yield Judgement("lost" if len(read_list) < len(sent_list) else "misread")
            return
        yield from zip(sent_list, read_list, strict=True)


def _value(
    writer: Side, reader: Side, f: Field, g: Field, sent: Value, read: Value, forward: bool
) -> Judgement | None:
    if f.is_message and g.is_message:
        judgement = judge(writer.of(f), reader.of(g), sent, read, forward)
        if not judgement and (f.type_name == ANY) != (g.type_name == ANY):
            return Judgement("misread", by_name=True)
        return judgement
    if f.is_enum and g.is_enum:
        return _enum_value(writer, reader, f, g, sent, read, forward)
    if g.kind == FieldDescriptor.TYPE_STRING and isinstance(read, bytes):
        return Judgement("misread")  # not UTF-8; each runtime reads it differently
    return None if _plain(sent) == _plain(read) else Judgement("misread")


def _enum_value(
    writer: Side, reader: Side, f: Field, g: Field, sent: int, read: int, forward: bool
) -> Judgement | None:
    ours, theirs = writer.contract.enums[f.type_name], reader.contract.enums[g.type_name]
    sent_names = ours.names.get(sent, frozenset[str]())
    read_names = theirs.names.get(sent, frozenset[str]())
    if not read_names:
        if sent_names & theirs.names.get(read, frozenset[str]()):
            return None  # it did not arrive, but the default has the same name
        if forward or not sent_names:
            # An open enum keeps a number that has no name on either side.
            return None if not sent_names and read == sent else Judgement("lost")
        return Judgement("lost", by_name=True) if sent_names & theirs.numbers.keys() else None
    if read != sent:
        return Judgement("misread")
    moved = sent_names & theirs.numbers.keys() or read_names & ours.numbers.keys()
    if sent_names and not sent_names & read_names and moved:
        return Judgement("misread", by_name=True)
    return None


def _plain(value: Value) -> Value:
    """Text as bytes: string and bytes are the same on the wire."""
    return value.encode() if isinstance(value, str) else value
