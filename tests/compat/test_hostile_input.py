"""No input makes the tool run, write, wait or grow: one line, exit 2, and that is all."""

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from support import need, run

import smg_proto
from smg_proto.cli import main
from smg_proto.compat import ContractError, _contract, _files, _limits, _tree, diff, load

PROTO = 'syntax = "proto3"; package shop; message Order { int32 id = 1; }\n'
Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """What the command says of its input: one printable line, and nothing is written or left."""

    def refuse(*words: str | Path) -> str:
        before = sorted(map(str, tmp_path.rglob("*")))
        assert main([str(word) for word in words]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.endswith("\n")
        assert output.err[:-1].isprintable(), output.err
        assert "for a traceback" not in output.err
        assert sorted(map(str, tmp_path.rglob("*"))) == before
        return output.err

    return refuse


def protos(folder: Path, **files: str) -> Path:
    for name, text in (files or {"shop.proto": PROTO}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


# --- names ---------------------------------------------------------------------------------------

# An argument file for protoc, and a proto: it would start a shell with the payload's name.
TRAP = "syntax='proto3';/*.proto\n--plugin=protoc-gen-sh=/bin/sh\n--sh_out=*/\n"
EVIL_NAMES = [
    "@sub/x.proto",
    "-I.proto",
    "--descriptor_set_out=x.proto",
    "@args.proto",
    "a\nb.proto",
    "\x1b[31m.proto",
]


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_a_file_name_that_a_compiler_would_interpret_is_rejected_in_a_folder(
    name: str, tmp_path: Path, refused: Refused
) -> None:
    folder = protos(tmp_path / "tree", **{"sub/x.proto": TRAP, name: TRAP})
    assert "invalid file name" in refused("diff", folder, "self")
    assert main(["export", "--check", str(folder)]) == 2


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_a_file_name_that_a_compiler_would_interpret_is_in_no_tree(name: str) -> None:
    with pytest.raises(ContractError, match="invalid file name"):
        _tree.Tree("here").add(name, b"")


def test_a_file_name_that_is_not_utf_8_is_rejected(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.fsencode(protos(tmp_path / "tree")) + b"/\xff.proto"
    try:
        os.close(os.open(path, os.O_CREAT))
    except OSError:
        pytest.skip("the file system has only names in UTF-8")
    assert r"invalid file name '\udcff.proto'" in refused("diff", tmp_path / "tree", "self")
    need("git")
    commit(tmp_path / "tree")
    monkeypatch.chdir(tmp_path / "tree")
    assert r"invalid file name '\udcff.proto'" in refused("diff", "git:HEAD", "self")


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = protos(tmp_path / "tree", **{"a/shop.proto": PROTO, "locked/x.proto": PROTO})
    scandir = os.scandir

    def locked(path: Path) -> object:
        if path == folder / "locked":
            raise PermissionError(13, "Permission denied", str(path))  # root may read anything
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert f"{folder}: {folder}/locked: Permission denied" in refused("diff", folder, "self")


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_a_file_name_that_a_compiler_would_interpret_is_rejected_in_a_wheel(
    name: str, tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "evil-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("sub/x.proto", TRAP)
        wheel.writestr(name, TRAP)
    assert "invalid file name" in refused("diff", path, "self")


@pytest.mark.parametrize("name", EVIL_NAMES)
def test_a_file_name_that_a_compiler_would_interpret_is_rejected_in_a_revision(
    name: str, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("git")
    folder = protos(tmp_path / "tree", **{"sub/x.proto": TRAP, name: TRAP})
    commit(folder)
    monkeypatch.chdir(folder)
    assert "invalid file name" in refused("diff", "git:HEAD", "self")


@pytest.mark.parametrize("name", ["@x/shop.proto", "-x/shop.proto", "../../x/shop.proto"])
def test_a_name_that_only_an_import_gives_to_a_file_is_rejected(
    name: str, tmp_path: Path, refused: Refused
) -> None:
    """The tree looks like the content of the folder that the import names."""
    other = f'syntax = "proto3"; package other; import "{name}";\n'
    folder = protos(tmp_path / "tree", **{"shop.proto": PROTO, "other.proto": other})
    assert "invalid file name" in refused("diff", folder, "self")


def test_a_name_that_a_compiler_would_interpret_is_rejected_in_an_include_folder(
    tmp_path: Path, refused: Refused
) -> None:
    other = 'syntax = "proto3"; package other; import "@x.proto";\n'
    folder = protos(tmp_path / "tree", **{"other.proto": other})
    include = protos(tmp_path / "include", **{"@x.proto": PROTO})
    assert "invalid file name" in refused("diff", folder, "self", "-I", include)


@pytest.mark.parametrize(
    "name", ["../out.proto", "/tmp/out.proto", "a/../../out.proto", "C:/x.proto"]
)
def test_a_path_that_leaves_the_archive_is_rejected(
    name: str, tmp_path: Path, refused: Refused
) -> None:
    wheel, crate = tmp_path / "evil.whl", tmp_path / "evil.crate"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(name, PROTO)
    assert "leads out" in refused("diff", wheel, "self")
    with tarfile.open(crate, "w:gz") as archive:
        member = tarfile.TarInfo(f"evil-1.0/{name}")
        member.size = len(PROTO)
        archive.addfile(member, io.BytesIO(PROTO.encode()))
    assert "leads out" in refused("diff", crate, "self")


def test_programs_in_the_compared_folder_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by `python -m`, which looks into the current folder, nor by a compiler's plugins."""
    folder = protos(tmp_path / "tree")
    proof = tmp_path / "it ran"
    for module in ("pip", "grpc_tools", "google"):
        (folder / module).mkdir()
        for name in ("__init__.py", "__main__.py", "protoc.py"):
            (folder / module / name).write_text(f"open({str(proof)!r}, 'w')", encoding="utf-8")
    for name in ("buf", "protoc", "git"):
        (folder / name).write_text(f"#!/bin/sh\ntouch '{proof}'\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    (folder / "buf.yaml").write_text(
        f"version: v2\nplugins:\n  - plugin: {folder}/buf\n", encoding="utf-8"
    )
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SMG_PROTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert load(".").packages == {"shop"}
    with pytest.raises(ContractError):
        load("pypi:no-such-package==1.0")
    assert not proof.exists()


def commit(folder: Path) -> None:
    def git(*words: str) -> None:
        run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words, cwd=folder)

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "first")


def test_files_that_export_ignore_hides_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("git")
    accented = os.fsdecode("é.proto".encode())  # also where the file system's encoding is ASCII
    folder = protos(
        tmp_path / "tree",
        **{
            "shop.proto": PROTO,
            accented: PROTO.replace("shop", "other"),
            'q"uote.proto': PROTO.replace("shop", "third"),
        },
    )
    (folder / ".gitattributes").write_text("*.proto export-ignore\n", encoding="utf-8")
    commit(folder)
    monkeypatch.chdir(folder)
    assert load("git:HEAD").packages == {"shop", "other", "third"}
    (folder / accented).write_text(
        PROTO.replace("shop", "other").replace("int32", "string"), encoding="utf-8"
    )
    assert diff(load("git:HEAD"), load(".")).verdict == "data"


def test_objects_are_read_as_committed_not_as_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("git")
    folder = protos(tmp_path / "tree")
    commit(folder)
    first = run("git", "rev-parse", "HEAD:shop.proto", cwd=folder).strip()
    protos(folder, **{"shop.proto": PROTO.replace("shop", "replaced")})
    other = run("git", "hash-object", "-w", "shop.proto", cwd=folder).strip()
    run("git", "replace", first, other, cwd=folder)
    monkeypatch.chdir(folder)
    assert load("git:HEAD").packages == {"shop"}


def test_links_of_a_revision_are_followed_to_its_files_only(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("git")
    folder = protos(tmp_path / "tree", **{"a/shop.proto": PROTO})
    (folder / "b").mkdir()
    (folder / "b" / "other.proto").symlink_to("../a/shop.proto")
    commit(folder)
    # A submodule is no file, whatever its name.
    head = run("git", "rev-parse", "HEAD", cwd=folder).strip()
    run("git", "update-index", "--add", "--cacheinfo", f"160000,{head},sub.proto", cwd=folder)
    run("git", "-c", "user.name=t", "-c", "user.email=t@x.org", "commit", "-qm", "2", cwd=folder)
    monkeypatch.chdir(folder)
    assert load("git:HEAD", exclude=["a"]).packages == {"shop"}
    (tmp_path / "outside.proto").write_text(PROTO, encoding="utf-8")
    for target in ("../../outside.proto", "other.proto", "gone.proto"):
        (folder / "b" / "bad.proto").unlink(missing_ok=True)
        (folder / "b" / "bad.proto").symlink_to(target)
        commit(folder)
        assert refused("diff", "git:HEAD", "self").endswith(
            "git:HEAD: b/bad.proto: the link does not lead to a file of the tree; exclude it\n"
        )


def test_a_file_that_a_copy_of_a_repository_lacks_is_named(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a partial clone: nothing is fetched."""
    need("git")
    folder = protos(tmp_path / "tree", **{"a.proto": PROTO, "b/shop.proto": f"// 2\n{PROTO}"})
    commit(folder)
    blob = run("git", "rev-parse", "HEAD:b/shop.proto", cwd=folder).strip()
    (folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    monkeypatch.chdir(folder)
    assert refused("diff", "git:HEAD", "self").endswith(
        "git:HEAD: b/shop.proto is not in this copy of the repository\n"
    )


def test_without_git_a_revision_is_refused(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        return None

    monkeypatch.setattr(_tree, "program", missing)
    assert refused("diff", "git:HEAD", "self") == (
        "smg-proto diff: git:HEAD: git is not installed; give a directory or a wheel instead\n"
    )


def test_a_revision_that_is_none_is_named(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("git")
    folder = protos(tmp_path / "tree")
    commit(folder)
    monkeypatch.chdir(folder)
    usage = "no revision; use git:REVISION or git:REVISION:FOLDER"
    for spec in ("git:", "git::a", "git:-x", "git:--output=x"):
        assert refused("diff", spec, "self") == f"smg-proto diff: {spec}: {usage}\n"
    for spec in ("git:gone", "git:HEAD^{tree}", "git:HEAD~1"):
        expected = f"smg-proto diff: {spec}: no such revision in {folder}\n"
        assert refused("diff", spec, "self") == expected


# --- files that are none -------------------------------------------------------------------------


def test_a_pipe_a_socket_or_a_dangling_link_is_rejected_by_name(
    tmp_path: Path, refused: Refused
) -> None:
    folder = protos(tmp_path / "tree")
    os.mkfifo(folder / "pipe.proto")
    assert "pipe.proto" in refused("diff", folder, "self")
    assert load(folder, exclude=["pipe.proto"]).packages == {"shop"}
    (folder / "pipe.proto").unlink()
    (folder / "link.proto").symlink_to(tmp_path / "gone")
    assert "link.proto" in refused("diff", folder, "self")
    (folder / "link.proto").unlink()
    (tmp_path / "outside.proto").write_text(PROTO, encoding="utf-8")
    (folder / "link.proto").symlink_to(tmp_path / "outside.proto")
    assert "link.proto" in refused("diff", folder, "self")


def test_links_within_the_tree_and_circular_folders_are_harmless(tmp_path: Path) -> None:
    folder = protos(tmp_path / "tree", **{"a/shop.proto": PROTO})
    (folder / "a" / "again").symlink_to(folder)
    (folder / "b").mkdir()
    (folder / "b" / "other.proto").symlink_to(folder / "a" / "shop.proto")
    assert load(folder, exclude=["a/shop.proto"]).packages == {"shop"}


@pytest.mark.parametrize("spec", ["/dev/zero", "/dev/stdin", "/dev/null"])
def test_a_device_is_not_read(spec: str, refused: Refused) -> None:
    assert spec in refused("diff", spec, "self")


def test_a_pipe_as_the_contract_does_not_block(tmp_path: Path, refused: Refused) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "neither a regular file nor a folder" in refused("diff", tmp_path / "pipe", "self")


# --- sizes ---------------------------------------------------------------------------------------


def test_a_member_that_unpacks_beyond_the_limit_is_rejected(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says of itself that it is small."""
    for limit in ("MAX_DESCRIPTORS_BYTES", "MAX_MODULE_BYTES", "MAX_PROTO_BYTES"):
        monkeypatch.setattr(_limits, limit, 2**20)
    for name in ("smg_proto/descriptors.binpb", "x_pb2.py", "x.proto"):
        path = tmp_path / "bomb.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr(name, b"\0" * (2 * 2**20))
        data = path.read_bytes()
        path.write_bytes(data.replace(struct.pack("<I", 2 * 2**20), struct.pack("<I", 10)))
        result = refused("diff", path, "self")
        assert "MiB" in result or "damaged" in result or "not a FileDescriptorSet" in result


def test_a_crate_that_unpacks_beyond_the_limit_is_rejected(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_limits, "MAX_UNPACKED_BYTES", 2**20)
    path = tmp_path / "bomb.crate"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("bomb-1.0/data.bin")
        member.size = 10 * 2**20
        archive.addfile(member, io.BytesIO(b"\0" * member.size))
    assert "1 MiB" in refused("diff", path, "self")


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_methods_without_a_bound_are_rejected(
    kind: int, tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w", kind) as wheel:
        wheel.writestr("x.proto", PROTO)
    assert "neither stored nor deflated" in refused("diff", path, "self")


def test_encrypted_and_damaged_members_are_named(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("x_pb2.py", "x = 1\n" * 1000)
    whole = path.read_bytes()
    locked = bytearray(whole)
    locked[6] |= 1
    locked[whole.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    assert "x_pb2.py is encrypted" in refused("diff", path, "self")
    path.write_bytes(whole[:45] + b"\xff" * 10 + whole[55:])
    assert "x_pb2.py" in refused("diff", path, "self")


def test_a_member_that_goes_on_beyond_the_archive_is_named(
    tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("folder/", "")
        wheel.writestr("x.proto", PROTO)
    assert load(path).packages == {"shop"}
    sizes = struct.pack("<II", len(PROTO), len(PROTO))
    assert path.read_bytes().count(sizes) == 2
    path.write_bytes(path.read_bytes().replace(sizes, struct.pack("<II", 10**6, 10**6)))
    output = refused("diff", path, "self").partition(f"{path}: x.proto ")[2]
    assert output.startswith(("cannot be unpacked: it ends early\n", "is damaged: Overlapped"))


def test_a_crate_that_ends_early_is_not_read_in_part(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "x.crate"
    with tarfile.open(path, "w:gz") as archive:
        for name, size in (("a.proto", len(PROTO)), ("b.proto", 100_000)):
            member = tarfile.TarInfo(f"x-1.0/{name}")
            member.size = size
            archive.addfile(member, io.BytesIO(PROTO.encode().ljust(size)))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:50_000]))
    assert f"{path}: not a readable archive: " in refused("diff", path, "self")


def test_a_crate_that_cannot_be_opened_is_named(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise PermissionError(13, "Permission denied")  # root may read anything

    path = tmp_path / "x.crate"
    path.touch()
    monkeypatch.setattr(Path, "open", locked)
    assert f"{path}: not a readable archive: [Errno 13] Permission denied" in refused(
        "diff", path, "self"
    )


def test_a_broken_crate_is_one_line(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "x.crate"
    for data in (b"", b"no archive", gzip.compress(b"no tar"), gzip.compress(b"x" * 3000)[:-20]):
        path.write_bytes(data)
        refused("diff", path, "self")


@pytest.mark.parametrize(
    ("limit", "value", "word"),
    [
        ("MAX_PROTO_FILES", 1, "more than 1 proto files"),
        ("MAX_PROTO_BYTES", 20, "larger than 0 KiB"),
        ("MAX_PROTOS_BYTES", 80, "more than 0 KiB of protos"),
        ("MAX_FOLDER_ENTRIES", 1, "more than 1 entries"),
        ("MAX_FOLDER_DEPTH", 0, "more than 0 deep"),
        ("COMPILE_SECONDS", -1.0, "within -1 s"),
        ("MAX_DESCRIPTORS_BYTES", 20, "compiles to more than 0 KiB of descriptors"),
    ],
)
def test_each_limit_of_a_folder_is_named(
    limit: str,
    value: float,
    word: str,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = PROTO.replace("shop", "b")
    folder = protos(tmp_path / "tree", **{"shop.proto": PROTO, "b/b.proto": other})
    monkeypatch.setattr(_limits, limit, value)
    assert word in refused("diff", folder, "self")


def test_a_set_of_descriptors_from_anywhere_has_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = described(chain(1))
    monkeypatch.setattr(_files, "MAX_DESCRIPTORS_BYTES", len(data))
    assert len(_files.parse(data, "it").file) == 1
    monkeypatch.setattr(_files, "MAX_DESCRIPTORS_BYTES", len(data) - 1)
    with pytest.raises(ContractError, match=r"^it: more than 0 KiB of descriptors$"):
        _files.parse(data, "it")


# --- descriptors ---------------------------------------------------------------------------------


def described(*files: FileDescriptorSet) -> bytes:
    return b"".join(each.SerializeToString() for each in files)


def chain(length: int) -> FileDescriptorSet:
    """Files that import one another in a row, and types that hold one another in a row."""
    found = FileDescriptorSet()
    for n in range(length):
        file = found.file.add(name=f"f{n}.proto", package="c", syntax="proto3")
        message = file.message_type.add(name=f"M{n}")
        message.field.add(name="x", number=1, label=1, type=FieldDescriptorProto.TYPE_INT32)
        if n:
            file.dependency.append(f"f{n - 1}.proto")
            message.field.add(name="m", number=2, label=1, type=11, type_name=f".c.M{n - 1}")
    return found


def test_a_long_chain_of_imports_and_types_is_read(tmp_path: Path) -> None:
    old, new = chain(900), chain(900)
    new.file[0].message_type[0].field[0].type = FieldDescriptorProto.TYPE_STRING
    old_path, new_path = tmp_path / "old.binpb", tmp_path / "new.binpb"
    old_path.write_bytes(old.SerializeToString())
    new_path.write_bytes(new.SerializeToString())
    assert diff(load(old_path), load(new_path)).verdict == "data"
    assert diff(load(old_path), load(old_path)).verdict == "compatible"


def test_chains_beyond_the_limit_and_deep_nesting_are_one_line(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "old.binpb", tmp_path / "new.binpb"
    old, new = chain(3000), chain(3000)
    new.file[-1].message_type[0].field[0].type = FieldDescriptorProto.TYPE_STRING
    path.write_bytes(old.SerializeToString())
    other.write_bytes(new.SerializeToString())
    assert diff(load(path), load(other)).verdict == "data"
    # Pure Python makes the classes of all that a message holds beforehand.
    monkeypatch.setattr(_contract, "_EAGER", True)
    assert "chain of more than" in refused("diff", path, other)
    nested = FileDescriptorSet()
    message = nested.file.add(name="n.proto", package="n").message_type.add(name="M")
    for _ in range(500):
        message = message.nested_type.add(name="M")
    path.write_bytes(nested.SerializeToString())
    assert "nested more than 100 levels deep" in refused("diff", path, "self")


def test_cycles_duplicates_and_other_contradictions_are_one_line(
    tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "x.binpb"
    circle = FileDescriptorSet()
    circle.file.add(name="a.proto", dependency=["b.proto"])
    circle.file.add(name="b.proto", dependency=["a.proto"])
    itself = FileDescriptorSet()
    itself.file.add(name="a.proto", dependency=["a.proto"])
    twice = FileDescriptorSet()
    twice.file.add(name="a.proto", package="one")
    twice.file.add(name="a.proto", package="two")
    for spoilt in (circle, itself, twice):
        path.write_bytes(spoilt.SerializeToString())
        assert "a.proto" in refused("diff", path, "self")


@pytest.mark.parametrize(
    "names",
    [(("foo_bar", ""), ("fooBar", "")), (("a", "x"), ("b", "x")), (("a", "foo"), ("foo", ""))],
)
def test_two_fields_with_one_json_name_are_allowed_in_proto2(
    names: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    files = FileDescriptorSet()
    outer = files.file.add(name="a.proto", package="a").message_type.add(name="M")
    for message in (outer, outer.nested_type.add(name="N")):
        for number, (name, json_name) in enumerate(names, 1):
            field = message.field.add(name=name, number=number, label=1, type=5)
            if json_name:
                field.json_name = json_name
    path = tmp_path / "x.binpb"
    path.write_bytes(files.SerializeToString())
    assert diff(load(path), load(path)).verdict == "compatible"


def test_an_invalid_file_of_a_known_edition_is_called_invalid() -> None:
    file = FileDescriptorProto(name="a.proto", syntax="editions", dependency=["gone.proto"])
    file.MergeFromString(b"\x70\xe8\x07")  # edition 2023
    with pytest.raises(ContractError, match=r"^here: a\.proto is not valid: "):
        _files.pool_of([file], "here")


def test_the_newest_edition_is_none_of_those_for_tests() -> None:
    assert _files._newest([998, 1001, 1000, 9000, 9999, 99997]) == 1001
    assert _files._newest([8999]) == 8999
    assert _files._newest([]) == 0


def test_an_error_is_one_line_of_limited_length() -> None:
    assert str(ContractError("a\n  b\x1b")) == r"a b\x1b"
    assert str(ContractError("x" * 2000)) == f"{'x' * 1000}… (2000 characters)"


def test_the_error_for_a_newer_edition_says_what_to_install(
    tmp_path: Path, refused: Refused
) -> None:
    files = smg_proto.descriptor_set()
    files.file[-1].syntax = "editions"
    files.file[-1].edition = 99998  # type: ignore[assignment]
    path = tmp_path / "x.binpb"
    path.write_bytes(files.SerializeToString())
    assert "edition" in refused("diff", path, "self")


# --- text of others, and failures ----------------------------------------------------------------


EVIL_OPTION = 'option java_package = "\\033[31m\\u202e";'


@pytest.mark.parametrize(
    ("number", "known", "hint"),
    [
        (1000, 1000, ""),
        (1000, 0, "2023, which the installed protobuf cannot read; install protobuf 5.27 or newer"),
        (
            1001,
            1000,
            "2024, which the installed protobuf cannot read; install protobuf 6.32 or newer",
        ),
        (
            1002,
            1001,
            "number 1002, which the installed protobuf cannot read; install a newer protobuf",
        ),
    ],
)
def test_the_release_that_knows_an_edition_is_named(
    number: int, known: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newest(numbers: object) -> int:
        return known

    def edition(file: FileDescriptorProto) -> int:
        return number

    monkeypatch.setattr(_files, "_newest", newest)
    monkeypatch.setattr(_files, "edition", edition)
    file = FileDescriptorProto(name="a.proto", syntax="editions")
    assert _files._too_new(file) == (f"uses edition {hint}" if hint else "")


def test_an_import_never_imports_a_python_module(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_pb2.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("evil.proto", "google/protobuf/no_such.proto", "google/protobuf/any"):
        file = FileDescriptorProto(name="a.proto", dependency=[name])
        path = tmp_path / "a.binpb"
        path.write_bytes(FileDescriptorSet(file=[file]).SerializeToString())
        assert f"a.proto imports {name}, which is not included" in refused("diff", path, "self")


def test_control_characters_of_a_contract_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = protos(tmp_path / "old")
    new = protos(
        tmp_path / "new",
        **{"shop.proto": PROTO.replace("package", f"{EVIL_OPTION} package")},
    )
    for form in ("text", "markdown", "github", "json", "sarif", "junit"):
        assert main(["diff", str(old), str(new), "--format", form]) == 1
        shown = capsys.readouterr().out
        assert all(line.isprintable() for line in shown.split("\n")), form
        assert "[31m" in shown


def test_an_unexpected_error_is_one_line_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LookupError("oh\x1b[31m")

    monkeypatch.setattr("smg_proto.cli._diff.diff", broken)
    assert main(["diff", "self", "self"]) == 2
    output = capsys.readouterr().err
    assert output == (
        "smg-proto diff: unexpected LookupError: oh\\x1b[31m; "
        "set SMG_PROTO_TRACEBACK=1 for a traceback\n"
    )
    monkeypatch.setenv("SMG_PROTO_TRACEBACK", "1")
    assert main(["diff", "self", "self"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_there_is_no_verdict_if_the_output_cannot_be_written() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "smg_proto", "diff", "self", "self"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_a_hanging_compiler_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "bin" / "buf"
    slow.parent.mkdir()
    slow.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n", encoding="utf-8")
    slow.chmod(0o755)
    monkeypatch.setattr(_limits, "COMPILE_SECONDS", 1.0)
    monkeypatch.setattr("smg_proto.compat._compile.program", lambda name: str(slow))
    with pytest.raises(ContractError, match="did not end within"):
        load(protos(tmp_path / "tree"))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert threading.active_count() < 50


def test_a_long_line_or_a_large_file_of_configuration_is_not_a_problem(
    tmp_path: Path, refused: Refused
) -> None:
    folder = protos(tmp_path / "tree")
    for text in ("a" * 5000 + ":", "- " * 300_000, "a:\n" * 100_000, "version: v2\n&x\n"):
        (folder / "buf.yaml").write_text(text, encoding="utf-8")
        assert "buf.yaml" in refused("diff", folder, "self")
    assert _tree.is_relevant("x/.hidden/a.proto") is False
