"""A `data` verdict agrees with what really happens to messages, over random pairs of schemas.

What really happens is found out here by other means than in smg_proto.compat: both sides' messages
are spelled out as facts, named by field names as far as both sides share them, and compared.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.message import DecodeError, Message
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

from smg_proto.compat import Contract, Witness, diff

F = FieldDescriptorProto
NAMES = ["a", "b", "c", "d", "e"]
SCALARS = [
    kind for kind in F.Type.values() if kind not in (F.TYPE_GROUP, F.TYPE_MESSAGE, F.TYPE_ENUM)
]
# A type: a scalar's number, or the name of a message or enum.
TYPES: list[int | str] = [*SCALARS, "Leaf", "Leaf", "Twin", "Color", "Color", "Shade"]
MESSAGES_EACH = 25

# A field: name, number, type, shape. A shape: one, optional, many, map, or the name of a oneof.
Kind = int | str
Field = tuple[str, int, Kind, str]
Schema = tuple[tuple[Field, ...], tuple[Field, ...], tuple[Field, ...], dict[str, int]]

fields = st.tuples(
    st.sampled_from(NAMES),
    st.integers(1, 5),
    st.sampled_from(TYPES),
    st.sampled_from(["one", "one", "optional", "many", "map", "x", "x", "y"]),
)


def distinct(chosen: Sequence[Field]) -> tuple[Field, ...]:
    """Without those that take a name or number again."""
    names, numbers = dict[str, Field](), set[int]()
    for field in chosen:
        if field[0] not in names and field[1] not in numbers:
            names[field[0]] = field
            numbers.add(field[1])
    return tuple(names.values())


messages = st.lists(fields, min_size=1, max_size=5).map(distinct)
colors = st.dictionaries(
    st.sampled_from(["RED", "BLUE", "PINK"]), st.integers(1, 4), min_size=1
).map(
    lambda values: {"NONE": 0} | {name: n for n, name in {n: k for k, n in values.items()}.items()}
)
schemas = st.tuples(messages, messages, messages, colors)


@st.composite
def mutated(draw: st.DrawFn, old: Schema) -> Schema:
    """Another schema: mostly the same, here and there not."""

    def again(message: tuple[Field, ...]) -> tuple[Field, ...]:
        kept: list[Field] = []
        for field in message:
            fresh = draw(fields)
            what = draw(st.sampled_from(["keep"] * 6 + ["drop", "name", "number", "type", "shape"]))
            name, number, kind, shape = field
            match what:
                case "drop":
                    continue
                case "name":
                    name = fresh[0]
                case "number":
                    number = fresh[1]
                case "type":
                    kind = fresh[2]
                case "shape":
                    shape = fresh[3]
                case _:
                    pass
            kept.append((name, number, kind, shape))
        return distinct([*kept, *draw(st.lists(fields, max_size=1))])

    root, leaf, twin, values = old
    return again(root), again(leaf), again(twin), draw(st.one_of(st.just(values), colors))


pairs = schemas.flatmap(lambda old: st.tuples(st.just(old), mutated(old)))


def contract(schema: Schema, origin: str) -> Contract:
    """Root may carry Leaf and Twin; these, only scalars and enums."""
    root, leaf, twin, colors = schema
    file = types_file(leaf, twin, colors)
    declare(file.message_type.add(name="Root"), root)
    return Contract(FileDescriptorSet(file=[file]), origin)


def types_file(
    leaf: tuple[Field, ...], twin: tuple[Field, ...] = (), colors: dict[str, int] | None = None
) -> FileDescriptorProto:
    """A file with the types that fields may be of."""
    file = FileDescriptorProto(name="random.proto", package="t", syntax="proto3")
    declare(file.message_type.add(name="Leaf"), leaf)
    declare(file.message_type.add(name="Twin"), twin)
    for name, values in (
        ("Color", colors or {"NONE": 0, "RED": 2}),
        ("Shade", {"SHADE_NONE": 0, "SHADE_DARK": 1}),
    ):
        enum = file.enum_type.add(name=name)
        for label, number in values.items():
            enum.value.add(name=label, number=number)
    return file


def declare(message: DescriptorProto, chosen: tuple[Field, ...]) -> None:
    leaf = message.name in ("Leaf", "Twin")
    oneofs = [oneof for oneof in ("x", "y") if any(shape == oneof for *_, shape in chosen)]
    for oneof in oneofs:
        message.oneof_decl.add(name=oneof)
    for name, number, kind, shape in chosen:
        if leaf and kind in ("Leaf", "Twin"):
            kind = F.TYPE_STRING
        field = message.field.add(name=name, number=number)
        field.label = F.LABEL_REPEATED if shape in ("many", "map") else F.LABEL_OPTIONAL
        typed = field
        if shape == "map":
            entry = message.nested_type.add(name=f"{name.upper()}Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING)
            typed = entry.field.add(name="value", number=2, label=F.LABEL_OPTIONAL)
            field.type, field.type_name = F.TYPE_MESSAGE, f".t.{message.name}.{entry.name}"
        if isinstance(kind, str):
            typed.type = F.TYPE_ENUM if kind in ("Color", "Shade") else F.TYPE_MESSAGE
            typed.type_name = f".t.{kind}"
        else:
            typed.type = F.Type.ValueType(kind)
        if shape in oneofs:
            field.oneof_index = oneofs.index(shape)
    for (_, _, _, shape), field in zip(chosen, message.field, strict=True):
        if shape == "optional":
            message.oneof_decl.add(name=f"_{field.name}")
            field.oneof_index = len(message.oneof_decl) - 1
            field.proto3_optional = True


# --- what really happens -------------------------------------------------------------------------

Fact = tuple[tuple[object, ...], object]


def facts(message: Message, theirs: Descriptor | None, forward: bool | None) -> Iterator[Fact]:
    """What a message says. forward None: a reader's message; else a sender's, in that direction."""
    for field, value in message.ListFields():
        other = theirs.fields_by_number.get(field.number) if theirs else None
        known = theirs is not None and field.name in theirs.fields_by_name
        if forward is False and other is None and not known:
            continue  # new to an old reader
        here: object = field.name if known else field.number
        if field.is_repeated and not is_map(field):
            yield (here, "count"), len(value)
        elif value or field.message_type is not None:
            yield (here, "count"), 1
        for key, single, kind, their_kind in singles(field, other, value):
            yield from (
                ((here, *path), fact)
                for path, fact in of_one(key, single, kind, their_kind, forward)
            )


def singles(
    field: FieldDescriptor, other: FieldDescriptor | None, value: Any
) -> Iterator[tuple[object, Any, FieldDescriptor, FieldDescriptor | None]]:
    if is_map(field):
        assert field.message_type is not None
        inner = field.message_type.fields_by_name["value"]
        theirs = None
        if other is not None and is_map(other):
            assert other.message_type is not None
            theirs = other.message_type.fields_by_name["value"]
        for key, single in value.items():
            yield ("key", key), single, inner, theirs
    elif field.is_repeated:
        for place, single in enumerate(value):
            yield place, single, field, other
    else:
        yield 0, value, field, other


def described(kind: type[Message]) -> Descriptor:
    return cast(Descriptor, kind.DESCRIPTOR)


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def of_one(
    key: object,
    value: Any,
    field: FieldDescriptor,
    other: FieldDescriptor | None,
    forward: bool | None,
) -> Iterator[Fact]:
    if field.message_type is not None:
        yield (key,), "a message"
        theirs = other.message_type if other is not None else None
        for path, fact in facts(value, theirs, forward):
            yield (key, *path), fact
    elif field.enum_type is not None and other is not None and other.enum_type is not None:
        label = named(value, field.enum_type, other.enum_type, forward)
        if label is not None:
            yield (key,), label
    else:
        yield (key,), value.encode() if isinstance(value, str) else value


def named(value: int, mine: EnumDescriptor, theirs: EnumDescriptor, forward: bool | None) -> object:
    """What an enum value says; None for one that is merely new to the other side."""
    known = value in mine.values_by_number
    name = mine.values_by_number[value].name if known else "?"
    if name in theirs.values_by_name:
        return name
    if forward is False and value not in theirs.values_by_number:
        return None
    return value if known else "?"


def zero(fact: Fact) -> bool:
    """Zero and unset are one thing here; of presence there is another verdict."""
    return not fact[1] or fact[1] in ("NONE", "SHADE_NONE")


def broken(data: bytes, writer: type[Message], reader: type[Message], forward: bool) -> bool:
    sent = writer.FromString(data)
    try:
        read = reader.FromString(data)
    except DecodeError:
        return True
    said = list(facts(sent, described(reader), forward))
    heard = dict(facts(read, described(writer), None))
    return any(
        path not in heard or heard[path] != fact for path, fact in said if not zero((path, fact))
    )


# --- random messages -----------------------------------------------------------------------------

INTEGERS = [0, 1, 2, 7, -1, 300, 2**31 - 1, -(2**31), 2**32 - 1, 2**40 + 5, 2**63 - 1, 2**64 - 1]
RANGES = {
    F.TYPE_INT32: (-(2**31), 2**31), F.TYPE_SINT32: (-(2**31), 2**31),
    F.TYPE_SFIXED32: (-(2**31), 2**31), F.TYPE_UINT32: (0, 2**32), F.TYPE_FIXED32: (0, 2**32),
    F.TYPE_INT64: (-(2**63), 2**63), F.TYPE_SINT64: (-(2**63), 2**63),
    F.TYPE_SFIXED64: (-(2**63), 2**63), F.TYPE_UINT64: (0, 2**64), F.TYPE_FIXED64: (0, 2**64),
}  # fmt: skip


def some(kind: FieldDescriptor, chance: random.Random) -> Any:
    if kind.enum_type is not None:
        return chance.choice(sorted(kind.enum_type.values_by_number))
    if kind.type in RANGES:
        low, high = RANGES[F.Type.ValueType(kind.type)]
        return chance.choice([number for number in INTEGERS if low <= number < high])
    if kind.type == F.TYPE_BOOL:
        return chance.random() < 0.7
    if kind.type == F.TYPE_STRING:
        return chance.choice(["", "text", "é", "\x01"])
    if kind.type == F.TYPE_BYTES:
        return chance.choice([b"", b"text", b"\xff", b"\x08\x01", b"\xff\x01"])
    return chance.choice([0.0, 1.5, -2.0])


def fill(message: Message, chance: random.Random) -> None:
    for field in described(type(message)).fields:
        if chance.random() < 0.4:
            continue
        there: Any = getattr(message, field.name)
        if is_map(field):
            assert field.message_type is not None
            inner = field.message_type.fields_by_name["value"]
            for key in chance.sample(["", "k", "text"], chance.randint(1, 2)):
                if inner.message_type is not None:
                    fill(there[key], chance)
                else:
                    there[key] = some(inner, chance)
        elif field.is_repeated:
            for _ in range(chance.randint(1, 3)):
                if field.message_type is not None:
                    fill(there.add(), chance)
                else:
                    there.append(some(field, chance))
        elif field.message_type is not None:
            there.SetInParent()
            fill(there, chance)
        else:
            setattr(message, field.name, some(field, chance))


def break_found(old: Contract, new: Contract, chance: random.Random) -> str:
    """A description of some message that does not arrive as it was meant; "" if none was met."""
    return next(filter(None, (break_of(name, old, new, chance) for name in old.messages)), "")


def break_of(name: str, old: Contract, new: Contract, chance: random.Random) -> str:
    for writer, reader, forward in ((old, new, True), (new, old, False)):
        kind, other = writer.message_class(name), reader.message_class(name)
        for _ in range(MESSAGES_EACH):
            message = kind()
            fill(message, chance)
            if broken(message.SerializeToString(), kind, other, forward):
                return f"{'old to new' if forward else 'new to old'}: {name} {{ {message} }}"
    return ""


@settings(max_examples=200, deadline=None, phases=set(Phase) - {Phase.explain})
@given(pairs, st.integers(0, 2**32))
def test_a_data_verdict_is_given_if_and_only_if_messages_really_break(
    pair: tuple[Schema, Schema], seed: int
) -> None:
    old, new = contract(pair[0], "old"), contract(pair[1], "new")
    report = diff(old, new)
    found = break_found(old, new, random.Random(seed))
    assert not found or report.verdict == "data", f"{found}\n{report.text()}"
    for finding in report.findings:
        assert (finding.witness is not None) == (finding.cls == "data")
        for witness in chain_of(finding.witness):
            forward = witness.direction == "old to new"
            writer, reader = (old, new) if forward else (new, old)
            classes = writer.message_class(witness.message), reader.message_class(witness.message)
            assert broken(bytes.fromhex(witness.bytes), *classes, forward), witness
    event(f"verdict {report.verdict}")


def chain_of(witness: Witness | None) -> Iterator[Witness]:
    while witness:
        yield witness
        witness = witness.reverse


def test_every_change_of_a_fields_type_is_judged_as_messages_show() -> None:
    types = [(kind, shape) for kind in dict.fromkeys(TYPES) for shape in ("one", "many", "map")]
    changes = list(product(types, types))
    old, new = (every(chosen) for chosen in zip(*changes, strict=True))
    report = diff(old, new)
    judged = {finding.symbol.split(".")[1] for finding in report.findings if finding.cls == "data"}
    chance = random.Random(4)
    found = {f"P{i}" for i in range(len(changes)) if break_of(f"t.P{i}", old, new, chance)}
    # No break goes unjudged, and random messages find nearly all that is judged.
    assert found <= judged, [changes[int(name[1:])] for name in found - judged]
    missed = [changes[int(name[1:])] for name in judged - found]
    assert len(missed) < len(changes) / 50, missed


def every(chosen: Sequence[tuple[Kind, str]]) -> Contract:
    """One message, with one field, for each type."""
    file = types_file((("a", 1, F.TYPE_INT32, "one"), ("b", 2, F.TYPE_STRING, "one")))
    for i, (kind, shape) in enumerate(chosen):
        declare(file.message_type.add(name=f"P{i}"), (("a", 1, kind, shape),))
    return Contract(FileDescriptorSet(file=[file]), "every type")
