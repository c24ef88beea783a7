"""Reads the model of a contract from descriptors: presence, defaults, edition features, places.

Two releases of a large contract differ in few of their messages, so each message is read on first
use. What is needed of all of them comes straight from the descriptors.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool

from smg_proto._descriptors import declarations, oneof_of, usual_json_name
from smg_proto.compat._contract import Enum, Field, Message, Presence, Rpc, Service
from smg_proto.compat._files import edition


@dataclass(frozen=True)
class Features:
    """The edition features that affect peers. proto2 and proto3 are two settings of them."""

    # The numbers are descriptor.proto's.
    field_presence: int = 1  # 2 is implicit, 3 required
    enum_type: int = 1  # 2 is closed
    utf8_validation: int = 2  # 3 is none
    message_encoding: int = 1  # 2 is delimited
    json_format: int = 1  # 2 is best effort

    def within(self, declared: Any) -> "Features":
        """These features, overridden by the options of a declaration."""
        if not declared.HasField("options"):
            return self
        features = getattr(declared.options, "features", None)
        if features is None:
            return self
        changed = {name: getattr(features, name) for name in _FEATURES if features.HasField(name)}
        return replace(self, **changed) if changed else self


_FEATURES = tuple(Features.__dataclass_fields__)
_PROTO2 = Features(enum_type=2, utf8_validation=3, json_format=2)
_PROTO3 = Features(field_presence=2)


@dataclass(frozen=True, slots=True)
class Raw:
    """The descriptor of a message, enum or extension, with inherited features."""

    name: str
    proto: Any  # DescriptorProto, EnumDescriptorProto or FieldDescriptorProto
    file: FileDescriptorProto
    features: Features  # its own; for an extension, those of its scope


T = TypeVar("T")


class Lazy(Mapping[str, T], Generic[T]):
    """Values by name, each created on first use."""

    def __init__(self, raw: Mapping[str, Raw], create: Callable[[Raw], T]) -> None:
        self._raw, self._create, self._values = raw, create, dict[str, T]()

    def __getitem__(self, name: str) -> T:
        if name not in self._values:
            self._values[name] = self._create(self._raw[name])
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)


class Reader:
    """Collects the declarations of all files of a contract, and reads them on demand."""

    def __init__(self, pool: DescriptorPool, files: Iterable[FileDescriptorProto]) -> None:
        self._pool = pool
        self.raw_messages: dict[str, Raw] = {}
        self.raw_enums: dict[str, Raw] = {}
        self.entries: dict[str, DescriptorProto] = {}  # of maps
        self.extensions: dict[str, list[Raw]] = {}  # by extended message
        self.services: dict[str, Service] = {}
        self.home: dict[str, FileDescriptorProto] = {}  # of top-level symbols
        for file in files:
            self._file(file)
        self.messages: Mapping[str, Message] = Lazy(self.raw_messages, self._message)
        self.enums: Mapping[str, Enum] = Lazy(self.raw_enums, _enum)

    def _file(self, file: FileDescriptorProto) -> None:
        package = f"{file.package}." if file.package else ""
        features = (_PROTO2, _PROTO3, Features())[min(edition(file), 1000) - 998].within(file)
        for kind in (file.message_type, file.enum_type, file.service, file.extension):
            self.home |= {package + declared.name: file for declared in kind}
        todo = [(message, package, features) for message in file.message_type]
        self._enums(file.enum_type, package, file, features)
        self._extensions(file.extension, package, file, features)
        while todo:
            message, prefix, inherited = todo.pop()
            name, inside = prefix + message.name, inherited.within(message)
            if message.HasField("options") and message.options.map_entry:
                self.entries[name] = message
                continue
            self.raw_messages[name] = Raw(name, message, file, inside)
            if message.nested_type or message.enum_type or message.extension:
                todo += [(nested, f"{name}.", inside) for nested in message.nested_type]
                self._enums(message.enum_type, f"{name}.", file, inside)
                self._extensions(message.extension, f"{name}.", file, inside)
        for service in file.service:
            name = package + service.name
            self.services[name] = _service(name, service, file)

    def _enums(
        self,
        enums: Iterable[EnumDescriptorProto],
        prefix: str,
        file: FileDescriptorProto,
        features: Features,
    ) -> None:
        for enum in enums:
            name = prefix + enum.name
            self.raw_enums[name] = Raw(name, enum, file, features.within(enum))

    def _extensions(
        self,
        extensions: Iterable[FieldDescriptorProto],
        prefix: str,
        file: FileDescriptorProto,
        features: Features,
    ) -> None:
        for extension in extensions:
            extended = self.extensions.setdefault(extension.extendee.lstrip("."), [])
            extended.append(Raw(prefix + extension.name, extension, file, features))

    def held(self, name: str) -> Iterator[tuple[str, int, str]]:
        """The types of a message's fields: type, number, full name of the field."""
        raw = self.raw_messages[name]
        for field in raw.proto.field:
            if field.type_name:
                kind = field.type_name.lstrip(".")
                if entry := self.entries.get(kind):
                    kind = entry.field[-1].type_name.lstrip(".")
                if kind:
                    yield kind, field.number, f"{name}.{field.name}"
        for extension in self.extensions.get(name, ()):
            if extension.proto.type_name:
                kind = extension.proto.type_name.lstrip(".")
                yield kind, extension.proto.number, extension.name

    def carriers(self) -> dict[str, list[tuple[str, int, str]]]:
        """For each type, the fields that have it: message, number, full name of the field."""
        by_type: dict[str, list[tuple[str, int, str]]] = {}
        entries = self.entries
        for name, raw in self.raw_messages.items():
            for field in raw.proto.field:
                if kind := field.type_name[1:]:
                    if kind in entries and not (kind := entries[kind].field[-1].type_name[1:]):
                        continue
                    carrier = name, field.number, f"{name}.{field.name}"
                    by_type.setdefault(kind, []).append(carrier)
        for name, extensions in self.extensions.items():
            for extension in extensions:
                if kind := extension.proto.type_name[1:]:
                    carrier = name, extension.proto.number, extension.name
                    by_type.setdefault(kind, []).append(carrier)
        return by_type

    def _message(self, raw: Raw) -> Message:
        name, message = raw.name, raw.proto
        fields = self._fields(message, name, raw.features)
        for extension in self.extensions.get(name, ()):
            descriptor = self._pool.FindExtensionByName(extension.name)
            parent, json_name = extension.name.rpartition(".")[0], f"[{extension.name}]"
            field = _field(extension.proto, parent, descriptor, extension.features)
            field = replace(field, name=extension.name, json_name=json_name, extension=True)
            fields[field.number] = field
        return Message(
            name,
            raw.file.package,
            dict(sorted(fields.items())),
            tuple(range(span.start, span.end) for span in message.reserved_range),
            message.options.deprecated,
            tuple(range(span.start, span.end) for span in message.extension_range),
            message.options.message_set_wire_format,
            raw.features.json_format == 1,
            raw.file.name,
        )

    def _fields(self, message: DescriptorProto, name: str, features: Features) -> dict[int, Field]:
        descriptors = self._pool.FindMessageTypeByName(name).fields_by_number
        fields: dict[int, Field] = {}
        for proto in message.field:
            oneof, map_entry = oneof_of(proto, message), None
            kind = proto.type_name.lstrip(".")
            if kind and (entry := self.entries.get(kind)):
                inner = self._fields(entry, kind, features.within(entry))
                map_entry = Message(kind, "", inner)
            known = descriptors[proto.number]
            fields[proto.number] = _field(proto, name, known, features, oneof, map_entry)
        return fields


