"""Reads descriptors from generated Python modules without running them."""

import ast
import re
import zipfile
from collections.abc import Callable, Collection, Mapping

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

from smg_proto.compat import _limits as limits
from smg_proto.compat._files import ContractError
from smg_proto.compat._limits import size
from smg_proto.compat._tree import excluded, read_member, zip_members

# Finds the descriptor of an imported file.
FindDescriptor = Callable[[str], FileDescriptorProto | None]

_TEXT = r"""(?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""
# As written by protoc 3.20 and newer, by older ones, and in the form that Python 2 accepts too.
_LITERAL = re.compile(
    rf"AddSerializedFile\(\s*(?P<added>b{_TEXT}(?:\s*b{_TEXT})*)"
    rf"|\bserialized_pb=\s*\(?\s*(?:(?P<given>b{_TEXT}(?:\s*b{_TEXT})*)|_b\((?P<old>{_TEXT})\))"
)


def from_modules(
    wheel: zipfile.ZipFile, origin: str, exclude: Collection[str], ending: str = "_pb2.py"
) -> dict[str, FileDescriptorProto]:
    """The files in a wheel's generated modules, by name.

    exclude: patterns of modules. ending: of the names of modules.
    """
    files: dict[str, FileDescriptorProto] = {}
    total = 0
    for name, member in sorted(zip_members(wheel, origin).items()):
        if not name.endswith(ending) or excluded(name, exclude):
            continue
        source = read_member(wheel, member, limits.MAX_MODULE_BYTES, origin)
        total += len(source)
        if total > limits.MAX_DESCRIPTORS_BYTES:
            bound = size(limits.MAX_DESCRIPTORS_BYTES)
            raise ContractError(f"{origin}: more than {bound} of generated modules")
        for data in serialized(source, f"{origin}: {name}"):
            try:
                file = FileDescriptorProto.FromString(data)
            except (DecodeError, UnicodeDecodeError) as error:
                raise ContractError(f"{origin}: {name}: invalid descriptor") from error
            other = files.setdefault(file.name, file)
            if other != file and _known(other) != _known(file):
                raise ContractError(
                    f"{origin}: {name}: the wheel holds a different {file.name} too; exclude one"
                )
    return files


def _known(file: FileDescriptorProto) -> FileDescriptorProto:
    """The file without custom options, which compilers encode in different ways."""
    known = FileDescriptorProto()
    known.CopyFrom(file)
    known.DiscardUnknownFields()
    return known


def complete(
    own: dict[str, FileDescriptorProto],
    find: FindDescriptor,
    missing: Callable[[str, str], ContractError],
    keep_going: bool,
) -> tuple[FileDescriptorSet, Mapping[str, str]]:
    """The files with their imports, and those of its own that it leaves out, with the reasons.

    missing: the error for a file and an import that is not found.
    keep_going: leave out files with missing imports, and the files that import them.
    """
    other, skipped = dict[str, FileDescriptorProto](), dict[str, str]()
    importers: dict[str, list[FileDescriptorProto]] = {}
    for file in own.values():
        for name in file.dependency:
            importers.setdefault(name, []).append(file)
    todo, broken = [*own.values()], 0
    while todo:
        file = todo.pop()
        for name in file.dependency if file.name not in skipped else ():
            if name in own or name in other or name.startswith("google/protobuf/"):
                continue
            if name not in skipped and (found := find(name)):
                other[name] = found
                todo.append(found)
                continue
            error = missing(file.name, name)
            broken += name not in skipped
            if not keep_going or file.name not in own or len(own) == 1:
                raise error
            if broken > limits.MAX_BROKEN_FILES:
                most = f"more than {limits.MAX_BROKEN_FILES} files lack an import"
                raise ContractError(f"{most}; the last is {error}")
            skipped[file.name] = str(error)
            own.pop(file.name)
            todo += importers.get(file.name, ())
            break
    return FileDescriptorSet(file=[*own.values(), *other.values()]), skipped


def serialized(source: bytes, origin: str) -> list[bytes]:
    """The descriptors that a generated module passes to the pool as bytes literals."""
    descriptors: list[bytes] = []
    for match in _LITERAL.finditer(source.decode("utf-8", errors="replace")):
        literal = match["added"] or match["given"] or match["old"]
        try:
            value = ast.literal_eval(f"({literal})")  # of several lines after a formatter
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ContractError(f"{origin}: not a Python module: {error}") from error
        try:
            descriptors.append(value.encode("latin-1") if isinstance(value, str) else value)
        except UnicodeEncodeError as error:
            raise ContractError(f"{origin}: invalid descriptor") from error
    return descriptors
