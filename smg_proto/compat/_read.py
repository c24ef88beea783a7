"""From descriptors to the model of a contract: presence, defaults, features of editions, places."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool

from smg_proto.compat._contract import Enum, Field, Message, Presence, Rpc, Service
from smg_proto.compat._descriptors import edition, usual_json_name


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
        self.home: dict[str, str] = {}
        self._extensions: dict[str, dict[int, Field]] = {}
        for file in files:
            self._read_file(file)
        for name, extensions in self._extensions.items():
            if message := self.messages.get(name):
                fields = dict(sorted({**message.fields, **extensions}.items()))
                self.messages[name] = replace(message, fields=fields)

    def _read_file(self, file: FileDescriptorProto) -> None:
        prefix = f"{file.package}." if file.package else ""
        features = (_PROTO2 if edition(file) == 998 else Features()).within(file.options)
        kinds = (file.message_type, file.enum_type, file.service, file.extension)
        for declared in (one for kind in kinds for one in kind):
            self.home[prefix + declared.name] = file.name
        for message in file.message_type:
            self._read_message(message, prefix, file, features)
        for enum in file.enum_type:
            self._read_enum(enum, prefix, file, features)
        self._read_extensions(file.extension, prefix, features)
        for service in file.service:
            self.services[prefix + service.name] = _service(service, prefix, file)

    def _read_enum(
        self,
        enum: EnumDescriptorProto,
        prefix: str,
        file: FileDescriptorProto,
        features: Features,
    ) -> None:
        features = features.within(enum.options)
        name = prefix + enum.name
        self.enums[name] = Enum(
            name,
            file.package,
            {value.name: value.number for value in enum.value},
            frozenset(value.name for value in enum.value if value.options.deprecated),
            closed=features.enum_type == 2,
            strict_json=features.json_format == 1,
            file=file.name,
        )

    def _read_message(
        self,
        message: DescriptorProto,
        prefix: str,
        file: FileDescriptorProto,
        features: Features,
    ) -> Message:
        features = features.within(message.options)
        name = prefix + message.name
        entries: dict[str, Message] = {}
        for nested in message.nested_type:
            inner = self._read_message(nested, f"{name}.", file, features)
            if nested.options.map_entry:
                entries[inner.name] = inner
        for enum in message.enum_type:
            self._read_enum(enum, f"{name}.", file, features)
        self._read_extensions(message.extension, f"{name}.", features)
        known = self._pool.FindMessageTypeByName(name).fields_by_number
        oneofs = [oneof.name for oneof in message.oneof_decl]
        fields = {
            field.number: _field(field, name, oneofs, known[field.number], entries, features)
            for field in sorted(message.field, key=lambda field: field.number)
        }
        read = Message(
            name,
            file.package,
            fields,
            tuple(range(span.start, span.end) for span in message.reserved_range),
            message.options.deprecated,
            tuple(range(span.start, span.end) for span in message.extension_range),
            message.options.message_set_wire_format,
            features.json_format == 1,
            file.name,
        )
        if not message.options.map_entry:
            self.messages[name] = read
        return read

    def _read_extensions(
        self, extensions: Iterable[FieldDescriptorProto], prefix: str, features: Features
    ) -> None:
        for extension in extensions:
            name = prefix + extension.name
            known = self._pool.FindExtensionByName(name)
            read = _field(extension, prefix.rstrip("."), (), known, {}, features)
            read = replace(read, name=name, json_name=f"[{name}]", extension=True)
            self._extensions.setdefault(extension.extendee.lstrip("."), {})[read.number] = read


def _service(service: ServiceDescriptorProto, prefix: str, file: FileDescriptorProto) -> Service:
    name = prefix + service.name
    rpcs = {
        method.name: Rpc(
            f"{name}.{method.name}",
            method.input_type.lstrip("."),
            method.output_type.lstrip("."),
            method.client_streaming,
            method.server_streaming,
            method.options.deprecated,
            MethodOptions.IdempotencyLevel.Name(method.options.idempotency_level),
        )
        for method in service.method
    }
    return Service(name, file.package, rpcs, service.options.deprecated, file.name)


def _field(
    field: FieldDescriptorProto,
    parent: str,
    oneofs: Sequence[str],
    known: FieldDescriptor,
    entries: Mapping[str, Message],
    features: Features,
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
    type_name = field.type_name.lstrip(".")
    return Field(
        name=field.name,
        symbol=f"{parent}.{field.name}" if parent else field.name,
        number=field.number,
        kind=known.type,
        type_name=type_name,
        presence=presence,
        oneof=oneofs[field.oneof_index] if in_oneof else "",
        json_name=field.json_name or usual_json_name(field.name),
        deprecated=field.options.deprecated,
        entry=entries.get(type_name),
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
    for location in file.source_code_info.location:
        if (name := _named(file, location.path)) is not None:
            yield name, location.span[0] + 1


def _named(file: FileDescriptorProto, path: Sequence[int]) -> str | None:
    """The symbol at a path of numbers and indexes, None where it is something else."""
    if not path or len(path) % 2:
        return None
    at: Any = file
    names = [file.package] if file.package else []
    for number, index in zip(path[::2], path[1::2], strict=True):
        field = at.DESCRIPTOR.fields_by_number.get(number)
        if field is None or field.name not in _DECLARING:
            return None
        members = getattr(at, field.name)
        if index >= len(members):
            return None
        at = members[index]
        names.append(at.name)
    return ".".join(names)


_DECLARING = {
    "message_type", "nested_type", "enum_type", "service", "extension", "field", "method", "value",
    "oneof_decl",
}  # fmt: skip
