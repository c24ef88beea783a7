"""Each limit on untrusted input, where it begins: what is at the limit is read, more is not."""

import gzip
import io
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet
from support import need, run

from smg_proto.compat import ContractError, _contract, _files, _limits, _load, _programs, diff, load
from smg_proto.compat._limits import size
from smg_proto.compat._programs import ProgramError

HEAD = b'syntax = "proto3";\n'
FILES = {"a.proto": HEAD, "b.proto": HEAD + b'import "a.proto";\n'}
BYTES = sum(map(len, FILES.values()))
MODULE = "DESCRIPTOR = pool.AddSerializedFile({!r})\n"


def folder(top: Path) -> Path:
    (top / "deep" / "er").mkdir(parents=True)
    for name, data in FILES.items():
        (top / name).write_bytes(data)
    return top


def wheel(top: Path) -> Path:
    path = top.with_suffix(".whl")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return path


def unpacked(top: Path) -> bytes:
    """A tar with a file that is no proto before the protos."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in {"README": b"x" * 1000, **FILES}.items():
            member = tarfile.TarInfo(f"{top.name}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def crate(top: Path) -> Path:
    path = top.with_suffix(".crate")
    path.write_bytes(gzip.compress(unpacked(top)))
    return path


def descriptors(top: Path) -> Path:
    """Two files with a chain of three types."""
    files = FileDescriptorSet()
    for name in ("a", "b"):
        file = files.file.add(name=f"{name}.proto", package=name, syntax="proto3")
        for number in range(3):
            message = file.message_type.add(name=f"M{number}")
            message.field.add(name="x", number=1, label=1, type=FieldDescriptorProto.TYPE_INT32)
            if number:
                inner = f".{name}.M{number - 1}"
                message.field.add(name="y", number=2, label=1, type=11, type_name=inner)
    path = top.with_suffix(".binpb")
    path.write_bytes(files.SerializeToString())
    return path


def modules(top: Path) -> Path:
    files = FileDescriptorSet.FromString(descriptors(top).read_bytes()).file
    path = top.with_suffix(".whl")
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            data = MODULE.format(file.SerializeToString()).ljust(1000)
            archive.writestr(f"{file.package}_pb2.py", data)
    return path


TREE_BYTES = max(map(len, FILES.values()))
# What is read; the limit; its value that is just enough; what is said beyond it.
LIMITS: list[tuple[Callable[[Path], Path], str, int, str]] = [
    (folder, "MAX_PROTO_FILES", 2, "more than 1 proto files; exclude some"),
    (folder, "MAX_PROTO_BYTES", TREE_BYTES, "b.proto: larger than 0 KiB"),
    (folder, "MAX_PROTOS_BYTES", BYTES, "more than 0 KiB of protos; exclude some"),
    (folder, "MAX_FOLDER_ENTRIES", 4, "more than 3 entries; give a subfolder"),
    (folder, "MAX_FOLDER_DEPTH", 2, "folders nested more than 1 deep: deep/er"),
    (wheel, "MAX_PROTO_FILES", 2, "more than 1 proto files; exclude some"),
    (wheel, "MAX_PROTO_BYTES", TREE_BYTES, "b.proto is larger than 0 KiB"),
    (wheel, "MAX_PROTOS_BYTES", BYTES, "more than 0 KiB of protos; exclude some"),
    (wheel, "MAX_ARCHIVE_MEMBERS", 2, "more than 1 members"),
    (crate, "MAX_PROTO_FILES", 2, "more than 1 proto files; exclude some"),
    (crate, "MAX_PROTO_BYTES", TREE_BYTES, "b.proto is larger than 0 KiB"),
    (crate, "MAX_PROTOS_BYTES", BYTES, "more than 0 KiB of protos; exclude some"),
    (crate, "MAX_ARCHIVE_MEMBERS", 3, "more than 2 members"),
    (descriptors, "MAX_DESCRIPTOR_FILES", 2, "more than 1 files"),
    (modules, "MAX_MODULE_BYTES", 1000, "_pb2.py is larger than 0 KiB"),
    (modules, "MAX_DESCRIPTORS_BYTES", 2000, "more than 1 KiB of generated modules"),
]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    def change(name: str, value: int) -> None:
        for module in (_limits, _files, _contract, _load, _programs):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)

    return change


@pytest.mark.parametrize(
    ("make", "name", "enough", "problem"), LIMITS, ids=[f"{m.__name__} {n}" for m, n, *_ in LIMITS]
)
def test_a_limit_begins_beyond_its_value(
    make: Callable[[Path], Path],
    name: str,
    enough: int,
    problem: str,
    tmp_path: Path,
    limit: Callable[[str, int], None],
) -> None:
    path = make(tmp_path / "it")
    limit(name, enough)
    assert load(path).files
    limit(name, enough - 1)
    with pytest.raises(ContractError) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert str(raised.value).endswith(problem)


def test_a_file_of_descriptors_or_an_archive_may_be_as_large_as_its_limit(
    tmp_path: Path, limit: Callable[[str, int], None]
) -> None:
    for make, name in ((descriptors, "MAX_DESCRIPTORS_BYTES"), (wheel, "MAX_ARCHIVE_BYTES")):
        path = make(tmp_path / "it")
        limit(name, path.stat().st_size)
        assert load(path).files
        limit(name, path.stat().st_size - 1)
        with pytest.raises(ContractError, match="larger than 0 KiB"):
            load(path)
        limit(name, 2**30)


def test_a_crate_may_unpack_to_as_much_as_the_limit(
    tmp_path: Path, limit: Callable[[str, int], None]
) -> None:
    path, whole = crate(tmp_path / "it"), len(unpacked(tmp_path / "it"))
    limit("MAX_UNPACKED_BYTES", whole)
    assert load(path).files
    limit("MAX_UNPACKED_BYTES", 3000)
    with pytest.raises(ContractError, match=r"it\.crate: unpacks to more than 2 KiB"):
        load(path)


def test_a_chain_of_types_may_be_as_long_as_its_limit(
    tmp_path: Path, limit: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the runtime makes the classes of all that a message holds beforehand."""
    monkeypatch.setattr(_contract, "_EAGER", True)
    path, other = descriptors(tmp_path / "old"), tmp_path / "new.binpb"
    files = FileDescriptorSet.FromString(path.read_bytes())
    files.file[0].message_type[2].field[0].type = FieldDescriptorProto.TYPE_STRING
    other.write_bytes(files.SerializeToString())
    limit("MAX_TYPE_CHAIN", 3)
    assert diff(load(path), load(other)).verdict == "data"
    limit("MAX_TYPE_CHAIN", 2)
    with pytest.raises(ContractError, match=r": a\.M2 holds a chain of more than 2 types$"):
        diff(load(path), load(other))


