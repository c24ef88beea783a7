"""Standard messages that peers send beside ours: google.rpc's status and details, gRPC's reflection
and health.

They are in a descriptor pool of their own, because other packages define the same names in the
default pool: both can be in one process, and read each other's bytes.
"""

from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from smg_proto._standard_files import FILES


@cache
def message_class(name: str) -> Any:
    """The class of a message by its full name; KeyError: none of those that are described here."""
    return GetMessageClass(_pool().FindMessageTypeByName(name))


def standard_files() -> list[FileDescriptorProto]:
    """The files that describe these messages and the services of reflection and health."""
    return [FileDescriptorProto.FromString(file) for file in FILES]


@cache
def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FILES:
        pool.AddSerializedFile(file)
    return pool
