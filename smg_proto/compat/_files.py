"""Parses descriptor sets, and checks that they are complete and consistent."""

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from smg_proto._descriptors import usual_json_name
from smg_proto.compat._limits import MAX_DESCRIPTOR_FILES, MAX_DESCRIPTORS_BYTES, size
from smg_proto.compat._text import one_line

# Numbers of descriptor.proto's Edition: the name, and the first protobuf release that knows it.
_EDITIONS = {1000: ("2023", "5.27"), 1001: ("2024", "6.32")}


class ContractError(Exception):
    """A contract that cannot be read. The message is one line, fit for a terminal."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


def parse(data: bytes, origin: str) -> FileDescriptorSet:
    """Parse a FileDescriptorSet."""
    if len(data) > MAX_DESCRIPTORS_BYTES:
        raise ContractError(f"{origin}: more than {size(MAX_DESCRIPTORS_BYTES)} of descriptors")
    try:
        files = FileDescriptorSet.FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        hint = "create one with protoc --include_imports --descriptor_set_out, or buf build -o"
        raise ContractError(
            f"{origin}: not a FileDescriptorSet, or nested more than 100 levels deep; {hint}"
        ) from error
    if not files.file or not all(file.name for file in files.file):
        raise ContractError(f"{origin}: not a FileDescriptorSet: it has no descriptors")
    return files


def by_name(files: Iterable[FileDescriptorProto], origin: str) -> dict[str, FileDescriptorProto]:
    """The files by name. ContractError if two different ones have the same name."""
    given: dict[str, FileDescriptorProto] = {}
    for file in files:
        # str(): a name that is not UTF-8 is bytes here; the pool rejects it later.
        name = str(file.name)
        if given.setdefault(name, file) != file:
            raise ContractError(f"{origin}: two different files are named {name}; leave one out")
    return given


def in_order(files: FileDescriptorSet, origin: str) -> list[FileDescriptorProto]:
    """The files and the well-known ones that they import, each after its imports."""
    if len(files.file) > MAX_DESCRIPTOR_FILES:
        raise ContractError(f"{origin}: more than {MAX_DESCRIPTOR_FILES} files")
    given = by_name(files.file, origin)
    ordered: dict[str, FileDescriptorProto] = {}
    entered: set[str] = set()
    for first in sorted(given):
        # Each entry is a file, and those of its imports that are still to be visited.
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
    """One of protobuf's own files, which generated code and servers leave out."""
    if name.startswith("google/protobuf/") and name.endswith(".proto"):
        try:
            module = import_module(f"{name.removesuffix('.proto').replace('/', '.')}_pb2")
        except (ImportError, ValueError):
            pass
        else:
            return FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    raise ContractError(
        f"{origin}: {importer} imports {name}, which is not included; "
        "include imports with protoc --include_imports or buf build, or give them with -I"
    )


def pool_of(
    files: Iterable[FileDescriptorProto], origin: str
) -> tuple[DescriptorPool, list[FileDescriptorProto]]:
    """A pool with only these files, and the files as protoc would write them.

    Raises ContractError if they are not consistent.
    """
    pool, plain = DescriptorPool(), list[FileDescriptorProto]()
    for file in files:
        try:
            try:
                data = _add(pool, file)
            except _INVALID:
                if not (corrected := _with_ends_after(file)):
                    raise
                data = _add(pool, file := corrected)
        except _INVALID as error:
            reason = _too_new(file) or f"is not valid: {error}"
            raise ContractError(f"{origin}: {file.name} {reason}") from error
        rpcs = [rpc for service in file.service for rpc in service.method]
        names = {name[:1] for rpc in rpcs for name in (rpc.input_type, rpc.output_type)}
        # To look at each field would take longer than all the rest.
        if names - {"."} or _RELATIVE.search(data):
            file = _absolute(file, pool)
        plain.append(file)
    return pool, plain


_INVALID = (TypeError, ValueError, KeyError, RecursionError)  # what pools raise
# In the bytes of a file: the type of a field after the kind or label, or the message that a field
# extends between its name and number, without a dot in front.
_RELATIVE = re.compile(
    rb"(?:\x28[\x0a\x0b\x0e]|\x20[\x01-\x03])\x32(?:[\x80-\xff].|.)[A-Za-z_]"
    rb"|(?<=\w)\x12(?:[\x80-\xff].|[^.])[A-Za-z_][\w.]*\x18",
    re.DOTALL,
)


