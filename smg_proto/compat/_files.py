"""Files of descriptors: whether they are whole, and whether they hold together."""

from collections.abc import Iterable
from importlib import import_module

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool


class ContractError(Exception):
    """A contract that cannot be read: one line saying which, why, and what to do."""


def in_order(files: FileDescriptorSet, origin: str) -> list[FileDescriptorProto]:
    """The files and protobuf's own that they import, each after its imports."""
    # str(): a name that is no UTF-8 comes as bytes, and is refused by the pool like any bad name.
    given = {str(file.name): file for file in files.file}
    ordered: dict[str, FileDescriptorProto] = {}
    entered: set[str] = set()

    def add(name: str, importer: str) -> None:
        if name in entered:
            return
        entered.add(name)
        file = given.get(name) or _well_known(name, importer, origin)
        for dependency in file.dependency:
            add(str(dependency), name)
        ordered[name] = file

    for name in sorted(given):
        add(name, "")
    return list(ordered.values())


def _well_known(name: str, importer: str, origin: str) -> FileDescriptorProto:
    """A file of protobuf's own; generated code and servers leave these out."""
    if name.startswith("google/protobuf/") and name.endswith(".proto"):
        try:
            module = import_module(f"{name.removesuffix('.proto').replace('/', '.')}_pb2")
        except ImportError:
            pass
        else:
            return FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    raise ContractError(
        f"{origin}: {importer} imports {name}, which is not in it; "
        "a descriptor set must be made with its imports (protoc --include_imports, buf build)"
    )


def pool_of(files: Iterable[FileDescriptorProto], origin: str) -> DescriptorPool:
    """A pool with these files alone; building it shows whether they hold together."""
    pool = DescriptorPool()
    for file in files:
        plain = FileDescriptorProto()
        plain.CopyFrom(file)
        plain.ClearField("source_code_info")
        try:
            pool.AddSerializedFile(plain.SerializeToString())
        except (TypeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ContractError(
                f"{origin}: {file.name} does not hold together: {reason}"
            ) from error
    return pool
