"""Whether what one side sent is what the other side reads."""

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
    by_name: bool = False  # only the names tell that it is wrong
    meant: str = ""  # what was sent, where that is more than the message shows
    note: str = ""  # what was read, where that is more than the message shows


def judge(
    writer: Side,
    reader: Side,
    sent: ProtoMessage,
    read: ProtoMessage,
    forward: bool,  # from the old side to the new one
    only: int | None = None,  # one field of the message
) -> Judgement | None:
    """What went wrong, None if all that counts has arrived.

    What is new to an old reader is no loss. What disturbs something that it knows is one.
    """
    set_there = {descriptor.number: value for descriptor, value in sent.ListFields()}
    arrived = {descriptor.number: value for descriptor, value in read.ListFields()}
    every = sorted(writer.message.fields.keys() | reader.message.fields.keys())
    for number in every if only is None else [only]:
        f, g = writer.message.fields.get(number), reader.message.fields.get(number)
        if g and g.presence == "required" and number not in arrived:
            # A sender that leaves out what it must set itself is a sample's, not a sender's.
            if f is None or f.presence != "required" or number in set_there:
                text = f"nothing: the required {g.name} is missing, so it is refused"
                return Judgement("undecodable", note=text)
            continue
        if f is None:
            continue
        if number not in set_there:
            if g and (found := _unset(writer, reader, f, g)):
                return found
        elif g is None:
            if forward:
                return Judgement("lost")
            # A field that is new, unless the old reader knows it by another number.
            if f.name in reader.message.by_name:
                return Judgement("lost", by_name=True)
        elif found := _set(writer, reader, f, g, set_there[number], arrived.get(number), forward):
            if number not in arrived and found.outcome == "misread":
                return Judgement("lost", found.by_name)
            if went_elsewhere(f, g, writer.message, reader.message):
                return Judgement("misread" if number in arrived else "lost", found.by_name)
            return found
        elif went_elsewhere(f, g, writer.message, reader.message):
            return Judgement("misread" if number in arrived else "lost", by_name=True)
    return None


def _unset(writer: Side, reader: Side, f: Field, g: Field) -> Judgement | None:
    """A field that is not on the wire is its default, to both."""
    if f.default is None or g.default is None or f.default == g.default or f.kind != g.kind:
        return None
    if went_elsewhere(f, g, writer.message, reader.message):
        return None
    mine, theirs = _default_text(writer, f), _default_text(reader, g)
    if f.is_enum and mine == theirs:
        return None
    meant = f"nothing, so {f.name} is {mine}"
    return Judgement("misread", meant=meant, note=f"nothing, so {g.name} is {theirs}")


def _default_text(side: Side, field: Field) -> str:
    if field.is_enum and isinstance(field.default, int):
        names = side.contract.enums[field.type_name].names.get(field.default)
        return min(names) if names else str(field.default)
    return repr(field.default) if isinstance(field.default, (str, bytes)) else str(field.default)


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
        if found := _one(writer, reader, f.value, g.value, *pair, forward):
            return found
    return None


def _pairs(
    f: Field, g: Field, sent: Value, read: Value
) -> Iterator[tuple[Value, Value] | Judgement]:
    """What was sent, each with what was read of it."""
    if f.entry and g.entry:
        arrived = {_plain(key): value for key, value in read.items()}
        if any(_plain(key) not in arrived for key in sent):
            yield Judgement("lost" if len(arrived) < len(sent) else "misread")
            return
        yield from ((value, arrived[_plain(key)]) for key, value in sent.items())
    elif f.entry or g.entry:
        yield Judgement("misread")  # a map on one side alone
    else:
        there, here = (sent if f.repeated else [sent]), (read if g.repeated else [read])
        if len(there) != len(here):
            yield Judgement("lost" if len(here) < len(there) else "misread")
            return
        yield from zip(there, here, strict=True)


def _one(
    writer: Side, reader: Side, f: Field, g: Field, sent: Value, read: Value, forward: bool
) -> Judgement | None:
    if f.is_message and g.is_message:
        found = judge(writer.of(f), reader.of(g), sent, read, forward)
        if not found and (f.type_name == ANY) != (g.type_name == ANY):
            return Judgement("misread", by_name=True)
        return found
    if f.is_message or g.is_message:
        return Judgement("misread")
    if f.is_enum and g.is_enum:
        return _enum_value(writer, reader, f, g, sent, read, forward)
    if g.kind == FieldDescriptor.TYPE_STRING and isinstance(read, bytes):
        return Judgement("misread")  # not UTF-8, and each runtime makes something else of it
    return None if _plain(sent) == _plain(read) else Judgement("misread")


def _enum_value(
    writer: Side, reader: Side, f: Field, g: Field, sent: int, read: int, forward: bool
) -> Judgement | None:
    mine, theirs = writer.contract.enums[f.type_name], reader.contract.enums[g.type_name]
    meant = mine.names.get(sent, frozenset[str]())
    here = theirs.names.get(sent, frozenset[str]())
    if not here:
        if meant & theirs.names.get(read, frozenset[str]()):
            return None  # it did not arrive, and the default happens to say the same
        if forward or not meant:
            # An open enum keeps a number that has no name on either side.
            return None if not meant and read == sent else Judgement("lost")
        return Judgement("lost", by_name=True) if meant & theirs.numbers.keys() else None
    if read != sent:
        return Judgement("misread")
    moved = meant & theirs.numbers.keys() or here & mine.numbers.keys()
    return Judgement("misread", by_name=True) if meant and not meant & here and moved else None


def _plain(value: Value) -> Value:
    """Text counts as its bytes: string and bytes are one on the wire."""
    return value.encode() if isinstance(value, str) else value
