"""Golden vectors: the bytes of every message of a package, for full values and edge cases.

    python _vectors.py PACKAGE OUT       OUT/descriptors.binpb and OUT/<proto package>.jsonl
    python _vectors.py FILE.binpb OUT    the same from a descriptor set, with no generated code

One line is one value: {"message", "case", "json", "hex"}, the same value in proto JSON and on the
wire. Requires only protobuf and PACKAGE (smg_proto, or smg_grpc_proto of a published release), so
that it runs in the environment of any release.
"""

import importlib
import json
import pkgutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

F = FieldDescriptor
Descriptor: TypeAlias = Any  # upb's and pure Python's have no common type
Field: TypeAlias = Any
DEPTH = 3  # nesting of messages in a full value
LARGE = 150  # elements: over 127 bytes even of the smallest, so that lengths take two bytes
LARGE_BYTES = 5000
UNKNOWN_ENUM = 2**31 - 1
FLOATS = (F.CPPTYPE_FLOAT, F.CPPTYPE_DOUBLE)
INTEGERS = {
    F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    F.CPPTYPE_UINT32: (0, 2**32 - 1),
    F.CPPTYPE_UINT64: (0, 2**64 - 1),
}
# The second largest float: JSON readers reject the rounded text of the largest one.
LARGEST = {F.CPPTYPE_FLOAT: float.fromhex("0x1.fffffcp+127"), F.CPPTYPE_DOUBLE: sys.float_info.max}
WELL_KNOWN: dict[str, dict[str, Any]] = {
    "google.protobuf.Struct": {
        "full": {"text": "é", "number": -1.5, "flag": True, "none": None, "list": [1, {"a": "b"}]},
    },
    "google.protobuf.Timestamp": {
        "full": "2026-01-02T03:04:05.678901Z",
        "max": "9999-12-31T23:59:59.999999999Z",
        "min": "0001-01-01T00:00:00Z",
    },
    "google.protobuf.Duration": {
        "full": "1.500s",
        "max": "315576000000.999999999s",
        "min": "-315576000000.999999999s",
    },
}


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


# An unknown field of each wire type, with numbers that no contract will ever use.
UNKNOWN = b"".join(
    varint(123456 + wire << 3 | wire) + value
    for wire, value in ((0, b"\x96\x01"), (1, b"12345678"), (2, b"\x03abc"), (5, b"1234"))
)


def singular(field: Field, case: str, index: int = 0) -> Any:
    """The scalar of a field in a case. `index` makes the elements of a repeated field differ."""
    kind = field.cpp_type
    if case == "zero":
        empty = "" if kind == F.CPPTYPE_STRING else False if kind == F.CPPTYPE_BOOL else 0
        return b"" if field.type == F.TYPE_BYTES else empty
    if field.type == F.TYPE_BYTES:
        return bytes(range(256)) if case == "max" else field.name.encode() + bytes([index, 0, 255])
    if kind == F.CPPTYPE_STRING:
        return "\x00\x7f\u00e9\u20ac\U0001f642" if case == "max" else f"{field.name} é{index}"
    if kind == F.CPPTYPE_BOOL:
        return index % 2 == 0
    if kind == F.CPPTYPE_ENUM:
        values = [value.number for value in field.enum_type.values]
        return UNKNOWN_ENUM if case == "unknown_enum" else values[-1 - index % len(values)]
    if kind in FLOATS:
        special = {"nan": float("nan"), "negative_zero": -0.0, "infinity": float("inf")}
        if case in special:
            return special[case] if index % 2 == 0 or case == "nan" else -special[case]
        sign = {"max": 1, "min": -1}.get(case)
        return sign * LARGEST[kind] if sign else field.number + index + 0.5
    low, high = INTEGERS[kind]
    return {"max": high, "min": low}.get(case, field.number * 100 + index)


def count(case: str) -> int:
    return {"large": LARGE, "zero": 1}.get(case, 2)


def put(message: Message, field: Field, case: str, depth: int) -> None:
    """Set one field for a case. Repeated fields and maps get count(case) elements."""
    entry = field.message_type if is_repeated(field) and field.message_type else None
    if entry and entry.GetOptions().map_entry:
        target = getattr(message, field.name)
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for index in range(count(case)):
            name = singular(key, case, index)
            if case == "max" and index:
                name = singular(key, "full", index)  # a second key must differ from the first
            if value.message_type:
                fill(target[name], case, depth - 1)
            else:
                target[name] = singular(value, case, index)
    elif is_repeated(field):
        target = getattr(message, field.name)
        for index in range(count(case)):
            if field.message_type:
                fill(target.add(), case, depth - 1)
            else:
                target.append(singular(field, case, index))
    elif field.message_type:
        fill(getattr(message, field.name), case, depth - 1)
    elif case == "large" and field.type == F.TYPE_BYTES:
        setattr(message, field.name, bytes(index % 251 for index in range(LARGE_BYTES)))
    else:
        setattr(message, field.name, singular(field, case))


def fill(message: Message, case: str, depth: int = DEPTH, member: str = "") -> None:
    """Set every field, and of each oneof the last member or `member`."""
    message.SetInParent()
    if depth == 0:
        return
    descriptor: Descriptor = message.DESCRIPTOR
    if known := WELL_KNOWN.get(descriptor.full_name):  # not every value of these has a JSON form
        if value := known.get(case):
            json_format.ParseDict(value, message)
        return
    chosen = {oneof.fields[-1].name for oneof in oneofs(descriptor)}
    if member:
        rivals = descriptor.fields_by_name[member].containing_oneof.fields
        chosen = chosen - {field.name for field in rivals} | {member}
    optional = {field.name for oneof in oneofs(descriptor) for field in oneof.fields} - chosen
    for field in descriptor.fields:
        if field.name not in optional:
            put(message, field, case, depth)


