"""Descriptors as plain facts, for comparing contracts that cannot share one descriptor pool."""

import ast
import zipfile
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from _frozen import Frozen
from _upstream import EXPERIMENTAL, Upstream
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor
from google.protobuf.message import Message

# Packages that this project has and the published one has not.
OWN_PACKAGES = ("smg.v1", "entity.grpc", "sagellm.v1", *sorted(EXPERIMENTAL))
Fact: TypeAlias = tuple[object, ...]


def modules() -> list[Any]:
    """Every generated module with messages that stands for one proto file."""
    import smg_proto

    paths = Path(smg_proto.__file__).parent.glob("**/*_pb2.py")
    folder = Path(smg_proto.__file__).parents[1]
    names = [".".join(path.relative_to(folder).with_suffix("").parts) for path in paths]
    found = [import_module(name) for name in sorted(names)]
    # A facade such as smg_pb2 stands for several files, whose modules are here.
    return [module for module in found if isinstance(module.DESCRIPTOR, FileDescriptor)]


def message_classes() -> list[type[Message]]:
    """The class of every message of the package, nested ones too, map entries not."""
    found = [
        descriptor
        for module in modules()
        for top in module.DESCRIPTOR.message_types_by_name.values()
        for descriptor in nested(top)
    ]
    return [message_factory.GetMessageClass(descriptor) for descriptor in found]


def nested(descriptor: Descriptor) -> Iterator[Descriptor]:
    if not descriptor.GetOptions().map_entry:
        yield descriptor
        for inner in descriptor.nested_types:
            yield from nested(inner)


def published_files(wheel: Path) -> list[descriptor_pb2.FileDescriptorProto]:
    """The descriptors inside the generated modules of a published wheel; none of it is run."""
    files = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith("_pb2.py"):
                for node in ast.walk(ast.parse(archive.read(name))):
                    match node:
                        case ast.Call(
                            func=ast.Attribute(attr="AddSerializedFile"),
                            args=[ast.Constant(value=bytes(data))],
                        ):
                            files.append(descriptor_pb2.FileDescriptorProto.FromString(data))
    return files


def as_others_have_it(upstream: Upstream) -> descriptor_pb2.FileDescriptorSet:
    """The newest release of a mirrored contract, as Python code that others generate registers it.

    Under file names that say the package; buf's code names every field for JSON, protoc's does not.
    """
    files = Frozen.here().descriptors(upstream.frozen[-1])
    for file in files.file:
        file.name = upstream.names.get(file.name, file.name)
        for message in file.message_type if not upstream.json_names else ():
            _without_json_names(message)
    return files


def _without_json_names(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        field.ClearField("json_name")
    for inner in message.nested_type:
        _without_json_names(inner)


def load(protos: Iterable[descriptor_pb2.FileDescriptorProto]) -> list[FileDescriptor]:
    """The files in a descriptor pool of their own."""
    pool = descriptor_pool.DescriptorPool()
    waiting = {proto.name: proto for proto in protos}
    names = list(waiting)

    def add(name: str) -> None:
        if proto := waiting.pop(name, None):
            for needed in proto.dependency:
                add(needed)
            pool.AddSerializedFile(proto.SerializeToString())
        elif name.startswith("google/protobuf/"):
            known = descriptor_pool.Default().FindFileByName(name)
            pool.AddSerializedFile(known.serialized_pb)

    import_module("google.protobuf.struct_pb2")
    import_module("google.protobuf.timestamp_pb2")
    for name in names:
        add(name)
    return [pool.FindFileByName(name) for name in names]


def facts(files: Iterable[FileDescriptor]) -> dict[str, Fact]:
    """All that a peer or a program can tell of a contract: full name of a symbol to its facts."""
    found: dict[str, Fact] = {}
    for file in files:
        for message in file.message_types_by_name.values():
            found |= _message(message)
        for enum in file.enum_types_by_name.values():
            found |= _enum(enum)
        for service in file.services_by_name.values():
            found[service.full_name] = ("service",)
            for method in service.methods:
                found[f"/{service.full_name}/{method.name}"] = (
                    "rpc",
                    method.input_type.full_name,
                    method.output_type.full_name,
                    method.client_streaming,
                    method.server_streaming,
                )
    return found


def _message(message: Descriptor) -> dict[str, Fact]:
    proto = descriptor_pb2.DescriptorProto()
    message.CopyToProto(proto)  # type: ignore[no-untyped-call, unused-ignore]
    found: dict[str, Fact] = {message.full_name: ("message", proto.options.map_entry)}
    for reserved in proto.reserved_range:
        found[f"{message.full_name} reserves {reserved.start} to {reserved.end - 1}"] = (
            "reserved",
        )
    for name in proto.reserved_name:
        found[f"{message.full_name} reserves {name}"] = ("reserved",)
    for oneof in message.oneofs:
        found[f"oneof {oneof.full_name}"] = ("oneof", sorted(field.name for field in oneof.fields))
    for field, written in zip(message.fields, proto.field, strict=True):
        kind = field.message_type or field.enum_type
        found[field.full_name] = (
            "field",
            field.number,
            field.type,
            kind.full_name if kind else None,
            written.label,
            field.has_presence,
            field.containing_oneof.name if field.containing_oneof else None,
            field.json_name,
            field.default_value if not kind and written.label != written.LABEL_REPEATED else None,
            field.GetOptions().packed,
        )
    for inner in message.nested_types:
        found |= _message(inner)
    for enum in message.enum_types:
        found |= _enum(enum)
    return found


def _enum(enum: EnumDescriptor) -> dict[str, Fact]:
    found: dict[str, Fact] = {enum.full_name: ("enum",)}
    for value in enum.values:
        found[f"{enum.full_name}.{value.name}"] = ("value", value.number)
    return found
