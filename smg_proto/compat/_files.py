"""Files of descriptors: whether they are whole, and whether they hold together."""

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from importlib import import_module
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from smg_proto._descriptors import usual_json_name
from smg_proto.compat._limits import MAX_DESCRIPTOR_FILES, MAX_DESCRIPTORS_BYTES, size
from smg_proto.compat._text import one_line

# Numbers of descriptor.proto's Edition that no runtime named before these releases of protobuf.
_EDITIONS = {1000: ("2023", "5.27"), 1001: ("2024", "6.32")}


class ContractError(Exception):
    """A contract that cannot be read: one line saying which, why, and what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


def parse(data: bytes, origin: str) -> FileDescriptorSet:
    """A FileDescriptorSet from its bytes."""
    if len(data) > MAX_DESCRIPTORS_BYTES:
        raise ContractError(f"{origin}: more than {size(MAX_DESCRIPTORS_BYTES)} of descriptors")
    try:
        files = FileDescriptorSet.FromString(data)
    except DecodeError as error:
        hint = "make one with protoc --include_imports --descriptor_set_out, or buf build -o"
        raise ContractError(
            f"{origin}: not a FileDescriptorSet, or nested more than 100 deep; {hint}"
        ) from error
    if not files.file or not all(file.name for file in files.file):
        raise ContractError(f"{origin}: no descriptors in it, so it is not a FileDescriptorSet")
    return files


def in_order(files: FileDescriptorSet, origin: str) -> list[FileDescriptorProto]:
    """The files and protobuf's own that they import, each after its imports."""
    if len(files.file) > MAX_DESCRIPTOR_FILES:
        raise ContractError(f"{origin}: more than {MAX_DESCRIPTOR_FILES} files")
    given: dict[str, FileDescriptorProto] = {}
    for file in files.file:
        # str(): a name that is no UTF-8 comes as bytes, and is refused by the pool like any.
        name = str(file.name)
        if given.setdefault(name, file) != file:
            raise ContractError(f"{origin}: two files of the name {name} differ; leave one out")
    ordered: dict[str, FileDescriptorProto] = {}
    entered: set[str] = set()
    for first in sorted(given):
        # Each entry: a file, and those of its imports that are still to be entered.
        stack: list[tuple[FileDescriptorProto, Iterator[str]]] = []

        def enter(
            name: str,
            importer: str,
            stack: list[tuple[FileDescriptorProto, Iterator[str]]] = stack,
        ) -> None:
            if name not in entered:
                entered.add(name)
                file = given.get(name) or well_known(name, importer, origin)
                stack.append((file, iter([str(name) for name in file.dependency])))

        enter(first, "")
        while stack:
            file, imports = stack[-1]
            if (needed := next(imports, None)) is not None:
                enter(needed, file.name)
            else:
                ordered[str(file.name)] = file
                stack.pop()
    return list(ordered.values())


def well_known(name: str, importer: str, origin: str) -> FileDescriptorProto:
    """A file of protobuf's own; generated code and servers leave these out."""
    if name.startswith("google/protobuf/") and name.endswith(".proto"):
        try:
            module = import_module(f"{name.removesuffix('.proto').replace('/', '.')}_pb2")
        except (ImportError, ValueError):
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
        plain = file
        if file.HasField("source_code_info") or file.syntax in ("", "proto2"):
            plain = FileDescriptorProto()
            plain.CopyFrom(file)
            plain.ClearField("source_code_info")
            if plain.syntax in ("", "proto2"):
                for message in plain.message_type:
                    _distinct_json_names(message)
        try:
            pool.AddSerializedFile(plain.SerializeToString())
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            reason = _too_new(plain) or f"does not hold together: {error}"
            raise ContractError(f"{origin}: {file.name} {reason}") from error
    return pool


def _distinct_json_names(message: DescriptorProto) -> None:
    """proto2 lets two fields have one name in JSON, which the pool does not take."""
    seen: set[str] = set()
    for field in message.field:
        name = field.json_name or usual_json_name(field.name)
        if name in seen:
            field.json_name = f"{name}[{field.number}]"
        seen.add(name)
    for nested in message.nested_type:
        _distinct_json_names(nested)


def _too_new(file: FileDescriptorProto) -> str:
    number = edition(file)
    name, release = _EDITIONS.get(number, (f"of number {number}", "a newer release"))
    known = file.DESCRIPTOR.fields_by_name.get("edition")
    if number < 1000 or (
        known and known.enum_type and number <= _newest(known.enum_type.values_by_number)
    ):
        return ""
    need = f"install protobuf {release} or newer"
    return f"is of edition {name}, which the protobuf installed here cannot read; {need}"


def _newest(numbers: Collection[int]) -> int:
    return max((number for number in numbers if number < 9000), default=0)


def edition(file: FileDescriptorProto) -> int:
    """The number of descriptor.proto's Edition: 998 is proto2, 999 proto3, 1000 edition 2023."""
    if file.syntax == "editions":
        return int(getattr(file, "edition", 1000))
    return 999 if file.syntax == "proto3" else 998


def read_file(path: Path, limit: int, origin: str, first: int | None = None) -> bytes:
    """The content of a regular file, up to a limit. Never waits, as opening a pipe would.

    first: no more than so many bytes, of a file of any size.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ContractError(f"{origin}: not a regular file")
            data = file.read(limit + 1 if first is None else first)
    except OSError as error:
        raise ContractError(f"{origin}: {error.strerror or error}") from error
    if len(data) > limit:
        raise ContractError(f"{origin}: has more than {size(limit)}")
    return data
