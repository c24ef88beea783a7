"""From descriptors to the model of a contract: presence, defaults, features of editions, places."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    MethodOptions,
)
from google.protobuf.descriptor_pool import DescriptorPool

from smg_proto._descriptors import Declaration, declarations, oneof_of, usual_json_name
from smg_proto.compat._contract import Enum, Field, Message, Presence, Rpc, Service
from smg_proto.compat._files import edition


@dataclass(frozen=True)
class Features:
    """The features of editions that others notice; proto2 and proto3 are two settings of them."""

    # In descriptor.proto's numbers.
    field_presence: int = 1  # 2 is implicit, 3 required
    enum_type: int = 1  # 2 is closed
    utf8_validation: int = 2  # 3 is none
    json_format: int = 1  # 2 is best effort

    def within(self, options: Any) -> "Features":
        """These features, where the options do not set others."""
        features = getattr(options, "features", None)
        if features is None:
            return self
        changed = {name: getattr(features, name) for name in _FEATURES if features.HasField(name)}
        return replace(self, **changed) if changed else self


_FEATURES = tuple(Features.__dataclass_fields__)
_PROTO2 = Features(enum_type=2, utf8_validation=3, json_format=2)


class Reader:
    """Reads all files of a contract into its model."""

    def __init__(self, pool: DescriptorPool, files: Iterable[FileDescriptorProto]) -> None:
        self._pool = pool
        self.messages: dict[str, Message] = {}
        self.enums: dict[str, Enum] = {}
        self.services: dict[str, Service] = {}
        self.home: dict[str, str] = {}  # top-level symbol: its file
        self._extensions: dict[str, dict[int, Field]] = {}
        for file in files:
            self._file(file)
        for name, extensions in self._extensions.items():
            if message := self.messages.get(name):
                fields = dict(sorted({**message.fields, **extensions}.items()))
                self.messages[name] = replace(message, fields=fields)

    def _file(self, file: FileDescriptorProto) -> None:
        package = f"{file.package}." if file.package else ""
        top = (_PROTO2 if edition(file) == 998 else Features()).within(file.options)
        within: dict[tuple[int, ...], Features] = {}  # by the path of a message
        for declared in declarations(file):
            name, proto = declared.name, declared.proto
            around = within.get(declared.path[:-2], top)
            if len(declared.path) == 2:
                self.home[name] = file.name
            match declared.kind:
                case "message":
                    within[declared.path] = features = around.within(proto.options)
                    self._add_extensions(proto.extension, f"{name}.", features)
                    if not declared.implied:
                        self.messages[name] = self._message(declared, features)
                case "enum":
                    self.enums[name] = _enum(declared, around.within(proto.options))
                case "service":
                    self.services[name] = Service(
                        name,
                        file.package,
                        {rpc.name: _rpc(f"{name}.{rpc.name}", rpc) for rpc in proto.method},
                        proto.options.deprecated,
                        file.name,
                    )
                case _:
                    pass  # a part of one of these
        self._add_extensions(file.extension, package, top)
        self.home |= {package + extension.name: file.name for extension in file.extension}

    def _message(self, declared: Declaration, features: Features) -> Message:
        message: DescriptorProto = declared.proto
        entries = {
            f"{declared.name}.{nested.name}": self._fields(
                nested, f"{declared.name}.{nested.name}", features.within(nested.options), {}
            )
            for nested in message.nested_type
            if nested.options.map_entry
        }
        return Message(
            declared.name,
            declared.file.package,
            self._fields(message, declared.name, features, entries),
            tuple(range(span.start, span.end) for span in message.reserved_range),
            message.options.deprecated,
            tuple(range(span.start, span.end) for span in message.extension_range),
            message.options.message_set_wire_format,
            features.json_format == 1,
            declared.file.name,
        )

    def _fields(
        self,
        message: DescriptorProto,
        name: str,
        features: Features,
        entries: Mapping[str, Mapping[int, Field]],
    ) -> dict[int, Field]:
        known = self._pool.FindMessageTypeByName(name).fields_by_number
        found: dict[int, Field] = {}
        for field in sorted(message.field, key=lambda field: field.number):
            read = _field(field, name, known[field.number], features)
            if entry := entries.get(read.type_name):
                read = replace(read, entry=Message(read.type_name, "", entry))
            if oneof := oneof_of(field, message):
                read = replace(read, oneof=oneof)
            found[read.number] = read
        return found

    def _add_extensions(
        self, extensions: Iterable[FieldDescriptorProto], prefix: str, features: Features
    ) -> None:
        for extension in extensions:
            name = prefix + extension.name
            known = self._pool.FindExtensionByName(name)
            read = _field(extension, prefix.rstrip("."), known, features)
            read = replace(read, name=name, json_name=f"[{name}]", extension=True)
            self._extensions.setdefault(extension.extendee.lstrip("."), {})[read.number] = read


def _enum(declared: Declaration, features: Features) -> Enum:
    return Enum(
        declared.name,
        declared.file.package,
        {value.name: value.number for value in declared.proto.value},
        frozenset(value.name for value in declared.proto.value if value.options.deprecated),
        closed=features.enum_type == 2,
        strict_json=features.json_format == 1,
        file=declared.file.name,
    )


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
    field: FieldDescriptorProto, parent: str, known: FieldDescriptor, features: Features
) -> Field:
    features = features.within(field.options)
    in_oneof = field.HasField("oneof_index") and not field.proto3_optional
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
        oneof="",
        json_name=field.json_name or usual_json_name(field.name),
        deprecated=field.options.deprecated,
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
    """The symbols of a file, each with its line, as far as its source information tells."""
    lines = {tuple(place.path): place.span[0] + 1 for place in file.source_code_info.location}
    for declared in declarations(file):
        if declared.kind != "file" and declared.path in lines:
            yield declared.name, lines[declared.path]
    package = f"{file.package}." if file.package else ""
    for index, extension in enumerate(file.extension):
        if (_EXTENSION, index) in lines:
            yield package + extension.name, lines[_EXTENSION, index]


_EXTENSION = 7  # of FileDescriptorProto, as SourceCodeInfo spells the way to a declaration
