"""A contract: the messages, enums and services of one release, and classes to try them with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.message_factory import GetMessageClass

from smg_proto._descriptors import Declaration, declarations, oneof_of, usual_json_name
from smg_proto.compat._files import in_order, pool_of

MESSAGE_KINDS = (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP)
# Imported by contracts, or served beside them; not theirs to change.
FOREIGN = ("google.", "grpc.")

Presence = Literal["implicit", "explicit", "required", "repeated"]


@dataclass(frozen=True)
class Field:
    name: str
    number: int
    kind: int  # FieldDescriptor.TYPE_*
    type_name: str  # of a message or enum, in full; "" for a scalar
    presence: Presence
    oneof: str  # "" for none; the hidden oneof of an `optional` is none
    json_name: str
    deprecated: bool
    entry: "Message | None"  # of a map: its key and value

    @property
    def repeated(self) -> bool:
        return self.presence == "repeated"

    @property
    def is_message(self) -> bool:
        return self.kind in MESSAGE_KINDS

    @property
    def is_enum(self) -> bool:
        return self.kind == FieldDescriptor.TYPE_ENUM

    @property
    def value(self) -> "Field":
        """What it holds: a map's value, else itself."""
        return self.entry.fields[2] if self.entry else self

    @property
    def spelled(self) -> str:
        """The type as a proto file spells it."""
        if self.entry:
            key, value = self.entry.fields[1], self.entry.fields[2]
            return f"map<{key.spelled}, {value.spelled}>"
        kind = self.type_name or FieldDescriptorProto.Type.Name(_type(self.kind))
        word = kind.removeprefix("TYPE_").lower() if not self.type_name else kind
        return f"repeated {word}" if self.repeated else word


@dataclass(frozen=True)
class Message:
    name: str
    package: str
    fields: Mapping[int, Field]
    reserved: tuple[range, ...]
    deprecated: bool

    @cached_property
    def by_name(self) -> Mapping[str, Field]:
        return {field.name: field for field in self.fields.values()}

    @cached_property
    def oneofs(self) -> Mapping[str, frozenset[int]]:
        names = {field.oneof for field in self.fields.values()} - {""}
        return {
            name: frozenset(f.number for f in self.fields.values() if f.oneof == name)
            for name in sorted(names)
        }

    def reserves(self, number: int) -> bool:
        return any(number in span for span in self.reserved)


@dataclass(frozen=True)
class Enum:
    name: str
    package: str
    numbers: Mapping[str, int]  # value name to number; aliases share one
    deprecated: frozenset[str]

    @cached_property
    def names(self) -> Mapping[int, frozenset[str]]:
        return {
            number: frozenset(name for name, n in self.numbers.items() if n == number)
            for number in self.numbers.values()
        }


@dataclass(frozen=True)
class Rpc:
    name: str  # package.Service.Method
    request: str
    response: str
    client_streaming: bool
    server_streaming: bool
    deprecated: bool

    @property
    def streaming(self) -> str:
        match self.client_streaming, self.server_streaming:
            case False, False:
                return "unary"
            case False, True:
                return "server streaming"
            case True, False:
                return "client streaming"
            case _:
                return "bidirectional streaming"


@dataclass(frozen=True)
class Service:
    name: str
    package: str
    rpcs: Mapping[str, Rpc]  # by the method's own name


