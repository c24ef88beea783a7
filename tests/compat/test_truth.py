"""The verdict `data` is given if and only if messages really break, over random contracts.

Contracts have two packages in two files, each of proto2, proto3 or edition 2023, with all types and
shapes of fields: required, defaults, groups and delimited messages, extensions, closed enums, maps,
oneofs, strings that may be anything. The oracle knows nothing of the tool.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    Edition,
    EnumDescriptorProto,
    FeatureSet,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from hypothesis import Phase, event, example, given, settings
from hypothesis import strategies as st
from oracle import break_of, broken

from smg_proto.compat import Contract, Witness, diff

F = FieldDescriptorProto
NAMES = ["a", "b", "c", "d", "e"]
SCALARS = [
    kind for kind in F.Type.values() if kind not in (F.TYPE_GROUP, F.TYPE_MESSAGE, F.TYPE_ENUM)
]
Kind = int | str  # a scalar's number, or the name of a message or enum of the other file
TYPES: list[Kind] = [*SCALARS, "Leaf", "Leaf", "Twin", "Color", "Color", "Shade"]
MESSAGES = ("Leaf", "Twin")
# What a syntax does not have, it writes as "one".
SHAPES = [
    "one", "one", "optional", "many", "map", "x", "x", "y", "required", "default", "other default",
    "group", "extension", "loose",
]  # fmt: skip
SYNTAXES = ["proto3", "proto3", "proto2", "proto2", "2023"]
MESSAGES_EACH = 25

Field = tuple[str, int, Kind, str]  # name, number, type, shape


@dataclass(frozen=True)
class Schema:
    syntax: str  # of the file that has Root
    types_syntax: str  # of the file that has the rest
    root: tuple[Field, ...]
    leaf: tuple[Field, ...]
    twin: tuple[Field, ...]
    alone: tuple[Field, ...]  # of a message that nothing holds; () if there is none
    colors: tuple[tuple[str, int], ...]


fields = st.tuples(
    st.sampled_from(NAMES), st.integers(1, 5), st.sampled_from(TYPES), st.sampled_from(SHAPES)
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


def numbered(values: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """Values whose numbers are distinct, the zero among them; which is first matters to some."""
    return tuple({n: (name, n) for name, n in [("NONE", 0), *values.items()]}.values())


colors = st.tuples(
    st.dictionaries(st.sampled_from(["RED", "BLUE", "PINK"]), st.integers(1, 4), min_size=1),
    st.booleans(),
).map(lambda drawn: numbered(drawn[0])[:: -1 if drawn[1] else 1])
schemas = st.builds(
    Schema,
    st.sampled_from(SYNTAXES),
    st.sampled_from(SYNTAXES),
    messages,
    messages,
    messages,
    st.one_of(st.just(()), messages),
    colors,
)


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

    def syntax(before: str) -> str:
        return draw(st.sampled_from([before] * 5 + SYNTAXES))

    return Schema(
        syntax(old.syntax),
        syntax(old.types_syntax),
        again(old.root),
        again(old.leaf),
        again(old.twin),
        draw(st.one_of(st.just(()), st.just(old.alone), messages)),
        draw(st.one_of(st.just(old.colors), colors)),
    )


pairs = schemas.flatmap(lambda old: st.tuples(st.just(old), mutated(old)))


# --- from a schema to descriptors -----------------------------------------------------------------


def contract(schema: Schema, origin: str) -> Contract:
    """Root may carry all other types; these, only scalars and enums."""
    types = types_file(schema)
    file = new_file("root.proto", "t", schema.syntax)
    file.dependency.append(types.name)
    declare(file, "Root", schema.root, schema)
    return Contract(FileDescriptorSet(file=[types, file]), origin)


def new_file(name: str, package: str, syntax: str) -> FileDescriptorProto:
    file = FileDescriptorProto(name=name, package=package)
    if syntax == "2023":
        file.syntax, file.edition = "editions", Edition.EDITION_2023
    else:
        file.syntax = syntax
    return file


def types_file(schema: Schema) -> FileDescriptorProto:
    file = new_file("types.proto", "u", open_syntax(schema))
    declare(file, "Leaf", schema.leaf, schema)
    declare(file, "Twin", schema.twin, schema)
    if schema.alone:
        declare(file, "Alone", schema.alone, schema)
    first = schema.colors if closed(schema) else sorted(schema.colors, key=lambda v: v[1])
    for name, values in (("Color", first), ("Shade", (("SHADE_NONE", 0), ("SHADE_DARK", 1)))):
        enum: EnumDescriptorProto = file.enum_type.add(name=name)
        for label, number in values:
            enum.value.add(name=label, number=number)
    return file


def open_syntax(schema: Schema) -> str:
    """proto3 takes no closed enums, so beside it the types are not of proto2."""
    both = {schema.syntax, schema.types_syntax}
    return (
        "2023"
        if both == {"proto2", "proto3"} and schema.syntax == "proto3"
        else schema.types_syntax
    )


def closed(schema: Schema) -> bool:
    return open_syntax(schema) == "proto2"


def declare(
    file: FileDescriptorProto, name: str, chosen: tuple[Field, ...], schema: Schema
) -> None:
    syntax = file.syntax
    message = file.message_type.add(name=name)
    message.extension_range.add(start=1000, end=2000) if syntax != "proto3" else None
    oneofs = [oneof for oneof in ("x", "y") if any(shape == oneof for *_, shape in chosen)]
    for oneof in oneofs:
        message.oneof_decl.add(name=oneof)
    for field_name, number, kind, shape in chosen:
        if name in MESSAGES and kind in MESSAGES:
            kind = F.TYPE_STRING
        if shape == "extension" and syntax != "proto3":
            field = file.extension.add(name=f"{name}_{field_name}", number=number + 1000)
            field.extendee, shape = f".{file.package}.{name}", "one"
        else:
            field = message.field.add(name=field_name, number=number)
        of_type(field, message, f".{file.package}.{name}", kind, shape, schema)
        if shape in oneofs:
            field.oneof_index = oneofs.index(shape)
        else:
            of_shape(field, kind, shape, syntax, schema)
    shapes = {field_name: shape for field_name, *_, shape in chosen}
    for field in message.field:
        if shapes[field.name] == "optional" and syntax == "proto3":
            message.oneof_decl.add(name=f"_{field.name}")
            field.oneof_index = len(message.oneof_decl) - 1
            field.proto3_optional = True


def of_type(
    field: FieldDescriptorProto,
    message: DescriptorProto,
    full_name: str,
    kind: Kind,
    shape: str,
    schema: Schema,
) -> None:
    # A map of a closed enum whose first value is not zero cannot be declared.
    mappable = not (kind == "Color" and closed(schema) and schema.colors[0][1])
    many = shape == "many" or (shape == "map" and not field.extendee)
    field.label = F.LABEL_REPEATED if many else F.LABEL_OPTIONAL
    typed = field
    if shape == "map" and mappable and not field.extendee:
        entry = message.nested_type.add(name=f"{field.name.upper()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING)
        typed = entry.field.add(name="value", number=2, label=F.LABEL_OPTIONAL)
        field.type, field.type_name = F.TYPE_MESSAGE, f"{full_name}.{entry.name}"
    if isinstance(kind, str):
        typed.type = F.TYPE_ENUM if kind in ("Color", "Shade") else F.TYPE_MESSAGE
        typed.type_name = f".u.{kind}"
    else:
        typed.type = F.Type.ValueType(kind)


def of_shape(
    field: FieldDescriptorProto, kind: Kind, shape: str, syntax: str, schema: Schema
) -> None:
    """What a shape is in proto2 or an edition; proto3 has none of these."""
    if syntax == "proto3" or field.label == F.LABEL_REPEATED:
        return
    features = field.options.features if syntax == "editions" else None
    match shape:
        case "required" if not field.extendee:
            if features is None:
                field.label = F.LABEL_REQUIRED
            else:
                features.field_presence = FeatureSet.LEGACY_REQUIRED
        case "default" | "other default" if kind not in MESSAGES:
            field.default_value = default_of(kind, shape == "default", schema)
        case "group" if kind in MESSAGES and features is not None:
            features.message_encoding = FeatureSet.DELIMITED
        case "group" if kind in MESSAGES:
            field.type = F.TYPE_GROUP
        case "optional" if features is not None and kind not in MESSAGES and not field.extendee:
            if not (kind in ("Color", "Shade") and closed(schema)):
                features.field_presence = FeatureSet.IMPLICIT
        case "loose" if features is not None and kind == F.TYPE_STRING:
            features.utf8_validation = FeatureSet.NONE
        case _:
            pass
    if features is not None and not features.ListFields():
        field.ClearField("options")


def default_of(kind: Kind, first: bool, schema: Schema) -> str:
    match kind:
        case "Color":
            return schema.colors[0 if first else -1][0]
        case "Shade":
            return "SHADE_NONE" if first else "SHADE_DARK"
        case F.TYPE_STRING | F.TYPE_BYTES:
            return "one" if first else "two"
        case F.TYPE_BOOL:
            return "false" if first else "true"
        case F.TYPE_FLOAT | F.TYPE_DOUBLE:
            return "1.5" if first else "inf"
        case _:
            return "5" if first else "9"


# --- the truth ------------------------------------------------------------------------------------


def break_found(old: Contract, new: Contract, chance: random.Random) -> str:
    """A description of some message that does not arrive as it was meant; "" if none was met."""
    for name in old.messages.keys() & new.messages.keys():
        if name.startswith(("t.", "u.")):
            kinds = old.message_class(name), new.message_class(name)
            if found := break_of(*kinds, True, MESSAGES_EACH, chance):
                return f"old to new: {found}"
            if found := break_of(*kinds[::-1], False, MESSAGES_EACH, chance):
                return f"new to old: {found}"
    return ""


def a_field_moves_to_a_number_where_its_default_is_what_was_sent() -> tuple[Schema, Schema]:
    other, colors = (("b", 1, F.TYPE_DOUBLE, "one"),), (("NONE", 0), ("RED", 1))
    old = (("a", 1, "Color", "one"), ("b", 2, F.TYPE_DOUBLE, "one"))
    new = (("a", 2, "Color", "other default"),)
    return (
        Schema("proto3", "proto3", other, other, old, (), colors),
        Schema("proto3", "proto2", other, other, new, (), colors),
    )


@settings(max_examples=300, deadline=None, phases=set(Phase) - {Phase.explain})
@given(pairs, st.integers(0, 2**32))
@example(a_field_moves_to_a_number_where_its_default_is_what_was_sent(), 0)
def test_the_verdict_is_data_if_and_only_if_messages_break(
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
            kind = writer.message_class(witness.message)
            data = bytes.fromhex(witness.bytes)
            whole = kind()
            whole.MergeFromString(data)
            if whole.IsInitialized():
                problem = broken(data, kind, reader.message_class(witness.message), forward)
                assert problem, f"{witness}\n{report.text()}"
    event(f"verdict {report.verdict}")
    event(f"syntax {pair[0].syntax} {pair[0].types_syntax}")


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
    found = {
        f"P{i}"
        for i in range(len(changes))
        for kinds in [(old.message_class(f"t.P{i}"), new.message_class(f"t.P{i}"))]
        if break_of(*kinds, True, MESSAGES_EACH, chance)
        or break_of(*kinds[::-1], False, MESSAGES_EACH, chance)
    }
    # No break goes unjudged, and random messages find nearly all that is judged.
    assert found <= judged, [changes[int(name[1:])] for name in found - judged]
    missed = [changes[int(name[1:])] for name in judged - found]
    assert len(missed) < len(changes) / 50, missed


def every(chosen: Sequence[tuple[Kind, str]]) -> Contract:
    """One message, with one field, for each type."""
    leaf: tuple[Field, ...] = (("a", 1, F.TYPE_INT32, "one"), ("b", 2, F.TYPE_STRING, "one"))
    schema = Schema("proto3", "proto3", (), leaf, (), (), (("NONE", 0), ("RED", 2)))
    types = types_file(schema)
    file = new_file("root.proto", "t", "proto3")
    file.dependency.append(types.name)
    for i, (kind, shape) in enumerate(chosen):
        declare(file, f"P{i}", (("a", 1, kind, shape),), schema)
    return Contract(FileDescriptorSet(file=[types, file]), "every type")
