"""Edits of the current contracts, breaking and benign: what the gate must, and must not, catch.

Each kind of edit looks for places that suit it in today's protos, and takes the first of several
packages: so the list grows and shrinks with the contracts, and never goes stale.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
)
from tree import (
    Find,
    Tree,
    any_message,
    any_rpc,
    any_service,
    carried_enum,
    enum_field,
    flat_message,
    map_field,
    message_field,
    message_field_to_copy,
    of_type,
    oneof_member,
    optional_scalar,
    plain_of_type,
    plain_twice,
    twin,
)

import smg_proto

F = FieldDescriptorProto
PER_KIND = 2  # packages in which each kind of edit is made
NUMBER = 12_345  # unused everywhere
Apply = Callable[[Tree, str], None]
Kinds = dict[str, tuple[str, Find, Apply]]


@dataclass(frozen=True)
class Edit:
    kind: str
    symbol: str  # where it was made
    cls: str  # the verdict that it deserves; "compatible" for a benign one
    apply: Apply

    def __str__(self) -> str:
        return f"{self.kind}: {self.symbol}"

    def new(self) -> FileDescriptorSet:
        """The contracts after the edit."""
        tree, edited = tree_of_all(), FileDescriptorSet()
        try:
            self.apply(tree, self.symbol)
            edited.CopyFrom(tree.files)
        finally:
            tree.restore(current())
        return edited


@cache
def current() -> FileDescriptorSet:
    files = smg_proto.descriptor_set()
    for file in files.file:
        file.ClearField("source_code_info")
    return files


@cache
def tree_of_all() -> Tree:
    """A tree for all edits, one after the other: to make one takes longer than to compare."""
    return Tree(current())


def edits(kinds: Kinds) -> list[Edit]:
    """Each kind of edit, in the first suitable place of up to PER_KIND packages."""
    tree = tree_of_all()
    found: list[Edit] = []
    for kind, (cls, find, apply) in kinds.items():
        places: dict[str, str] = {}
        for symbol in find(tree):
            places.setdefault(tree.home[symbol].package, symbol)
        assert places, f"no place in the protos for: {kind}"
        chosen = list(places.values())[:PER_KIND]
        found += [Edit(kind, symbol, cls, apply) for symbol in chosen]
    return found


# --- edits -------------------------------------------------------------------------------------


def change(**values: int | str | bool) -> Apply:
    def apply(tree: Tree, symbol: str) -> None:
        for name, value in values.items():
            setattr(tree.fields[symbol][1], name, value)

    return apply


def remove_field(tree: Tree, symbol: str) -> None:
    message, field = tree.fields[symbol]
    index = field.oneof_index if field.HasField("oneof_index") else None
    message.field.remove(field)
    rest = {other.oneof_index for other in message.field if other.HasField("oneof_index")}
    if index is not None and index not in rest:
        drop_oneof(message, index)


def remove_and_reserve(tree: Tree, symbol: str) -> None:
    message, field = tree.fields[symbol]
    message.reserved_range.add(start=field.number, end=field.number + 1)
    message.reserved_name.append(field.name)
    remove_field(tree, symbol)


def swap_numbers(tree: Tree, symbol: str) -> None:
    message, field = tree.fields[symbol]
    other = twin(message, field)
    assert other is not None
    field.number, other.number = other.number, field.number


def rename(tree: Tree, symbol: str) -> None:
    field = tree.fields[symbol][1]
    field.name += "_renamed"
    field.ClearField("json_name")


def drop_optional(tree: Tree, symbol: str) -> None:
    message, field = tree.fields[symbol]
    index = field.oneof_index
    field.ClearField("oneof_index")
    field.ClearField("proto3_optional")
    drop_oneof(message, index)


def add_optional(tree: Tree, symbol: str) -> None:
    message, field = tree.fields[symbol]
    message.oneof_decl.add(name=f"_{field.name}")
    field.oneof_index = len(message.oneof_decl) - 1
    field.proto3_optional = True


def first_oneof(message: DescriptorProto, name: str) -> None:
    """A new oneof before the others: the hidden ones of `optional` fields must stay last."""
    names = [name, *(oneof.name for oneof in message.oneof_decl)]
    del message.oneof_decl[:]
    for each in names:
        message.oneof_decl.add(name=each)
    for field in message.field:
        if field.HasField("oneof_index"):
            field.oneof_index += 1


def drop_oneof(message: DescriptorProto, index: int) -> None:
    del message.oneof_decl[index]
    for field in message.field:
        if field.HasField("oneof_index") and field.oneof_index > index:
            field.oneof_index -= 1


def into_one_oneof(tree: Tree, symbol: str) -> None:
    message, field = tree.fields[symbol]
    other = twin(message, field)
    assert other is not None
    # The hidden oneofs of `optional` fields must stay last.
    first_oneof(message, "joined")
    field.oneof_index = other.oneof_index = 0


def alone_into_oneof(tree: Tree, symbol: str) -> None:
    message, field = tree.fields[symbol]
    first_oneof(message, "joined")
    field.oneof_index = 0
    message.field.add(
        name="newcomer", number=NUMBER, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING, oneof_index=0
    )


def out_of_oneof(tree: Tree, symbol: str) -> None:
    tree.fields[symbol][1].ClearField("oneof_index")


def rename_oneof(tree: Tree, symbol: str) -> None:
    message, field = tree.fields[symbol]
    message.oneof_decl[field.oneof_index].name += "_renamed"


def another_message(tree: Tree, symbol: str) -> None:
    """A type whose first number means something else."""
    file = tree.home[symbol]
    file.message_type.add(name="Other").field.add(
        name="other", number=NUMBER, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING
    )
    tree.fields[symbol][1].type_name = f".{file.package}.Other"


def same_message_elsewhere(tree: Tree, symbol: str) -> None:
    """A copy of the type, without its comments, its nested types staying where they are."""
    file, field = tree.home[symbol], tree.fields[symbol][1]
    copy = file.message_type.add()
    copy.CopyFrom(tree.messages[field.type_name.lstrip(".")])
    copy.ClearField("nested_type")
    copy.ClearField("enum_type")
    copy.name = "Copied"
    field.type_name = f".{file.package}.Copied"


def becomes_bytes(tree: Tree, symbol: str) -> None:
    field = tree.fields[symbol][1]
    field.type = F.TYPE_BYTES
    field.ClearField("type_name")


def map_key(tree: Tree, symbol: str) -> None:
    key, _ = tree.messages[tree.fields[symbol][1].type_name.lstrip(".")].field
    key.type = F.TYPE_INT32 if key.type == F.TYPE_STRING else F.TYPE_STRING


def map_value(tree: Tree, symbol: str) -> None:
    _, value = tree.messages[tree.fields[symbol][1].type_name.lstrip(".")].field
    value.type = F.TYPE_SINT64 if value.type == F.TYPE_STRING else F.TYPE_STRING
    value.ClearField("type_name")


def enum_to_int(tree: Tree, symbol: str) -> None:
    field = tree.fields[symbol][1]
    field.type = F.TYPE_INT32
    field.ClearField("type_name")


def other_enum(tree: Tree, symbol: str) -> None:
    """An enum with the same names under other numbers."""
    file, field = tree.home[symbol], tree.fields[symbol][1]
    copy = file.message_type.add(name="Holder").enum_type.add()
    copy.CopyFrom(tree.enums[field.type_name.lstrip(".")])
    copy.name = "OtherEnum"
    _, *rest = copy.value
    for value, number in zip(rest, [v.number for v in reversed(rest)], strict=True):
        value.number = number
    field.type_name = f".{file.package}.Holder.OtherEnum"


def drop_value(tree: Tree, symbol: str) -> None:
    del tree.enums[symbol].value[-1]


def reuse_value(tree: Tree, symbol: str) -> None:
    """The last value goes, and the one before it takes its number."""
    *_, one, other = tree.enums[symbol].value
    one.number = other.number
    del tree.enums[symbol].value[-1]


def renumber_value(tree: Tree, symbol: str) -> None:
    tree.enums[symbol].value[-1].number = NUMBER


def swap_values(tree: Tree, symbol: str) -> None:
    *_, one, other = tree.enums[symbol].value
    one.number, other.number = other.number, one.number


def rename_value(tree: Tree, symbol: str) -> None:
    tree.enums[symbol].value[-1].name += "_RENAMED"


def retype(tree: Tree, moved: Callable[[str], str]) -> None:
    """Give every use of a type its new name."""
    for _, field in tree.fields.values():
        if field.type_name:
            field.type_name = moved(field.type_name)
    for rpc in tree.rpcs.values():
        rpc.input_type, rpc.output_type = moved(rpc.input_type), moved(rpc.output_type)


def rename_type(tree: Tree, symbol: str) -> None:
    """The message gets another name, everywhere."""
    tree.messages[symbol].name += "Renamed"
    old, new = f".{symbol}", f".{symbol}Renamed"

    def moved(name: str) -> str:
        return new + name[len(old) :] if name == old or name.startswith(f"{old}.") else name

    retype(tree, moved)


def rename_package(tree: Tree, symbol: str) -> None:
    file = tree.home[symbol]
    old, new = f".{file.package}.", f".{file.package}.next."

    def moved(name: str) -> str:
        return new + name[len(old) :] if name.startswith(old) else name

    retype(tree, moved)
    for other in tree.files.file:
        if other.package == old.strip("."):
            other.package = new.strip(".")


def remove_service(tree: Tree, symbol: str) -> None:
    tree.home[symbol].service.remove(tree.services[symbol])


def rename_service(tree: Tree, symbol: str) -> None:
    tree.services[symbol].name += "Renamed"


def remove_rpc(tree: Tree, symbol: str) -> None:
    tree.services[symbol.rpartition(".")[0]].method.remove(tree.rpcs[symbol])


def rename_rpc(tree: Tree, symbol: str) -> None:
    tree.rpcs[symbol].name += "Renamed"


def stream_requests(tree: Tree, symbol: str) -> None:
    tree.rpcs[symbol].client_streaming = not tree.rpcs[symbol].client_streaming


def stream_responses(tree: Tree, symbol: str) -> None:
    tree.rpcs[symbol].server_streaming = not tree.rpcs[symbol].server_streaming


def other_response(tree: Tree, symbol: str) -> None:
    file = tree.home[symbol]
    file.message_type.add(name="Other").field.add(
        name="other", number=NUMBER, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING
    )
    tree.rpcs[symbol].output_type = f".{file.package}.Other"


def other_request(tree: Tree, symbol: str) -> None:
    file = tree.home[symbol]
    file.message_type.add(name="Other").field.add(
        name="other", number=NUMBER, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING
    )
    tree.rpcs[symbol].input_type = f".{file.package}.Other"


def java_elsewhere(tree: Tree, symbol: str) -> None:
    tree.home[symbol].options.java_package += ".elsewhere"


# --- benign --------------------------------------------------------------------------------------


def add_field(**values: int | str | bool) -> Apply:
    def apply(tree: Tree, symbol: str) -> None:
        field = tree.messages[symbol].field.add(
            name="newcomer", number=NUMBER, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING
        )
        for name, value in values.items():
            setattr(field, name, value)

    return apply


def add_optional_field(tree: Tree, symbol: str) -> None:
    add_field()(tree, symbol)
    message = tree.messages[symbol]
    message.oneof_decl.add(name="_newcomer")
    message.field[-1].oneof_index = len(message.oneof_decl) - 1
    message.field[-1].proto3_optional = True


def add_message_field(tree: Tree, symbol: str) -> None:
    add_field(type=F.TYPE_MESSAGE, type_name=f".{symbol}")(tree, symbol)


def add_map_field(tree: Tree, symbol: str) -> None:
    entry = tree.messages[symbol].nested_type.add(name="NewcomerEntry")
    entry.options.map_entry = True
    for number, name in enumerate(("key", "value"), 1):
        entry.field.add(name=name, number=number, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING)
    kind = f".{symbol}.NewcomerEntry"
    add_field(type=F.TYPE_MESSAGE, label=F.LABEL_REPEATED, type_name=kind)(tree, symbol)


def add_oneof(tree: Tree, symbol: str) -> None:
    message = tree.messages[symbol]
    first_oneof(message, "choice")
    for number, name in enumerate(("one", "other"), NUMBER):
        message.field.add(
            name=f"newcomer_{name}",
            number=number,
            label=F.LABEL_OPTIONAL,
            type=F.TYPE_STRING,
            oneof_index=0,
        )


def add_oneof_member(tree: Tree, symbol: str) -> None:
    message, field = tree.fields[symbol]
    message.field.add(
        name="newcomer",
        number=NUMBER,
        label=F.LABEL_OPTIONAL,
        type=F.TYPE_BYTES,
        oneof_index=field.oneof_index,
    )


def add_rpc(streaming: bool) -> Apply:
    def apply(tree: Tree, symbol: str) -> None:
        service = tree.services[symbol]
        like = service.method[0]
        service.method.add(
            name="Newcomer",
            input_type=like.input_type,
            output_type=like.output_type,
            server_streaming=streaming,
        )

    return apply


def add_service(tree: Tree, symbol: str) -> None:
    like = tree.services[symbol]
    tree.home[symbol].service.add(name="NewcomerService").method.extend(like.method)


def add_message(tree: Tree, symbol: str) -> None:
    tree.home[symbol].message_type.add(name="Newcomer").field.add(
        name="text", number=1, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING
    )


def add_enum(tree: Tree, symbol: str) -> None:
    tree.home[symbol].enum_type.add(name="Newcomer").value.add(name="NEWCOMER_ZERO", number=0)


def add_value(tree: Tree, symbol: str) -> None:
    tree.enums[symbol].value.add(name=f"{tree.enums[symbol].name.upper()}_NEWCOMER", number=NUMBER)


def change_comment(tree: Tree, symbol: str) -> None:
    place = tree.home[symbol].source_code_info.location.add(path=[4, 0], span=[0, 0, 0])
    place.leading_comments = "Another sentence."


def reverse_fields(tree: Tree, symbol: str) -> None:
    fields = tree.messages[symbol].field
    turned = [type(field).FromString(field.SerializeToString()) for field in reversed(fields)]
    del fields[:]
    fields.extend(turned)


def reverse_messages(tree: Tree, symbol: str) -> None:
    messages = tree.home[symbol].message_type
    turned = [DescriptorProto.FromString(m.SerializeToString()) for m in reversed(messages)]
    del messages[:]
    messages.extend(turned)


def reverse_values(tree: Tree, symbol: str) -> None:
    first, *rest = tree.enums[symbol].value  # the zero comes first in proto3
    turned = EnumDescriptorProto(value=[first, *reversed(rest)])
    del tree.enums[symbol].value[:]
    tree.enums[symbol].value.extend(turned.value)


def move_to_own_file(tree: Tree, symbol: str) -> None:
    source = tree.home[symbol]
    file = tree.files.file.add(name=f"{symbol}.proto", package=source.package, syntax="proto3")
    file.message_type.add().CopyFrom(tree.messages[symbol])
    source.message_type.remove(tree.messages[symbol])
    source.dependency.append(file.name)
    for other in tree.files.file:
        if source.name in other.dependency:
            other.dependency.append(file.name)


def rename_file(tree: Tree, symbol: str) -> None:
    old, new = tree.home[symbol].name, f"elsewhere/{tree.home[symbol].name}"
    tree.home[symbol].name = new
    for file in tree.files.file:
        for place, name in enumerate(file.dependency):
            if name == old:
                file.dependency[place] = new


def reserve(tree: Tree, symbol: str) -> None:
    tree.messages[symbol].reserved_range.add(start=NUMBER, end=NUMBER + 9)
    tree.messages[symbol].reserved_name.append("never_used")


def deprecate_field(tree: Tree, symbol: str) -> None:
    tree.fields[symbol][1].options.deprecated = True


def deprecate_rpc(tree: Tree, symbol: str) -> None:
    tree.rpcs[symbol].options.deprecated = True


def deprecate_message(tree: Tree, symbol: str) -> None:
    tree.messages[symbol].options.deprecated = True


def deprecate_value(tree: Tree, symbol: str) -> None:
    tree.enums[symbol].value[-1].options.deprecated = True


def unpack(tree: Tree, symbol: str) -> None:
    tree.fields[symbol][1].options.packed = False


# --- all kinds -----------------------------------------------------------------------------------

BREAKING: Kinds = {
    "remove a field": ("data", plain_twice, remove_field),
    "remove a field and reserve it": ("data", plain_twice, remove_and_reserve),
    "remove an optional field": ("data", optional_scalar, remove_field),
    "remove a member of a oneof": ("data", oneof_member, remove_and_reserve),
    "remove a map": ("data", map_field, remove_field),
    "renumber a field": ("data", plain_twice, change(number=NUMBER)),
    "renumber a message field": ("data", message_field, change(number=NUMBER)),
    "swap two fields of one type": ("data", plain_twice, swap_numbers),
    "rename a field": ("json", plain_twice, rename),
    "rename a member of a oneof": ("json", oneof_member, rename),
    "rename a field in JSON": ("json", plain_twice, change(json_name="another")),
    "int32 to string": ("data", plain_of_type(F.TYPE_INT32), change(type=F.TYPE_STRING)),
    "int32 to sint32": ("data", plain_of_type(F.TYPE_INT32), change(type=F.TYPE_SINT32)),
    "int32 to int64": ("data", plain_of_type(F.TYPE_INT32), change(type=F.TYPE_INT64)),
    "int32 to uint32": ("data", plain_of_type(F.TYPE_INT32), change(type=F.TYPE_UINT32)),
    "int32 to bool": ("data", plain_of_type(F.TYPE_INT32), change(type=F.TYPE_BOOL)),
    "int32 to fixed32": ("data", plain_of_type(F.TYPE_INT32), change(type=F.TYPE_FIXED32)),
    "bool to int32": ("data", plain_of_type(F.TYPE_BOOL), change(type=F.TYPE_INT32)),
    "string to bytes": ("data", plain_of_type(F.TYPE_STRING), change(type=F.TYPE_BYTES)),
    "string to int32": ("data", plain_of_type(F.TYPE_STRING), change(type=F.TYPE_INT32)),
    "bytes to string": ("data", of_type(F.TYPE_BYTES), change(type=F.TYPE_STRING)),
    "float to double": ("data", of_type(F.TYPE_FLOAT), change(type=F.TYPE_DOUBLE)),
    "one string to many": ("data", plain_of_type(F.TYPE_STRING), change(label=F.LABEL_REPEATED)),
    "one number to many": ("data", plain_of_type(F.TYPE_INT32), change(label=F.LABEL_REPEATED)),
    "many strings to one": (
        "data",
        of_type(F.TYPE_STRING, label=F.LABEL_REPEATED),
        change(label=F.LABEL_OPTIONAL),
    ),
    "many numbers to one": (
        "data",
        of_type(F.TYPE_UINT32, F.TYPE_INT32, F.TYPE_FLOAT, label=F.LABEL_REPEATED),
        change(label=F.LABEL_OPTIONAL),
    ),
    "drop optional": ("presence", optional_scalar, drop_optional),
    "make optional": ("presence", plain_twice, add_optional),
    "a message becomes another": ("data", message_field, another_message),
    "a message becomes a like one": ("source", message_field_to_copy, same_message_elsewhere),
    "a message becomes bytes": ("data", message_field, becomes_bytes),
    "two fields into one oneof": ("data", plain_twice, into_one_oneof),
    "a field alone into a new oneof": ("presence", plain_twice, alone_into_oneof),
    "a member out of its oneof": ("data", oneof_member, out_of_oneof),
    "rename a oneof": ("source", oneof_member, rename_oneof),
    "another key type of a map": ("data", map_field, map_key),
    "another value type of a map": ("data", map_field, map_value),
    "an enum field becomes int32": ("json", enum_field, enum_to_int),
    "an enum field of another enum": ("data", enum_field, other_enum),
    "remove an enum value": ("data", carried_enum, drop_value),
    "renumber an enum value": ("data", carried_enum, renumber_value),
    "swap two enum values": ("data", carried_enum, swap_values),
    "rename an enum value": ("json", carried_enum, rename_value),
    "rename a message": ("source", any_message, rename_type),
    "rename a package": ("rpc", any_service, rename_package),
    "remove a service": ("rpc", any_service, remove_service),
    "rename a service": ("rpc", any_service, rename_service),
    "remove an RPC": ("rpc", any_rpc, remove_rpc),
    "rename an RPC": ("rpc", any_rpc, rename_rpc),
    "stream the requests": ("rpc", any_rpc, stream_requests),
    "stream the responses, or stop to": ("rpc", any_rpc, stream_responses),
    "an RPC answers another message": ("data", any_rpc, other_response),
    "another Java package": ("source", any_service, java_elsewhere),
    "move a message to another file": ("source", flat_message, move_to_own_file),
    "rename a file": ("source", any_message, rename_file),
    "an RPC takes another message": ("data", any_rpc, other_request),
    "reuse the number of a removed enum value": ("data", carried_enum, reuse_value),
}
BENIGN: Kinds = {
    "add a field": ("compatible", any_message, add_field()),
    "add a number": ("compatible", any_message, add_field(type=F.TYPE_INT32)),
    "add an optional field": ("compatible", any_message, add_optional_field),
    "add a list": ("compatible", any_message, add_field(label=F.LABEL_REPEATED)),
    "add a message field": ("compatible", any_message, add_message_field),
    "add a map": ("compatible", any_message, add_map_field),
    "add a oneof": ("compatible", any_message, add_oneof),
    "add a member to a oneof": ("compatible", oneof_member, add_oneof_member),
    "add an RPC": ("compatible", any_service, add_rpc(streaming=False)),
    "add a streaming RPC": ("compatible", any_service, add_rpc(streaming=True)),
    "add a service": ("compatible", any_service, add_service),
    "add a message": ("compatible", any_message, add_message),
    "add an enum": ("compatible", any_message, add_enum),
    "add an enum value": ("compatible", carried_enum, add_value),
    "change a comment": ("compatible", any_message, change_comment),
    "reverse the fields": ("compatible", any_message, reverse_fields),
    "reverse the messages": ("compatible", any_message, reverse_messages),
    "reverse the enum values": ("compatible", carried_enum, reverse_values),
    "reserve unused numbers": ("compatible", any_message, reserve),
    "deprecate a field": ("compatible", plain_twice, deprecate_field),
    "deprecate an RPC": ("compatible", any_rpc, deprecate_rpc),
    "deprecate a message": ("compatible", any_message, deprecate_message),
    "deprecate an enum value": ("compatible", carried_enum, deprecate_value),
    "write a list unpacked": (
        "compatible",
        of_type(F.TYPE_UINT32, F.TYPE_FLOAT, label=F.LABEL_REPEATED),
        unpack,
    ),
}
