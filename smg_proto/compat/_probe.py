"""Witnesses: messages that are written by one side and parsed by the other."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from smg_proto.compat._compare import ANY, Judgement, Outcome, judge
from smg_proto.compat._contract import Field
from smg_proto.compat._limits import MAX_VALUE_LENGTH
from smg_proto.compat._samples import Side, of_one_field, of_two_fields, samples, unnamed, wrapped

Direction = Literal["old to new", "new to old"]
# The depth of renamed types within one another up to which messages are tried.
_MAX_REPLACED_DEPTH = 20


@dataclass(frozen=True)
class Witness:
    """One message that the receiver does not read as the sender meant it."""

    direction: Direction
    outcome: Outcome
    message: str  # the sender's name for its type
    bytes: str  # hexadecimal
    sent: str  # what the sender meant, in text format
    read: str  # what the receiver reads, in text format
    by_name: bool = False  # only the names show that it is wrong; the bytes do not
    reverse: "Witness | None" = None  # the witness of the other direction, if that fails too


@dataclass(frozen=True)
class Sent:
    """A message that is sent: its bytes, and what the sender meant."""

    data: bytes
    message: ProtoMessage | None  # None if Python cannot write it, but other runtimes can
    text: str = ""  # describes the message if Python cannot write it


def field_witness(old: Side, new: Side, number: int) -> Witness | None:
    """A message with only this field set, or none, that the other side misreads."""
    return _both_ways(
        _first(old, new, "old to new", _of_field(old, new, number), number),
        _first(new, old, "new to old", _of_field(new, old, number), number),
    )


def encoding_witness(old: Side, new: Side, number: int) -> Witness | None:
    """A message with this field set that the other side misreads although the field is the same."""

    def messages(writer: Side) -> Iterator[Sent]:
        for value in samples(writer.contract, writer.message.fields[number], 1):
            yield _sent(writer.build({number: value}))

    return _both_ways(
        _first(old, new, "old to new", messages(old), number),
        _first(new, old, "new to old", messages(new), number),
    )


def joined(one: Witness | None, other: Witness | None) -> Witness | None:
    """The first witness of each direction."""
    witnesses = [w for first in (one, other) if first for w in (first, first.reverse) if w]
    by_direction = {w.direction: replace(w, reverse=None) for w in reversed(witnesses)}
    return _both_ways(by_direction.get("old to new"), by_direction.get("new to old"))


def fields_witness(old: Side, new: Side, numbers: Iterable[int]) -> Witness | None:
    """A message with two of these fields set that the other side misreads."""
    chosen = list(numbers)
    return _both_ways(
        _first(old, new, "old to new", map(_sent, of_two_fields(old, chosen))),
        _first(new, old, "new to old", map(_sent, of_two_fields(new, chosen))),
    )


def message_witness(old: Side, new: Side) -> Witness | None:
    """A message of one type that cannot be read as the other."""
    return _both_ways(
        _first(old, new, "old to new", _of_message(old, new)),
        _first(new, old, "new to old", _of_message(new, old)),
    )


def value_witness(old: Side, new: Side, number: int, values: Iterable[int]) -> Witness | None:
    """A message whose enum field has one of these values, and that the other side misreads."""
    known = set(values)

    def messages(writer: Side) -> Iterator[Sent]:
        field = writer.message.fields[number]
        names = writer.contract.enums[field.value.type_name].names
        for value in sorted(known & names.keys()):
            yield _sent(writer.build({number: wrapped(field, value)}))

    return _both_ways(
        _first(old, new, "old to new", messages(old), number),
        _first(new, old, "new to old", messages(new), number),
    )


def closing_witness(old: Side, new: Side, number: int) -> Witness | None:
    """A message whose enum field has a number without a name, which a closed enum rejects."""

    def messages(writer: Side, reader: Side) -> Iterator[Sent]:
        f, g = writer.message.fields[number], reader.message.fields[number]
        ours = writer.contract.enums[f.value.type_name]
        theirs = reader.contract.enums[g.value.type_name]
        if theirs.closed and not ours.closed:
            unused = unnamed(ours.numbers.values(), theirs.numbers.values())
            yield _sent(writer.build({number: wrapped(f, unused)}))

    return _both_ways(
        _first(old, new, "old to new", messages(old, new), number),
        _first(new, old, "new to old", messages(new, old), number),
    )


# --- messages to send --------------------------------------------------------------------------


def _sent(message: ProtoMessage) -> Sent:
    return Sent(message.SerializePartialToString(), message)


def _of_field(writer: Side, reader: Side, number: int) -> Iterator[Sent]:
    f, g = writer.message.fields.get(number), reader.message.fields.get(number)
    yield from map(_sent, of_one_field(writer, reader, number))
    if f and g:
        yield from _not_utf8(f, g)
        if f.value.is_message and g.value.is_message and f.value.type_name != g.value.type_name:
            inner = writer.of(f.value), reader.of(g.value)
            if ANY in (f.value.type_name, g.value.type_name):  # its text must name a real type
                for value in samples(writer.contract, f, 1):
                    yield _sent(writer.build({number: value}))
            for message in _any_message(*inner):
                yield _sent(writer.build({number: wrapped(f, message)}))


def _of_message(writer: Side, reader: Side) -> Iterator[Sent]:
    return map(_sent, _any_message(writer, reader))


# The fields that lead to a nested message.
_Path: TypeAlias = tuple[tuple[Side, Field], ...]


def _any_message(writer: Side, reader: Side) -> Iterator[ProtoMessage]:
    """Messages of one type that may be misread as the other, least nested first."""
    todo: deque[tuple[Side, Side, _Path]] = deque([(writer, reader, ())])
    seen = {(writer.message.name, reader.message.name)}
    while todo:
        one, other, path = todo.popleft()
        for message in _one_level(one, other):
            for holder, field in reversed(path):
                message = holder.build({field.number: wrapped(field, message)})
            yield message
        for number, f in one.message.fields.items():
            g = other.message.fields.get(number)
            if not g or not f.value.is_message or not g.value.is_message:
                continue
            names = f.value.type_name, g.value.type_name
            if names[0] != names[1] and names not in seen and len(path) < _MAX_REPLACED_DEPTH:
                seen.add(names)
                todo.append((one.of(f.value), other.of(g.value), (*path, (one, f))))


def _one_level(writer: Side, reader: Side) -> Iterator[ProtoMessage]:
    for number in sorted(writer.message.fields.keys() | reader.message.fields.keys()):
        yield from of_one_field(writer, reader, number)
    if writer.message.oneofs != reader.message.oneofs:
        yield from of_two_fields(writer, writer.message.fields)


def _not_utf8(f: Field, g: Field) -> Iterator[Sent]:
    """A string that is not UTF-8: some runtimes write one if validation is off."""
    pairs = [(f.value, g.value)]
    if f.entry and g.entry:
        pairs.append((f.entry.fields[1], g.entry.fields[1]))
    for one, other in pairs:
        if one.kind == other.kind == FieldDescriptor.TYPE_STRING and other.utf8 and not one.utf8:
            data = _delimited(one.number, b"\xff\xfe")
            text = f'{one.name}: "\\377\\376"'
            if f.entry:
                data, text = _delimited(f.number, data), f"{f.name} {{ {text} }}"
            yield Sent(data, None, text)


def _delimited(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


# --- delivery ------------------------------------------------------------------------------------


def _both_ways(there: Witness | None, back: Witness | None) -> Witness | None:
    return replace(there, reverse=back) if there else back


def _first(
    writer: Side, reader: Side, direction: Direction, sent: Iterator[Sent], only: int | None = None
) -> Witness | None:
    """The first witness, one that the bytes show if possible, else one that only names show."""
    named: Witness | None = None
    for one in sent:
        if witness := _deliver(writer, reader, direction, one, only):
            if not witness.by_name:
                return witness
            named = named or witness
    return named


def _deliver(
    writer: Side, reader: Side, direction: Direction, sent: Sent, only: int | None
) -> Witness | None:
    """Parse a message on the other side and compare; None if everything that matters arrived."""
    read = reader.empty()
    try:
        read.MergeFromString(sent.data)
        # Some runtimes parse a string only when it is accessed.
        if sent.message is None:
            read.ListFields()
            return None
        judgement = judge(writer, reader, sent.message, read, direction == "old to new", only)
    except (DecodeError, UnicodeDecodeError):
        judgement = Judgement("undecodable", read="nothing: it cannot be parsed")
    if judgement is None:
        return None
    return Witness(
        direction,
        judgement.outcome,
        writer.message.name,
        sent.data.hex(),
        judgement.sent or sent.text or _text(sent.message),
        judgement.read or _text(read, unknown=True),
        judgement.by_name,
    )


def _text(message: ProtoMessage | None, unknown: bool = False) -> str:
    """unknown: with fields that its own side does not know."""
    if message is None:
        return "nothing"
    text = text_format.MessageToString(message, as_one_line=True, print_unknown_fields=unknown)
    if len(text) > MAX_VALUE_LENGTH:
        text = f"{text[:MAX_VALUE_LENGTH]}…"
    return text or "nothing"
