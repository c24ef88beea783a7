"""The messages of grpc.health.v1 and grpc.reflection."""

from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto


def message(name: str) -> Any:
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    package, _, short = name.rpartition(".")
    return getattr(health_pb2 if "health" in package else reflection_pb2, short)


def files() -> list[FileDescriptorProto]:
    return []
