"""Contracts as plain facts, for comparing those that cannot share one descriptor pool."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from _frozen import Frozen
from _upstream import EXPERIMENTAL, Upstream
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message

from smg_proto._descriptors import Declaration, declarations, usual_json_name
from smg_proto.compat import load

# Packages that this project has and the published one has not.
OWN_PACKAGES = ("smg.v1", "entity.grpc", "sagellm.v1", *sorted(EXPERIMENTAL))
Fact: TypeAlias = tuple[str, ...]


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


def published_files(wheel: Path) -> list[FileDescriptorProto]:
    """The descriptors inside the generated modules of a published wheel; none of it is run."""
    return [file for file in load(wheel).files if not file.name.startswith("google/")]


def as_others_have_it(upstream: Upstream) -> FileDescriptorSet:
    """The newest release of a mirrored contract, as Python code that others generate registers it.

    Under file names that say the package; buf's code names every field for JSON, protoc's does not.
    """
    files = Frozen.here().descriptors(upstream.frozen[-1])
    for file in files.file:
        file.name = upstream.names.get(file.name, file.name)
        for declared in declarations(file):
            if declared.kind == "field" and not upstream.json_names:
                declared.proto.ClearField("json_name")
    return files


def facts(files: Iterable[FileDescriptorProto]) -> dict[str, Fact]:
    """All that a peer or a program can tell of a contract: kind and full name to the facts."""
    return {
        f"{declared.kind} {declared.name}": _fact(declared)
        for file in files
        for declared in declarations(file)
        if declared.kind != "file"
    }


def _fact(declared: Declaration) -> Fact:
    """The declaration without what it contains, comments, and how its file is laid out."""
    proto = type(declared.proto).FromString(declared.proto.SerializeToString())
    match declared.kind:
        case "service":
            proto.ClearField("method")
        case "enum":
            proto.ClearField("value")
        case "message":
            for part in ("field", "nested_type", "enum_type", "oneof_decl"):
                proto.ClearField(part)
        case "field":
            proto.json_name = proto.json_name or usual_json_name(proto.name)
            oneof = proto.HasField("oneof_index")
            name = declared.parent.oneof_decl[proto.oneof_index].name if oneof else ""
            proto.ClearField("oneof_index")
            return str(proto), name
        case _:
            pass
    return (str(proto),)