def test_a_revision_has_the_limits_of_a_folder(
    tmp_path: Path, limit: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("git")
    folder(tmp_path / "it")
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for words in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-q", "-m", "first")):
        run("git", *words, cwd=tmp_path / "it")
    monkeypatch.chdir(tmp_path / "it")
    for name, enough, problem in (
        ("MAX_PROTO_FILES", 2, "more than 1 proto files; exclude some"),
        ("MAX_PROTO_BYTES", TREE_BYTES, "b.proto is larger than 0 KiB"),
        ("MAX_PROTOS_BYTES", BYTES, "more than 0 KiB of protos; exclude some"),
    ):
        before = getattr(_limits, name)
        limit(name, enough)
        assert load("git:HEAD").files
        limit(name, enough - 1)
        with pytest.raises(ContractError, match=f"git:HEAD: .*{problem}"):
            load("git:HEAD")
        limit(name, before)
    limit("MAX_DESCRIPTORS_BYTES", 0)
    limit("MAX_PROTOS_BYTES", BYTES - 1)
    with pytest.raises(ContractError, match=r"^git:HEAD: more than 0 KiB of protos; exclude some$"):
        load("git:HEAD")


PYTHON = Path(sys.executable).name


def python(code: str, seconds: float = 30, **options: Any) -> bytes:
    return _programs.run([sys.executable, "-c", code], "it", seconds=seconds, **options)


def test_a_program_may_print_as_much_as_its_limit() -> None:
    def printed(count: int) -> bytes:
        return python(f"print('x' * {count}, end='')", limit=1024)

    assert printed(1024) == b"x" * 1024
    with pytest.raises(ContractError, match=rf"^it: {PYTHON} printed more than 1 KiB$"):
        printed(1025)


def test_a_program_that_fails_or_is_not_there_is_named() -> None:
    code = "import sys; print(sys.stdin.read(), end=''); print('no', file=sys.stderr)"
    assert python(code, stdin=b"given") == b"given"
    for code, output in (
        ("import sys; print('out'); sys.exit(' err ')", "err"),
        ("import sys; print('out'); sys.exit(1)", "out"),
        ("import sys; sys.exit(3)", "3"),
    ):
        with pytest.raises(ProgramError, match=rf"^it: {PYTHON} failed: {output}$") as raised:
            python(code)
        assert raised.value.output == ("" if output == "3" else output)
    with pytest.raises(ContractError, match=r"^it: could not run no-such-program: "):
        _programs.run(["/no-such-program"], "it", seconds=30)
    with pytest.raises(ContractError, match=rf"^it: {PYTHON} did not end within 0\.1 s$"):
        python("import time; time.sleep(60)", seconds=0.1)


def test_a_program_is_found_on_the_path_or_beside_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder in ("first", "beside"):
        tool = tmp_path / folder / "tool"
        tool.parent.mkdir()
        tool.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "first"))
    assert _programs.program("tool") == str(tmp_path / "first" / "tool")
    monkeypatch.setenv("PATH", "")
    assert _programs.program("tool") == str(tmp_path / "beside" / "tool")
    assert _programs.program("other") is None


def test_a_program_sees_the_environment_and_what_is_added_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIVEN", "1")
    code = "import os; print(os.environ['GIVEN'], os.environ['ADDED'], os.getcwd())"
    output = python(code, environment={"ADDED": "2"}, cwd=tmp_path)
    assert output.decode().split() == ["1", "2", str(tmp_path)]


def test_sizes_are_told_in_the_unit_that_fits() -> None:
    assert [size(count) for count in (0, 1023, 1024, 2**20 - 1, 2**20, 3 * 2**20)] == [
        "0 KiB", "0 KiB", "1 KiB", "1023 KiB", "1 MiB", "3 MiB",
    ]  # fmt: skip
