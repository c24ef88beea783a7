"""The standard messages that this package describes for itself, against their originals."""

from importlib import import_module

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from smg_proto._standard import message_class
from smg_proto._standard_files import FILES

# Where the original of a package is; grpc's own has the reflection of v1 under its older name.
ORIGINALS = {
    "google.rpc": ("google.rpc.error_details_pb2", "google.rpc.status_pb2"),
    "grpc.health.v1": ("grpc_health.v1.health_pb2",),
    "grpc.reflection.v1": ("grpc_reflection.v1alpha.reflection_pb2",),
}
DESCRIBED = [
    f"{file.package}.{message.name}"
    for file in map(FileDescriptorProto.FromString, FILES)
    for message in file.message_type
    if file.package != "google.protobuf"
]


def original(name: str) -> Descriptor:
    package, _, short = name.rpartition(".")
    for module in map(import_module, ORIGINALS[package]):
        if found := module.DESCRIPTOR.message_types_by_name.get(short):
            return found  # type: ignore[no-any-return]
    raise AssertionError(f"no original of {name}")


def facts(field: FieldDescriptor) -> tuple[object, ...]:
    of = field.message_type or field.enum_type
    oneof = field.containing_oneof.name if field.containing_oneof else ""
    name = of.full_name.replace(".v1alpha.", ".v1.") if of else ""
    return field.number, field.type, name, oneof, field.has_presence


def assert_alike(ours: Descriptor, theirs: Descriptor) -> None:
    original_fields = {field.name: facts(field) for field in theirs.fields}
    for field in ours.fields:
        assert facts(field) == original_fields[field.name], field.full_name
    for nested in ours.nested_types:
        assert_alike(nested, theirs.nested_types_by_name[nested.name])
    for enum in ours.enum_types:
        values = theirs.enum_types_by_name[enum.name].values_by_number
        assert {v.number: v.name for v in enum.values} == {n: v.name for n, v in values.items()}


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_descriptions_equal_the_originals(name: str) -> None:
    assert_alike(message_class(name).DESCRIPTOR, original(name))


def test_the_descriptions_do_not_conflict_with_other_packages() -> None:
    theirs = reflection_pb2.ServerReflectionRequest(list_services="*")
    ours = message_class("grpc.reflection.v1.ServerReflectionRequest")(list_services="*")
    assert ours.SerializeToString() == theirs.SerializeToString()
    assert ours.DESCRIPTOR.file.pool is not theirs.DESCRIPTOR.file.pool