def is_repeated(field: Field) -> bool:
    newer: bool | None = getattr(field, "is_repeated", None)  # label is deprecated
    return newer if newer is not None else field.label == F.LABEL_REPEATED


def oneofs(descriptor: Descriptor) -> list[Any]:
    """The oneofs that a proto file declares, without those of `optional` fields."""
    return [o for o in descriptor.oneofs if o.name != "_" + o.fields[0].name]


def packed(descriptor: Descriptor) -> list[Field]:
    texts = (F.CPPTYPE_STRING, F.CPPTYPE_MESSAGE)
    return [f for f in descriptor.fields if is_repeated(f) and f.cpp_type not in texts]


def cases(descriptor: Descriptor) -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of each value of one message."""
    make = GetMessageClass(descriptor)

    def written(case: str, depth: int = 1, member: str = "") -> bytes:
        message = make()
        fill(message, case, depth, member)
        return message.SerializeToString(deterministic=True)

    yield "unset", b""
    yield "zero", written("zero")
    full = written("full", DEPTH)
    yield "full", full
    yield "max", written("max")
    yield "unknown", full + UNKNOWN
    kinds = {field.cpp_type for field in descriptor.fields}
    if kinds & {F.CPPTYPE_INT32, F.CPPTYPE_INT64, *FLOATS, F.CPPTYPE_MESSAGE}:
        yield "min", written("min")
    if kinds & set(FLOATS):
        for case in ("nan", "infinity", "negative_zero"):
            yield case, written(case)
    if F.CPPTYPE_ENUM in kinds:
        yield "unknown_enum", written("unknown_enum")
    if any(is_repeated(field) or field.type == F.TYPE_BYTES for field in descriptor.fields):
        yield "large", written("large")
    if lists := packed(descriptor):
        # On the wire but without elements: readers must treat it as unset.
        yield "empty_repeated", b"".join(varint(f.number << 3 | 2) + b"\0" for f in lists)
        yield "unpacked", b"".join(map(unpacked, lists))
    for oneof in oneofs(descriptor):
        for field in oneof.fields:
            yield f"oneof.{field.name}", written("full", 2, field.name)
            yield f"oneof.{field.name}.empty", written("zero", 1, field.name)


def unpacked(field: Field) -> bytes:
    """Two elements of a packed field, each with its own tag, as older writers encode them."""
    wire: dict[int, tuple[int, Callable[[Any], bytes]]] = {
        F.CPPTYPE_FLOAT: (5, lambda value: struct.pack("<f", value)),
        F.CPPTYPE_DOUBLE: (1, lambda value: struct.pack("<d", value)),
    }
    kind, encode = wire.get(field.cpp_type, (0, lambda value: varint(int(value))))
    values = [singular(field, "full", index) for index in range(2)]
    return b"".join(varint(field.number << 3 | kind) + encode(value) for value in values)


def files_of(package: str) -> list[FileDescriptor]:
    """The files of all generated modules of a package and their imports, imports first."""
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for imported in file.dependencies:
            add(imported)
        files.setdefault(file.name, file)

    root = importlib.import_module(package)
    for module in sorted(m.name for m in pkgutil.walk_packages(root.__path__, package + ".")):
        if module.endswith("_pb2"):
            descriptor = importlib.import_module(module).DESCRIPTOR
            if isinstance(descriptor, FileDescriptor):  # the facade smg_pb2 has no file of its own
                add(descriptor)
    return list(files.values())


def files_in(image: Path) -> list[FileDescriptor]:
    """The files of a descriptor set, imports first, in a pool of their own."""
    pool = DescriptorPool()
    protos = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file
    return [pool.AddSerializedFile(proto.SerializeToString()) for proto in protos]


def descriptor_set(files: list[FileDescriptor]) -> bytes:
    out = descriptor_pb2.FileDescriptorSet()
    for file in files:
        file.CopyToProto(out.file.add())
    return out.SerializeToString(deterministic=True)


def messages(files: list[FileDescriptor]) -> list[Descriptor]:
    """Every message of the contracts, sorted by name, without map entries and google.*."""
    descriptors: list[Descriptor] = []

    def walk(descriptor: Descriptor) -> None:
        if not descriptor.GetOptions().map_entry:
            descriptors.append(descriptor)
            for nested in descriptor.nested_types:
                walk(nested)

    for file in files:
        if not file.package.startswith("google."):
            for top in file.message_types_by_name.values():
                walk(top)
    return sorted(descriptors, key=lambda descriptor: descriptor.full_name)


def lines(descriptor: Descriptor) -> Iterator[str]:
    """The vectors of one message."""
    make = GetMessageClass(descriptor)
    for case, wire in cases(descriptor):
        value = json_format.MessageToDict(make.FromString(wire))
        record = {"message": descriptor.full_name, "case": case, "json": value, "hex": wire.hex()}
        yield json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n"


def write(source: str, out: Path) -> None:
    """Write the vectors of a package, or of a descriptor set if the name ends in .binpb."""
    files = files_in(Path(source)) if source.endswith(".binpb") else files_of(source)
    out.mkdir(parents=True, exist_ok=True)
    (out / "descriptors.binpb").write_bytes(descriptor_set(files))
    texts: dict[str, list[str]] = {}
    for descriptor in messages(files):
        texts.setdefault(descriptor.file.package, []).extend(lines(descriptor))
    for name, text in texts.items():
        (out / f"{name}.jsonl").write_text("".join(text), encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
