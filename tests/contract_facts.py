"""Contracts as plain facts, for comparing those that cannot share one descriptor pool."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message

from smg_proto._descriptors import Declaration, declarations, usual_json_name
from smg_proto.compat import load

# Packages that this project has and the published one has not.
OWN_PACKAGES = ("smg.v1", "entity.grpc", "sagellm.v1")
Fact: TypeAlias = tuple[str, ...]


def modules() -> list[Any]:
    """Every generated module with messages that stands for one proto file."""
    import smg_proto

    folder = Path(smg_proto.__file__).parent
    names = [path.stem for path in folder.glob("*_pb2.py") if path.stem != "smg_pb2"]
    names += [f"v1.{path.stem}" for path in folder.glob("v1/*_pb2.py")]
    return [import_module(f"smg_proto.{name}") for name in sorted(names)]


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