def _add(pool: DescriptorPool, file: FileDescriptorProto) -> bytes:
    """Add the file to the pool; its bytes, without source information."""
    if file.HasField("source_code_info") or file.syntax in ("", "proto2"):
        plain = FileDescriptorProto()
        plain.CopyFrom(file)
        plain.ClearField("source_code_info")
        if plain.syntax in ("", "proto2"):
            for message in plain.message_type:
                _distinct_json_names(message)
        file = plain
    data = file.SerializeToString()
    pool.AddSerializedFile(data)
    return data


def _with_ends_after(file: FileDescriptorProto) -> FileDescriptorProto | None:
    """The file with ranges that end after their last number. None if there is nothing to correct.

    protobuf.js writes the last number, so a range of one number is empty.
    """
    corrected = FileDescriptorProto()
    corrected.CopyFrom(file)
    todo, spans = [*corrected.message_type], list[Any]()
    while todo:
        message = todo.pop()
        todo += message.nested_type
        spans += [*message.reserved_range, *message.extension_range]
    if not any(span.start == span.end for span in spans):
        return None
    for span in spans:
        span.end += 1
    return corrected


def _absolute(file: FileDescriptorProto, pool: DescriptorPool) -> FileDescriptorProto:
    """The file with full names of types, and its optional fields marked as such.

    protobuf.js writes `Inner` for `.package.Inner`, and an optional field as a oneof. pool: has the
    file.
    """
    full = FileDescriptorProto()
    full.CopyFrom(file)
    package = f"{file.package}." if file.package else ""
    todo = [(message, package + message.name) for message in full.message_type]
    extensions = [(extension, package) for extension in full.extension]
    while todo:
        message, name = todo.pop()
        todo += [(nested, f"{name}.{nested.name}") for nested in message.nested_type]
        extensions += [(extension, f"{name}.") for extension in message.extension]
        known = pool.FindMessageTypeByName(name).fields_by_number
        for field in message.field:
            _name_type(field, known[field.number])
            oneof = known[field.number].containing_oneof
            if file.syntax == "proto3" and oneof and oneof.name == f"_{field.name}":
                field.proto3_optional = True
    for extension, prefix in extensions:
        descriptor = pool.FindExtensionByName(prefix + extension.name)
        _name_type(extension, descriptor)
        extended: Any = descriptor.containing_type
        extension.extendee = f".{extended.full_name}"
    for service in full.service:
        methods = pool.FindServiceByName(package + service.name).methods_by_name
        for rpc in service.method:
            rpc.input_type = f".{methods[rpc.name].input_type.full_name}"
            rpc.output_type = f".{methods[rpc.name].output_type.full_name}"
    return full


def _name_type(field: FieldDescriptorProto, descriptor: FieldDescriptor) -> None:
    if kind := descriptor.message_type or descriptor.enum_type:
        field.type_name = f".{kind.full_name}"


def _distinct_json_names(message: DescriptorProto) -> None:
    """Make JSON names unique: proto2 allows duplicates, which the pool rejects."""
    seen: set[str] = set()
    for field in message.field:
        name = field.json_name or usual_json_name(field.name)
        if name in seen:
            field.json_name = f"{name}[{field.number}]"
        seen.add(name)
    for nested in message.nested_type:
        _distinct_json_names(nested)


def _too_new(file: FileDescriptorProto) -> str:
    """Why the installed protobuf cannot read the file's edition; "" if it can."""
    number = edition(file)
    name, release = _EDITIONS.get(number, (f"number {number}", ""))
    known = file.DESCRIPTOR.fields_by_name.get("edition")
    if number < 1000 or (
        known and known.enum_type and number <= _newest(known.enum_type.values_by_number)
    ):
        return ""
    hint = f"install protobuf {release} or newer" if release else "install a newer protobuf"
    return f"uses edition {name}, which the installed protobuf cannot read; {hint}"


def _newest(numbers: Collection[int]) -> int:
    return max((number for number in numbers if number < 9000), default=0)


def edition(file: FileDescriptorProto) -> int:
    """The number of descriptor.proto's Edition: 998 is proto2, 999 proto3, 1000 edition 2023."""
    if file.syntax == "editions":
        return int(getattr(file, "edition", 1000))
    return 999 if file.syntax == "proto3" else 998


def read_file(path: Path, limit: int, origin: str, first: int | None = None) -> bytes:
    """Read a regular file, up to a limit. Never blocks, as opening a pipe would.

    first: read only this many bytes, whatever the size of the file.
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
        raise ContractError(f"{origin}: larger than {size(limit)}")
    return data