class Contract:
    """One side of a comparison. Raises ContractError when the descriptors do not fit together."""

    def __init__(self, files: FileDescriptorSet, origin: str) -> None:
        self.origin = origin
        self.files: list[FileDescriptorProto] = in_order(files, origin)  # with what they import
        self._pool = pool_of(self.files, origin)
        self.messages: dict[str, Message] = {}
        self.enums: dict[str, Enum] = {}
        self.services: dict[str, Service] = {}
        for file in self.files:
            for declared in declarations(file):
                self._read(declared)

    @cached_property
    def packages(self) -> frozenset[str]:
        """The packages that are compared: not what google and grpc themselves own."""
        names = {file.package for file in self.files}
        return frozenset(name for name in names if not f"{name}.".startswith(FOREIGN))

    def message_class(self, name: str) -> type[ProtoMessage]:
        """The class of a message of this contract; two contracts never share one."""
        return GetMessageClass(self._pool.FindMessageTypeByName(name))

    @cached_property
    def carriers(self) -> Mapping[str, list[tuple[Message, Field]]]:
        """For each message and enum: the fields that are of that type, map values included."""
        found: dict[str, list[tuple[Message, Field]]] = {}
        for message in self.messages.values():
            for field in message.fields.values():
                for inner in (field, *(field.entry.fields.values() if field.entry else ())):
                    if inner.type_name:
                        found.setdefault(inner.type_name, []).append((message, field))
        return found

    @cached_property
    def served(self) -> frozenset[str]:
        """The messages that an RPC takes or gives, and all that these carry."""
        rpcs = [rpc for service in self.services.values() for rpc in service.rpcs.values()]
        return self.reached({name for rpc in rpcs for name in (rpc.request, rpc.response)})

    def reached(self, names: set[str]) -> frozenset[str]:
        """These messages and all that their fields carry, enums too."""
        seen: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                if name in self.messages:
                    todo += [f.type_name for f in self._fields(name) if f.type_name]
        return frozenset(seen)

    def _fields(self, name: str) -> Iterator[Field]:
        for field in self.messages[name].fields.values():
            yield from field.entry.fields.values() if field.entry else (field,)

    def _read(self, declared: Declaration) -> None:
        name, proto, package = declared.name, declared.proto, declared.file.package
        match declared.kind:
            case "message" if not declared.implied:
                self.messages[name] = self._message(name, proto, package)
            case "enum":
                numbers = {value.name: value.number for value in proto.value}
                deprecated = frozenset(v.name for v in proto.value if v.options.deprecated)
                self.enums[name] = Enum(name, package, numbers, deprecated)
            case "service":
                rpcs = {rpc.name: _rpc(f"{name}.{rpc.name}", rpc) for rpc in proto.method}
                self.services[name] = Service(name, package, rpcs)
            case _:
                pass  # a part of one of these

    def _message(self, name: str, message: DescriptorProto, package: str) -> Message:
        entries = {
            f"{name}.{nested.name}": self._message(f"{name}.{nested.name}", nested, package)
            for nested in message.nested_type
            if nested.options.map_entry
        }
        known = self._pool.FindMessageTypeByName(name).fields_by_number
        fields = {
            field.number: _field(field, message, known[field.number], entries)
            for field in sorted(message.field, key=lambda field: field.number)
        }
        spans = tuple(range(span.start, span.end) for span in message.reserved_range)
        return Message(name, package, fields, spans, message.options.deprecated)


def _rpc(name: str, rpc: MethodDescriptorProto) -> Rpc:
    return Rpc(
        name,
        rpc.input_type.lstrip("."),
        rpc.output_type.lstrip("."),
        rpc.client_streaming,
        rpc.server_streaming,
        rpc.options.deprecated,
    )


def _field(
    field: FieldDescriptorProto,
    message: DescriptorProto,
    known: FieldDescriptor,
    entries: Mapping[str, Message],
) -> Field:
    presence: Presence = "explicit" if known.has_presence else "implicit"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        presence = "repeated"
    elif field.label == FieldDescriptorProto.LABEL_REQUIRED:
        presence = "required"
    type_name = field.type_name.lstrip(".")
    return Field(
        name=field.name,
        number=field.number,
        kind=known.type,
        type_name=type_name,
        presence=presence,
        oneof=oneof_of(field, message),
        json_name=field.json_name or usual_json_name(field.name),
        deprecated=field.options.deprecated,
        entry=entries.get(type_name),
    )


def _type(kind: int) -> FieldDescriptorProto.Type.ValueType:
    return FieldDescriptorProto.Type.ValueType(kind)
