"""Declarations in the files of a descriptor set, and symbols, a flat record of each.

This is the only module that walks through descriptors. The reference pages, the frozen contracts
and `smg-proto show` use symbols; smg_proto.compat compares declarations.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

Kind = Literal["file", "service", "rpc", "message", "field", "oneof", "enum", "value", "reserved"]
Presence = Literal["", "implicit", "explicit", "repeated", "map"]

# The types of fields by number, as in a proto file.
SCALARS: Mapping[int, str] = {
    number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()
}
# A comment may end with the release that introduced the symbol: "Since 0.4.24."
_SINCE = re.compile(r"\s*\b(?:Since|First\s+published\s+in)\s+(\d+\.\d+\.\d+)\.\s*$")
# Field numbers of descriptor.proto, which form the path of a declaration in SourceCodeInfo.
_MESSAGE, _ENUM, _SERVICE, _SYNTAX = 4, 5, 6, 12  # in a file
_FIELD, _NESTED, _NESTED_ENUM, _ONEOF = 2, 3, 4, 8  # in a message
_RPC = _VALUE = 2  # in a service, in an enum


@dataclass(frozen=True)
class Declaration:
    """A file or a part of one. `name` is the full name; that of a value is Enum.VALUE."""

    kind: Kind  # never "reserved"
    name: str
    proto: Any  # the descriptor itself: a DescriptorProto, a FieldDescriptorProto, ...
    file: FileDescriptorProto
    parent: Any  # the descriptor that contains it; for a file, the file itself
    path: tuple[int, ...]  # its path in SourceCodeInfo

    @property
    def implied(self) -> bool:
        """Whether protoc added it: the entry of a map, or the oneof of an `optional` field."""
        match self.kind:
            case "message":
                entry: bool = self.proto.options.map_entry
                return entry
            case "field":
                of_entry: bool = self.parent.options.map_entry
                return of_entry
            case "oneof":
                index = self.path[-1]
                return any(f.proto3_optional and f.oneof_index == index for f in self.parent.field)
            case _:
                return False


def declarations(file: FileDescriptorProto) -> Iterator[Declaration]:
    """A file and its declarations, each before those that it contains."""
    yield Declaration("file", file.name, file, file, file, (_SYNTAX,))
    prefix = f"{file.package}." if file.package else ""
    for i, service in enumerate(file.service):
        name = prefix + service.name
        yield Declaration("service", name, service, file, file, (_SERVICE, i))
        for j, rpc in enumerate(service.method):
            path = (_SERVICE, i, _RPC, j)
            yield Declaration("rpc", f"{name}.{rpc.name}", rpc, file, service, path)
    for i, message in enumerate(file.message_type):
        yield from _message(message, prefix, file, file, (_MESSAGE, i))
    for i, enum in enumerate(file.enum_type):
        yield from _enum(enum, prefix, file, file, (_ENUM, i))


def _message(
    message: DescriptorProto,
    prefix: str,
    file: FileDescriptorProto,
    parent: Any,
    path: tuple[int, ...],
) -> Iterator[Declaration]:
    name = prefix + message.name
    yield Declaration("message", name, message, file, parent, path)
    for i, oneof in enumerate(message.oneof_decl):
        place = (*path, _ONEOF, i)
        yield Declaration("oneof", f"{name}.{oneof.name}", oneof, file, message, place)
    for i, field in enumerate(message.field):
        place = (*path, _FIELD, i)
        yield Declaration("field", f"{name}.{field.name}", field, file, message, place)
    for i, nested in enumerate(message.nested_type):
        yield from _message(nested, f"{name}.", file, message, (*path, _NESTED, i))
    for i, enum in enumerate(message.enum_type):
        yield from _enum(enum, f"{name}.", file, message, (*path, _NESTED_ENUM, i))


def _enum(
    enum: EnumDescriptorProto,
    prefix: str,
    file: FileDescriptorProto,
    parent: Any,
    path: tuple[int, ...],
) -> Iterator[Declaration]:
    name = prefix + enum.name
    yield Declaration("enum", name, enum, file, parent, path)
    for i, value in enumerate(enum.value):
        place = (*path, _VALUE, i)
        yield Declaration("value", f"{name}.{value.name}", value, file, enum, place)


@dataclass(frozen=True)
class Symbol:
    """A declaration and its comment."""

    kind: Kind
    name: str
    package: str
    file: str
    number: int = 0
    type: str = ""  # field: "string", "map<string, int32>", "pkg.Message"; rpc: "In -> stream Out"
    presence: Presence = ""  # of a field; "explicit": unset and zero differ
    oneof: str = ""  # the oneof of a field
    comment: str = ""  # without "Since"
    since: str = ""  # its own, or else that of the symbol that contains it
    deprecated: bool = False


def symbols(files: FileDescriptorSet) -> Iterator[Symbol]:
    """The symbols of all files in order, each before those that it contains."""
    for file in files.file:
        comments = {
            tuple(place.path): place.leading_comments for place in file.source_code_info.location
        }
        since: dict[tuple[int, ...], str] = {}
        for declared in declarations(file):
            if declared.implied:
                continue
            inherited = since.get(declared.path[:-2], since.get((_SYNTAX,), ""))
            symbol = _symbol(declared, comments.get(declared.path, ""), inherited)
            since[declared.path] = symbol.since
            yield symbol
            if declared.kind in ("message", "enum"):
                yield from _reserved(symbol, declared.proto)


def _symbol(declared: Declaration, comment: str, since: str) -> Symbol:
    lines = (line.removeprefix(" ").rstrip() for line in comment.splitlines())
    comment = "\n".join(lines).strip()
    if match := _SINCE.search(comment):
        comment, since = comment[: match.start()], match[1]
    proto, file = declared.proto, declared.file
    symbol = Symbol(
        declared.kind, declared.name, file.package, file.name, comment=comment, since=since
    )
    if declared.kind != "oneof":  # oneofs do not have the option
        symbol = replace(symbol, deprecated=proto.options.deprecated)
    match declared.kind:
        case "rpc":
            request = ("stream " if proto.client_streaming else "") + proto.input_type.lstrip(".")
            reply = ("stream " if proto.server_streaming else "") + proto.output_type.lstrip(".")
            return replace(symbol, type=f"{request} -> {reply}")
        case "value":
            return replace(symbol, number=proto.number)
        case "field":
            return _field(symbol, proto, declared.parent)
        case _:
            return symbol


def _field(symbol: Symbol, field: FieldDescriptorProto, message: DescriptorProto) -> Symbol:
    number, oneof = field.number, oneof_of(field, message)
    prefix = f".{symbol.name.rpartition('.')[0]}."
    for nested in message.nested_type:
        if nested.options.map_entry and field.type_name == prefix + nested.name:
            key, value = map(type_name, nested.field)
            return replace(symbol, number=number, type=f"map<{key}, {value}>", presence="map")
    presence = _presence(field)
    return replace(symbol, number=number, type=type_name(field), presence=presence, oneof=oneof)


def _presence(field: FieldDescriptorProto) -> Presence:
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return "repeated"
    has = field.HasField("oneof_index") or field.type == FieldDescriptorProto.TYPE_MESSAGE
    return "explicit" if has else "implicit"


def _reserved(own: Symbol, proto: DescriptorProto | EnumDescriptorProto) -> Iterator[Symbol]:
    last = 1 if isinstance(proto, EnumDescriptorProto) else 0  # an enum's ranges include their end
    for gap in proto.reserved_range:
        for number in range(gap.start, gap.end + last):
            yield replace(own, kind="reserved", number=number, comment="")
    for word in proto.reserved_name:
        yield replace(own, kind="reserved", type=word, comment="")


def type_name(field: FieldDescriptorProto) -> str:
    """A field's type as in a proto file, with the full names of messages and enums."""
    if field.type_name:
        return field.type_name.lstrip(".")
    return SCALARS[field.type]


def oneof_of(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """The oneof of a field; "" for none and for an `optional` field."""
    belongs = field.HasField("oneof_index") and not field.proto3_optional
    return message.oneof_decl[field.oneof_index].name if belongs else ""


def usual_json_name(name: str) -> str:
    """The default JSON name of a field, which generated code leaves out."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)
