"""The contract itself: what it promises to peers of the published releases, and its comments."""

import re
import zipfile
from collections.abc import Iterator

import pytest
from contract_facts import OWN_PACKAGES, Fact, facts, load, modules, published_files
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)
from support import ROOT, published_wheel

import smg_proto

RELEASE = "0.4.28"
# Symbols that were added to a mirrored package, each with the reason.
ADDED: dict[str, str] = {}

OURS = [file for file in smg_proto.descriptor_set().file if not file.name.startswith("google/")]


@pytest.fixture(scope="module")
def ours() -> dict[str, Fact]:
    return facts(load(file for file in OURS if file.package not in OWN_PACKAGES))


@pytest.fixture(scope="module")
def theirs() -> dict[str, Fact]:
    return facts(load(published_files(published_wheel(RELEASE))))


def test_the_published_contract_is_read_whole(theirs: dict[str, Fact]) -> None:
    kinds = [fact[0] for fact in theirs.values()]
    assert kinds.count("rpc") == 56
    assert kinds.count("service") == 7
    assert sum(fact == ("message", False) for fact in theirs.values()) == 185


def test_every_published_symbol_is_here_and_the_same(
    ours: dict[str, Fact], theirs: dict[str, Fact]
) -> None:
    differ = {
        name: (fact, ours.get(name)) for name, fact in theirs.items() if ours.get(name) != fact
    }
    assert not differ


def test_no_other_symbol_is_here_but_those_in_the_table(
    ours: dict[str, Fact], theirs: dict[str, Fact]
) -> None:
    assert ours.keys() - theirs.keys() == ADDED.keys()


def test_the_table_of_own_packages_is_needed() -> None:
    packages = {file.package for file in OURS}
    published = {file.package for file in published_files(published_wheel(RELEASE))}
    assert packages - published <= set(OWN_PACKAGES)
    assert not published & set(OWN_PACKAGES)


def test_stubs_call_the_published_paths() -> None:
    path = re.compile(r"'(/[\w.]+/\w+)'")
    with zipfile.ZipFile(published_wheel(RELEASE)) as archive:
        stubs = [name for name in archive.namelist() if name.endswith("_pb2_grpc.py")]
        published = {found for name in stubs for found in path.findall(archive.read(name).decode())}
    here = {
        found
        for file in (ROOT / "smg_proto").glob("*_pb2_grpc.py")
        for found in path.findall(file.read_text(encoding="utf-8"))
    }
    assert published and published <= here


def test_modules_hold_what_the_descriptor_set_says() -> None:
    shipped = {file.name: file for file in OURS}
    imported = {module.DESCRIPTOR.name: module.DESCRIPTOR for module in modules()}
    assert facts(imported.values()) == facts(load(shipped.values()))
    for name, file in shipped.items():
        assert imported[name].package == file.package


@pytest.mark.parametrize("name", [file.name for file in OURS])
def test_every_symbol_has_a_comment(name: str) -> None:
    (file,) = (file for file in OURS if file.name == name)
    comments = {
        tuple(place.path): place.leading_comments.strip()
        for place in file.source_code_info.location
    }
    without = [
        symbol
        for path, symbol in symbols(file)
        if not comments.get(path) or comments[path].startswith(("TODO", "buf:lint"))
    ]
    assert not without


def symbols(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Path in the source info and name of the file and of everything in it."""
    yield (FileDescriptorProto.SYNTAX_FIELD_NUMBER,), file.name
    for i, message in enumerate(file.message_type):
        yield from _message((FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER, i), message)
    for i, enum in enumerate(file.enum_type):
        yield from _enum((FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER, i), enum)
    for i, service in enumerate(file.service):
        path = (FileDescriptorProto.SERVICE_FIELD_NUMBER, i)
        yield path, service.name
        for j, method in enumerate(service.method):
            number = ServiceDescriptorProto.METHOD_FIELD_NUMBER
            yield (*path, number, j), f"{service.name}.{method.name}"


def _message(
    path: tuple[int, ...], message: DescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    if message.options.map_entry:
        return
    name = message.name
    yield path, name
    presence_only = {field.oneof_index for field in message.field if field.proto3_optional}
    for i, field in enumerate(message.field):
        yield (*path, DescriptorProto.FIELD_FIELD_NUMBER, i), f"{name}.{field.name}"
    for i, oneof in enumerate(message.oneof_decl):
        if i not in presence_only:
            yield (*path, DescriptorProto.ONEOF_DECL_FIELD_NUMBER, i), f"{name}.{oneof.name}"
    for i, inner in enumerate(message.nested_type):
        yield from _message((*path, DescriptorProto.NESTED_TYPE_FIELD_NUMBER, i), inner)
    for i, enum in enumerate(message.enum_type):
        yield from _enum((*path, DescriptorProto.ENUM_TYPE_FIELD_NUMBER, i), enum)


def _enum(
    path: tuple[int, ...], enum: EnumDescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, enum.name
    for i, value in enumerate(enum.value):
        yield (*path, EnumDescriptorProto.VALUE_FIELD_NUMBER, i), f"{enum.name}.{value.name}"
