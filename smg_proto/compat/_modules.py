"""Reads descriptors from generated Python modules without running them."""

import ast
import re
import zipfile

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

from smg_proto.compat import _limits as limits
from smg_proto.compat._files import ContractError
from smg_proto.compat._limits import size
from smg_proto.compat._tree import read_member, zip_members

_TEXT = r"""(?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""
# As written by protoc 3.20 and newer, by older ones, and in the form that Python 2 accepts too.
_LITERAL = re.compile(
    rf"AddSerializedFile\(\s*(?P<added>b{_TEXT}(?:\s*b{_TEXT})*)"
    rf"|\bserialized_pb=\s*(?:(?P<given>b{_TEXT}(?:\s*b{_TEXT})*)|_b\((?P<old>{_TEXT})\))"
)


def from_modules(wheel: zipfile.ZipFile, origin: str) -> FileDescriptorSet | None:
    """The files in a wheel's generated modules; None if it has no such modules."""
    files: dict[str, FileDescriptorProto] = {}
    total = 0
    modules = [n for n in sorted(zip_members(wheel, origin).items()) if n[0].endswith("_pb2.py")]
    for name, member in modules:
        source = read_member(wheel, member, limits.MAX_MODULE_BYTES, origin)
        total += len(source)
        if total > limits.MAX_DESCRIPTORS_BYTES:
            bound = size(limits.MAX_DESCRIPTORS_BYTES)
            raise ContractError(f"{origin}: more than {bound} of generated modules")
        for data in serialized(source, f"{origin}: {name}"):
            try:
                file = FileDescriptorProto.FromString(data)
            except DecodeError as error:
                raise ContractError(f"{origin}: {name}: invalid descriptor") from error
            if files.setdefault(file.name, file) != file:
                raise ContractError(
                    f"{origin}: {name}: another module holds a different {file.name}"
                )
    return FileDescriptorSet(file=files.values()) if files else None


def serialized(source: bytes, origin: str) -> list[bytes]:
    """The descriptors that a generated module passes to the pool as bytes literals."""
    descriptors: list[bytes] = []
    for match in _LITERAL.finditer(source.decode("utf-8", errors="replace")):
        literal = match["added"] or match["given"] or match["old"]
        try:
            value = ast.literal_eval(literal)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ContractError(f"{origin}: not a Python module: {error}") from error
        try:
            descriptors.append(value.encode("latin-1") if isinstance(value, str) else value)
        except UnicodeEncodeError as error:
            raise ContractError(f"{origin}: invalid descriptor") from error
    return descriptors
