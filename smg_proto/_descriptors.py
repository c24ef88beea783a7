"""Every symbol of a FileDescriptorSet as one flat record: what it is, and what its comment says.

The reference pages, the frozen contracts and `smg-proto show` are all written from these records.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

Kind = Literal["file", "service", "rpc", "message", "field", "oneof", "enum", "value", "reserved"]
Presence = Literal["", "implicit", "explicit", "repeated", "map"]

# The release that introduced a symbol closes its comment: "Since 0.4.24."
_SINCE = re.compile(r"\s*\b(?:Since|First\s+published\s+in)\s+(\d+\.\d+\.\d+)\.\s*$")
# Field numbers of descriptor.proto, as SourceCodeInfo spells the way to a symbol.
_IN_FILE = {"message": 4, "enum": 5, "service": 6}
_IN_MESSAGE = {"field": 2, "message": 3, "enum": 4, "oneof": 8}
_SYNTAX = (12,)


@dataclass(frozen=True)
class Symbol:
    """One symbol. `name` is the full name without a leading dot; a value's is Enum.VALUE."""

    kind: Kind
    name: str
    package: str
    file: str
    number: int = 0
    type: str = ""  # field: "string", "map<string, int32>", "pkg.Message"; rpc: "In -> stream Out"
    presence: Presence = ""  # fields only; "explicit": unset and zero differ
    oneof: str = ""  # the oneof that a field belongs to
    comment: str = ""  # without its "Since"
    since: str = ""  # the symbol's own, else that of what contains it
    deprecated: bool = False


def symbols(files: FileDescriptorSet) -> Iterator[Symbol]:
    """The symbols of all files, in the order of the files, each before what it contains."""
    for file in files.file:
        yield from _Reader(file).file()


class _Reader:
    """Walks one file; `path` is the way to a symbol that its comments are filed under."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(place.path): place.leading_comments for place in file.source_code_info.location
        }

    def file(self) -> Iterator[Symbol]:
        file = self._file
        whole = self._symbol("file", file.name, _SYNTAX, "", deprecated=file.options.deprecated)
        yield whole
        prefix = f"{file.package}." if file.package else ""
        for i, service in enumerate(file.service):
            yield from self._service(service, prefix, (_IN_FILE["service"], i), whole.since)
        for i, message in enumerate(file.message_type):
            yield from self._message(message, prefix, (_IN_FILE["message"], i), whole.since)
        for i, enum in enumerate(file.enum_type):
            yield from self._enum(enum, prefix, (_IN_FILE["enum"], i), whole.since)

    def _symbol(
        self, kind: Kind, name: str, path: Sequence[int], since: str, *, deprecated: bool = False
    ) -> Symbol:
        lines = self._comments.get(tuple(path), "").splitlines()
        comment = "\n".join(line.removeprefix(" ").rstrip() for line in lines).strip()
        if found := _SINCE.search(comment):
            comment, since = comment[: found.start()], found[1]
        return Symbol(
            kind,
            name,
            self._file.package,
            self._file.name,
            comment=comment,
            since=since,
            deprecated=deprecated,
        )

    def _service(
        self, service: ServiceDescriptorProto, prefix: str, path: tuple[int, ...], since: str
    ) -> Iterator[Symbol]:
        own = self._symbol(
            "service", prefix + service.name, path, since, deprecated=service.options.deprecated
        )
        yield own
        for i, method in enumerate(service.method):
            name = f"{own.name}.{method.name}"
            rpc = self._symbol(
                "rpc", name, (*path, 2, i), own.since, deprecated=method.options.deprecated
            )
            sent = ("stream " if method.client_streaming else "") + method.input_type.lstrip(".")
            got = ("stream " if method.server_streaming else "") + method.output_type.lstrip(".")
            yield replace(rpc, type=f"{sent} -> {got}")

    def _message(
        self, message: DescriptorProto, prefix: str, path: tuple[int, ...], since: str
    ) -> Iterator[Symbol]:
        name = prefix + message.name
        own = self._symbol("message", name, path, since, deprecated=message.options.deprecated)
        yield own
        for gap in message.reserved_range:
            for number in range(gap.start, gap.end):
                yield replace(own, kind="reserved", number=number, comment="")
        for word in message.reserved_name:
            yield replace(own, kind="reserved", type=word, comment="")
        real = {f.oneof_index for f in message.field if f.HasField("oneof_index")} - {
            f.oneof_index for f in message.field if f.proto3_optional
        }
        for i, oneof in enumerate(message.oneof_decl):
            if i in real:
                oneof_path = (*path, _IN_MESSAGE["oneof"], i)
                yield self._symbol("oneof", f"{name}.{oneof.name}", oneof_path, own.since)
        entries = {f".{name}.{m.name}": m for m in message.nested_type if m.options.map_entry}
        for i, field in enumerate(message.field):
            symbol = self._symbol(
                "field",
                f"{name}.{field.name}",
                (*path, _IN_MESSAGE["field"], i),
                own.since,
                deprecated=field.options.deprecated,
            )
            entry = entries.get(field.type_name)
            yield replace(
                symbol,
                number=field.number,
                type=_map_type(entry) if entry else _type(field),
                presence="map" if entry else _presence(field),
                oneof=message.oneof_decl[field.oneof_index].name
                if field.HasField("oneof_index") and field.oneof_index in real
                else "",
            )
        for i, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                inner = (*path, _IN_MESSAGE["message"], i)
                yield from self._message(nested, f"{name}.", inner, own.since)
        for i, enum in enumerate(message.enum_type):
            yield from self._enum(enum, f"{name}.", (*path, _IN_MESSAGE["enum"], i), own.since)

    def _enum(
        self, enum: EnumDescriptorProto, prefix: str, path: tuple[int, ...], since: str
    ) -> Iterator[Symbol]:
        name = prefix + enum.name
        own = self._symbol("enum", name, path, since, deprecated=enum.options.deprecated)
        yield own
        for gap in enum.reserved_range:
            for number in range(gap.start, gap.end + 1):
                yield replace(own, kind="reserved", number=number, comment="")
        for word in enum.reserved_name:
            yield replace(own, kind="reserved", type=word, comment="")
        for i, value in enumerate(enum.value):
            symbol = self._symbol(
                "value",
                f"{name}.{value.name}",
                (*path, 2, i),
                own.since,
                deprecated=value.options.deprecated,
            )
            yield replace(symbol, number=value.number)


def _type(field: FieldDescriptorProto) -> str:
    """The type as a proto file spells it, message and enum names in full."""
    if field.type_name:
        return field.type_name.lstrip(".")
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _map_type(entry: DescriptorProto) -> str:
    key, value = entry.field
    return f"map<{_type(key)}, {_type(value)}>"


def _presence(field: FieldDescriptorProto) -> Presence:
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return "repeated"
    has = field.HasField("oneof_index") or field.type == FieldDescriptorProto.TYPE_MESSAGE
    return "explicit" if has else "implicit"