def _enum(raw: Raw) -> Enum:
    return Enum(
        raw.name,
        raw.file.package,
        {value.name: value.number for value in raw.proto.value},
        frozenset(value.name for value in raw.proto.value if value.options.deprecated),
        closed=raw.features.enum_type == 2,
        strict_json=raw.features.json_format == 1,
    )


def _service(name: str, service: ServiceDescriptorProto, file: FileDescriptorProto) -> Service:
    rpcs = {rpc.name: _rpc(f"{name}.{rpc.name}", rpc) for rpc in service.method}
    return Service(name, file.package, rpcs, service.options.deprecated, file.name)


def _rpc(name: str, rpc: MethodDescriptorProto) -> Rpc:
    return Rpc(
        name,
        rpc.input_type.lstrip("."),
        rpc.output_type.lstrip("."),
        rpc.client_streaming,
        rpc.server_streaming,
        rpc.options.deprecated,
        MethodOptions.IdempotencyLevel.Name(rpc.options.idempotency_level),
    )


def _field(
    field: FieldDescriptorProto,
    parent: str,
    known: FieldDescriptor,
    features: Features,
    oneof: str = "",
    entry: Message | None = None,
) -> Field:
    features = features.within(field)
    in_oneof = field.HasField("oneof_index")
    presence: Presence = "explicit" if known.has_presence else "implicit"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        presence = "repeated"
    elif field.label == FieldDescriptorProto.LABEL_REQUIRED or (
        features.field_presence == 3 and not in_oneof and known.has_presence
    ):
        presence = "required"
    return Field(
        name=field.name,
        symbol=f"{parent}.{field.name}" if parent else field.name,
        number=field.number,
        kind=known.type,
        type_name=field.type_name.lstrip("."),
        presence=presence,
        oneof=oneof,
        json_name=field.json_name or usual_json_name(field.name),
        deprecated=field.options.deprecated,
        entry=entry,
        default=_default(known, presence),
        utf8=known.type == FieldDescriptor.TYPE_STRING and features.utf8_validation == 2,
        jstype=field.options.jstype,
    )


def _default(known: FieldDescriptor, presence: Presence) -> object:
    if presence == "repeated" or known.message_type is not None:
        return None
    default: object = known.default_value
    # NaN is not equal to itself, and -0.0 is equal to 0.0.
    return repr(default) if isinstance(default, float) else default


def places(file: FileDescriptorProto) -> Iterator[tuple[str, int]]:
    """The symbols of a file with their lines, if the file has source information."""
    # The path of a declaration has an even length; other paths are of its parts.
    lines = {
        tuple(path): place.span[0] + 1
        for place in file.source_code_info.location
        if len(path := place.path) % 2 == 0
    }
    for declared in declarations(file) if lines else ():
        if declared.kind != "file" and declared.path in lines:
            yield declared.name, lines[declared.path]
    package = f"{file.package}." if file.package else ""
    for index, extension in enumerate(file.extension):
        if (_EXTENSION, index) in lines:
            yield package + extension.name, lines[_EXTENSION, index]


_EXTENSION = 7  # the number of `extension` in FileDescriptorProto, for SourceCodeInfo paths
