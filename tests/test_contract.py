"""The contract itself: what it promises to peers of the published releases, and its comments."""

import re
import zipfile

import pytest
from contract_facts import OWN_PACKAGES, Fact, facts, modules, published_files
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from support import ROOT, published_wheel, tracked

import smg_proto
from smg_proto._descriptors import symbols

RELEASE = "0.4.28"
# Symbols that were added to a mirrored package, each with the reason.
ADDED: dict[str, str] = {}

OURS = [file for file in smg_proto.descriptor_set().file if not file.name.startswith("google/")]


@pytest.fixture(scope="module")
def ours() -> dict[str, Fact]:
    return facts(file for file in OURS if file.package not in OWN_PACKAGES)


@pytest.fixture(scope="module")
def theirs() -> dict[str, Fact]:
    return facts(published_files(published_wheel(RELEASE)))


def test_the_published_contract_is_read_completely(theirs: dict[str, Fact]) -> None:
    kinds = [name.partition(" ")[0] for name in theirs]
    assert kinds.count("rpc") == 56
    assert kinds.count("service") == 7
    entries = sum("map_entry: true" in fact[0] for fact in theirs.values())
    assert kinds.count("message") - entries == 185


def test_every_published_symbol_exists_unchanged(
    ours: dict[str, Fact], theirs: dict[str, Fact]
) -> None:
    differ = {
        name: (fact, ours.get(name)) for name, fact in theirs.items() if ours.get(name) != fact
    }
    assert not differ


def test_other_symbols_are_only_those_in_the_table(
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
    serialized = [module.DESCRIPTOR.serialized_pb for module in modules()]
    imported = {file.name: file for file in map(FileDescriptorProto.FromString, serialized)}
    assert facts(imported.values()) == facts(OURS)
    for file in OURS:
        assert imported[file.name].package == file.package
        assert imported[file.name].dependency == file.dependency


@pytest.mark.parametrize("name", [file.name for file in OURS])
def test_every_symbol_has_a_comment(name: str) -> None:
    file = FileDescriptorSet(file=[file for file in OURS if file.name == name])
    without = [
        symbol.name
        for symbol in symbols(file)
        if symbol.kind != "reserved"
        and (not symbol.comment or symbol.comment.startswith(("TODO", "buf:lint")))
    ]
    assert not without


def test_every_proto_names_its_license() -> None:
    """As its last line: above the first one it would be a comment in all generated code.

    Missing: printf '\\n// SPDX-License-Identifier: Apache-2.0\\n' >> FILE
    """
    shipped = [name for name in tracked("proto", "templates", "scripts") if name.endswith(".proto")]
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in shipped}
    assert texts
    assert [name for name in shipped if not texts[name].endswith(f"\n\n{LICENCE}\n")] == []


LICENCE = "// SPDX-License-Identifier: Apache-2.0"
