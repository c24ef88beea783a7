"""A contract is read from wherever it is; what cannot be read gets one line that says why."""

import json
import random
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import Edition, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as F
from support import ROOT, missing, need, run

import smg_proto
from smg_proto.cli import main
from smg_proto.compat import ContractError, diff, load
from smg_proto.compat._load import release_of

PROTO = 'syntax = "proto3";\npackage shop;\n{imports}message Order {{ {fields} }}\n'


def tree(folder: Path, fields: str, imports: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "shop.proto").write_text(
        PROTO.format(fields=fields, imports=imports), encoding="utf-8"
    )
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """What the command says when it cannot read its input: one line, and nothing else."""
    assert main([str(word) for word in words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1, output.err
    return output.err


def modules_of_this_package() -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / "smg_proto").rglob("*_pb2.py")):
        yield path, path.relative_to(ROOT).as_posix()


# --- what can be read ----------------------------------------------------------------------------


def test_every_form_of_this_contract_is_the_same_contract(tmp_path: Path) -> None:
    binary = tmp_path / "contract.binpb"
    binary.write_bytes(smg_proto.descriptor_set().SerializeToString())
    modules, descriptors = tmp_path / "modules.whl", tmp_path / "descriptors.whl"
    with zipfile.ZipFile(modules, "w") as wheel:
        for path, name in modules_of_this_package():
            if (
                path.name not in ("smg_pb2.py", "openengine_pb2.py")
                or path.parent.name != "smg_proto"
            ):
                wheel.write(path, name)
    with zipfile.ZipFile(descriptors, "w") as wheel:
        wheel.write(ROOT / "smg_proto" / "descriptors.binpb", "smg_proto/descriptors.binpb")
    every = load("self").packages
    for spec in (binary, modules, descriptors, ROOT / "proto", ROOT):
        # The modules of these mirrors have their engine's own descriptors, without our options.
        theirs = {"vllm", "sglang.runtime.v1", "openengine.v1"} if spec == modules else set()
        report = diff(load(spec), load("self"), packages=every - theirs)
        assert report.findings == (), f"{spec}\n{report.text()}"
        assert len(load(spec).messages) == len(load("self").messages)


def test_a_wheel_is_read_without_running_its_code(tmp_path: Path) -> None:
    path = tmp_path / "trap.whl"
    proof = tmp_path / "it ran"
    source = (ROOT / "smg_proto" / "llm_pb2.py").read_text(encoding="utf-8")
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("trap/llm_pb2.py", f"open({str(proof)!r}, 'w')\n{source}")
    assert "entity.grpc.LLMService" in load(path).services
    assert not proof.exists()


def test_a_wheel_with_protos_only_is_compiled(tmp_path: Path) -> None:
    path = tmp_path / "protos.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("shop.proto", PROTO.format(fields="string id = 1;", imports=""))
    assert load(path).packages == {"shop"}
    assert load(path.rename(tmp_path / "protos.zip")).packages == {"shop"}


def described(name: str, *imports: str, field: str = "a") -> FileDescriptorProto:
    """`NAME.proto` with the message `NAME.M`, which holds the messages of its imports."""
    file = FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto3")
    message = file.message_type.add(name="M")
    message.field.add(name=field, number=1, label=F.LABEL_OPTIONAL, type=F.TYPE_INT32)
    for number, imported in enumerate(imports, 2):
        file.dependency.append(f"{imported}.proto")
        message.field.add(
            name=imported,
            number=number,
            label=F.LABEL_OPTIONAL,
            type=F.TYPE_MESSAGE,
            type_name=f".{imported}.M",
        )
    return file


def as_wheel(stem: Path, **modules: FileDescriptorProto) -> Path:
    path = Path(f"{stem}.whl")
    with zipfile.ZipFile(path, "w") as wheel:
        for name, file in modules.items():
            source = f"DESCRIPTOR = pool.AddSerializedFile({file.SerializeToString()!r})\n"
            wheel.writestr(f"pack/{name}_pb2.py", source)
    return path


def as_set(stem: Path, **files: FileDescriptorProto) -> Path:
    path = Path(f"{stem}.binpb")
    path.write_bytes(FileDescriptorSet(file=files.values()).SerializeToString())
    return path


@pytest.mark.parametrize("write", [as_wheel, as_set])
def test_descriptors_may_import_those_of_something_included(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = write(tmp_path / "old", a=described("a", "b"))
    new = write(tmp_path / "new", a=described("a", "b", field="z"))
    output = refused(capsys, "diff", old, new)
    assert "a.proto imports b.proto, which is not included; " in output
    assert "-I" in output
    also = as_wheel(tmp_path / "b", b=described("b", "c"), d=described("d", "gone"))
    more = as_wheel(tmp_path / "c", c=described("c"))
    assert "b.proto imports c.proto" in refused(capsys, "diff", old, new, "-I", str(also))
    for including in ([also, more], [more, also]):
        report = diff(load(old, include=including), load(new, include=including))
        assert {finding.symbol for finding in report.findings} == {"a.M.a"}
    assert load(old, include=including).packages == {"a"}
    folder = tmp_path / "protos"
    folder.mkdir()
    (folder / "b.proto").write_text(
        'syntax = "proto3";\npackage b;\nmessage M {}\n', encoding="utf-8"
    )
    (folder / "broken.proto").write_text("not a proto", encoding="utf-8")
    assert "b.M" in load(old, include=[folder, tmp_path / "not read"]).messages


def test_the_wheel_that_has_the_imports_of_google_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = described("a")
    file.dependency.append("google/api/annotations.proto")
    wheel = as_wheel(tmp_path / "a", a=file)
    assert "pypi:googleapis-common-protos==" in refused(capsys, "diff", wheel, wheel)


@pytest.mark.parametrize("write", [as_wheel, as_set])
def test_descriptors_with_missing_imports_can_be_left_out(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"a": described("a", "gone"), "b": described("b", "a"), "c": described("c", "b")}
    old = write(tmp_path / "old", d=described("d"), **files)
    new = write(tmp_path / "new", d=described("d", field="z"), **files)
    kept = load(old, keep_going=True)
    assert set(kept.messages) == {"d.M"}
    assert {name: "imports" in why for name, why in kept.skipped.items()} == dict.fromkeys(
        ["a.proto", "b.proto", "c.proto"], True
    )
    assert main(["diff", str(old), str(new), "--keep-going"]) == 1
    output = capsys.readouterr()
    assert "d.M.a: Renamed to z" in output.out
    assert output.err.count("\n") == 3
    many = {f"m{number}": described(f"m{number}", f"gone{number}") for number in range(101)}
    broken = write(tmp_path / "many", d=described("d"), **many)
    assert "imports gone" in refused(capsys, "diff", broken, old)
    with pytest.raises(ContractError, match="more than 100 files lack an import; the last is"):
        load(broken, keep_going=True)
    alone = write(tmp_path / "alone", a=described("a", "gone"))
    assert "a.proto imports gone.proto" in refused(capsys, "diff", alone, alone, "--keep-going")


@pytest.mark.parametrize("write", [as_wheel, as_set])
def test_files_can_be_excluded_from_descriptors(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "all", a=described("a", "b"), b=described("b"), c=described("c"))
    less = load(path, exclude=["[bc].proto"])
    assert less.packages == {"a"}
    assert set(less.messages) == {"a.M", "b.M"}  # a imports b
    assert "every file is excluded" in refused(capsys, "diff", path, path, "--exclude", "*.proto")


def test_custom_options_may_be_encoded_in_two_ways_in_one_wheel(tmp_path: Path) -> None:
    first, second = described("a"), described("a")
    first.options.MergeFromString(b"\xca\x3e\x00")
    second.options.MergeFromString(b"\xc8\x3e\x01")
    assert set(load(as_wheel(tmp_path / "a", one=first, two=second)).messages) == {"a.M"}


@pytest.mark.parametrize(
    "call", ["pool.AddSerializedFile(\n    {}\n)", "D(serialized_pb=(\n  {}\n))"]
)
def test_generated_modules_may_be_renamed_and_formatted(call: str, tmp_path: Path) -> None:
    data = described("a").SerializeToString()
    literal = f"{data[:9]!r}\n    {data[9:]!r}"
    path = tmp_path / "a.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("pack/__init__.py", "from pack import shop\n")
        wheel.writestr("pack/shop.py", f"DESCRIPTOR = {call.format(literal)}\n")
    assert set(load(path).messages) == {"a.M"}


def module(path: Path, source: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("a/README", "not a module")
        wheel.writestr("a/__init__.py", "# no descriptors here")
        wheel.writestr("a/shop_pb2.py", source)
    return path


def test_only_generated_modules_of_a_wheel_are_read_in_any_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = f"DESCRIPTOR = pool.AddSerializedFile({described('a').SerializeToString()!r})\n"
    source = b"# caf\xe9, in Latin-1\n" + call.encode()
    assert set(load(module(tmp_path / "latin.whl", source)).messages) == {"a.M"}
    for name, call, problem in (
        ("escape", r"AddSerializedFile(b'\xg')", "a/shop_pb2.py: not a Python module: "),
        ("letter", r"serialized_pb=_b('\u0100')", "a/shop_pb2.py: invalid descriptor"),
        ("damage", r"AddSerializedFile(b'\xff')", "a/shop_pb2.py: invalid descriptor"),
    ):
        path = module(tmp_path / f"{name}.whl", call.encode())
        assert f"{path}: {problem}" in refused(capsys, "diff", path, "self")


@pytest.mark.parametrize("write", [as_wheel, as_set])
def test_each_file_without_its_imports_counts_once(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smg_proto.compat._limits.MAX_BROKEN_FILES", 2)
    broken = {name: described(name, "d", "inc", f"gone{name}", "too") for name in "abc"}
    include = [as_wheel(tmp_path / "inc", inc=described("inc"))]
    two = write(tmp_path / "two", d=described("d"), a=broken["a"], b=broken["b"])
    found = load(two, include=include, keep_going=True)
    assert (set(found.packages), set(found.skipped)) == ({"d"}, {"a.proto", "b.proto"})
    assert "a.proto imports gonea.proto, which is not included; " in found.skipped["a.proto"]
    three = write(tmp_path / "three", d=described("d"), **broken)
    with pytest.raises(ContractError, match="more than 2 files lack an import; the last is"):
        load(three, include=include, keep_going=True)
    with pytest.raises(ContractError, match="imports gone"):
        load(two, include=include)


def test_a_broken_file_is_left_out_only_if_asked(tmp_path: Path) -> None:
    folder = tree(tmp_path / "shop", "string id = 1;")
    (folder / "broken.proto").write_text("message {", encoding="utf-8")
    with pytest.raises(ContractError, match=r"broken\.proto"):
        load(folder)
    assert load(folder, keep_going=True).packages == {"shop"}
    assert load(folder, exclude=["broken.proto"]).packages == {"shop"}


def test_packages_that_are_foreign_can_be_chosen_for_every_source(tmp_path: Path) -> None:
    binary = as_set(tmp_path / "set", a=described("a"), b=described("b"))
    wheel = as_wheel(tmp_path / "wheel", a=described("a"), b=described("b"))
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        text = f'syntax = "proto3";\npackage {name};\nmessage M {{}}\n'
        (folder / f"{name}.proto").write_text(text, encoding="utf-8")
    descriptors = tmp_path / "descriptors.whl"
    with zipfile.ZipFile(descriptors, "w") as archive:
        archive.write(binary, "smg_proto/descriptors.binpb")
    for path in (binary, wheel, folder, descriptors):
        assert load(path).packages == {"a", "b"}
        assert load(path, foreign=["a"]).packages == {"b"}
    assert load("self", foreign=["smg", "vllm"]).packages.isdisjoint(
        {"smg.v1", "smg.grpc.common", "vllm.grpc.engine", "vllm"}
    )


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        ("self", smg_proto.__version__),
        ("pypi:some==1.2", "1.2"),
        ("pypi:some", None),
        ("crate:some@1.2+x", "1.2+x"),
        ("crate:some", None),
        ("git:v1.2", None),
        ("some==1.2", None),
    ],
)
def test_the_version_that_a_spec_names_is_known(spec: str, version: str | None) -> None:
    assert release_of(spec) == version


def test_a_newer_edition_is_read(tmp_path: Path) -> None:
    file = described("a")
    file.syntax, file.edition = "editions", Edition.EDITION_2024
    field = load(as_set(tmp_path / "a", a=file)).messages["a.M"].fields[1]
    assert field.presence == "explicit"


def test_a_git_revision_is_read_from_its_descriptors_or_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("git")
    repository = tree(tmp_path / "repository", "string id = 1;").parent / "repository"

    def git(*words: str) -> None:
        run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words, cwd=repository)

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (repository / "shop.proto").write_text(
        PROTO.format(fields="int32 id = 1;", imports=""), encoding="utf-8"
    )
    (repository / "folder").mkdir()
    monkeypatch.chdir(repository / "folder")
    assert diff(load("git:HEAD"), load(repository)).verdict == "data"
    (repository / "smg_proto").mkdir()
    binary = smg_proto.descriptor_set().SerializeToString()
    (repository / "smg_proto" / "descriptors.binpb").write_bytes(binary)
    git("add", ".")
    git("commit", "-q", "-m", "second")
    assert load("git:HEAD").packages == load("self").packages
    ours = load("git:HEAD", foreign=["smg", "vllm"]).packages
    assert ours and not any(name.startswith(("smg", "vllm")) for name in ours)


# --- what the command prints ---------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    old = tree(tmp_path / "old", "string id = 1; int32 count = 2;")
    return old, tree(tmp_path / "new", "string id = 1; string total = 3;")


def test_the_exit_status_is_1_from_the_given_class_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tree(tmp_path / "old", "int32 count = 1;")
    renamed = tree(tmp_path / "new", "int32 total = 1;")
    for level, code in {"source": 1, "json": 1, "presence": 0, "rpc": 0, "data": 0}.items():
        assert main(["diff", str(old), str(renamed), "--level", level]) == code
    assert main(["diff", "self", "self"]) == 0
    assert "verdict: compatible" in capsys.readouterr().out


def test_json_has_the_verdict_and_each_finding_with_its_witness(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", *map(str, pair), "--format", "json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result.keys() == {"old", "new", "verdict", "findings", "packages", "accepted"}
    assert result["verdict"] == "data"
    keys = {"class", "package", "symbol", "message", "removal", "by_name", "file", "line"}
    assert all(f.keys() >= keys | {"witness"} for f in result["findings"])
    (lost,) = (f for f in result["findings"] if f["class"] == "data")
    assert lost["symbol"] == "shop.Order.count"
    assert lost["witness"]["bytes"] == "1007"
    assert lost["witness"]["sent"] == "count: 7"
    assert lost["witness"]["outcome"] == "lost"
    assert {f["class"] for f in result["findings"] if f["witness"] is None} == {
        "json",
        "source",
        "notice",
    }


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_text_output_has_the_symbol_the_affected_side_and_the_bytes(
    form: str, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", *map(str, pair), "--format", form]) == 1
    result = capsys.readouterr().out
    for word in (
        "shop.Order.count",
        "a new reader loses",
        "1007",
        "count: 7",
        "old to new",
        "data",
    ):
        assert word in result


def test_only_the_given_packages_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = smg_proto.descriptor_set()
    for file in files.file:
        if file.package in ("entity.grpc", "trtllm"):
            del file.service[:]
    path = tmp_path / "less.binpb"
    path.write_bytes(files.SerializeToString())
    for package, code in {"entity.grpc": 1, "trtllm": 1, "smg.v1": 0}.items():
        assert main(["diff", "self", str(path), "--package", package]) == code
    capsys.readouterr()
    assert "entity.grpc" in refused(capsys, "diff", "self", "self", "--package", "no.such")


# --- what cannot be read -------------------------------------------------------------------------


def test_a_proto_that_does_not_compile_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tree(tmp_path / "broken", "strin id = 1;")
    assert "shop.proto" in refused(capsys, "diff", broken, "self")


def test_a_missing_import_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = smg_proto.descriptor_set()
    kept = [file for file in files.file if file.name != "smg/v1/usage.proto"]
    path = tmp_path / "partial.binpb"
    path.write_bytes(FileDescriptorSet(file=kept).SerializeToString())
    output = refused(capsys, "diff", path, "self")
    assert "smg/v1/usage.proto" in output
    assert "--include_imports" in output
    absent = tree(tmp_path / "absent", "string id = 1;", 'import "gone.proto";\n')
    assert "gone.proto" in refused(capsys, "diff", "self", absent)


def test_contradictory_descriptors_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = smg_proto.descriptor_set()
    files.file[-1].message_type.add(name="Broken").field.add(
        name="what", number=1, label=1, type=11, type_name=".no.such.Type"
    )
    path = tmp_path / "contradiction.binpb"
    path.write_bytes(files.SerializeToString())
    assert "no.such.Type" in refused(capsys, "diff", path, "self")


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("no/such/path", ": no/such/path: No such file or directory; give a directory of "),
        ("no\0path", "; give a directory of "),
        ("pypi:smg-grpc-proto", "NAME==VERSION"),
        ("pypi:--index-url=http://evil==1", "NAME==VERSION"),
        ("git:no-such-revision", "no such revision"),
        ("git:--output=x", "REVISION"),
        ("grpc://nowhere", "HOST:PORT"),
        ("", "HOST:PORT"),
    ],
)
def test_the_error_for_an_unknown_spec_says_what_to_write(
    spec: str, word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if spec.startswith("git:") and not (ROOT / ".git").exists():
        missing("not a git checkout")
    assert word in refused(capsys, "diff", "self", spec)


def test_files_of_other_kinds_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, empty, nothing = tmp_path / "notes.txt", tmp_path / "empty", tmp_path / "nothing"
    text.write_text("Not a contract.\n", encoding="utf-8")
    empty.write_bytes(b"")
    nothing.mkdir()
    for path in (text, empty, nothing):
        assert path.name in refused(capsys, "diff", path, "self")


def test_a_wheel_without_protos_or_cut_short_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("bare", "spoilt", "twice", "doubled")
    bare, spoilt, twice, doubled = (tmp_path / f"{name}.whl" for name in names)
    with zipfile.ZipFile(bare, "w") as wheel:
        wheel.writestr("bare/__init__.py", "")
    assert "neither protos nor generated modules" in refused(capsys, "diff", bare, "self")
    with zipfile.ZipFile(spoilt, "w") as wheel:
        wheel.writestr("spoilt/x_pb2.py", "DESCRIPTOR = pool.AddSerializedFile(b'\\xff\\xff')")
    assert "x_pb2.py" in refused(capsys, "diff", spoilt, "self")
    modules = {name: path for path, name in modules_of_this_package()}
    with zipfile.ZipFile(twice, "w") as wheel:
        wheel.write(modules["smg_proto/llm_pb2.py"], "one/llm_pb2.py")
        other = (
            modules["smg_proto/llm_pb2.py"]
            .read_text(encoding="utf-8")
            .replace("LLMService", "LLMServicf")
        )
        wheel.writestr("two/llm_pb2.py", other)
    output = refused(capsys, "diff", twice, "self")
    assert "two/llm_pb2.py: the wheel holds a different entity/grpc/llm.proto too; " in output
    assert load(twice, exclude=["two"]).messages
    assert load(twice, exclude=["two/llm_pb2.py"]).messages
    with zipfile.ZipFile(doubled, "w") as wheel, pytest.warns(UserWarning, match="Duplicate name"):
        wheel.writestr("shop.proto", PROTO.format(fields="string id = 1;", imports=""))
        wheel.writestr("shop.proto", PROTO.format(fields="int32 id = 1;", imports=""))
    assert "doubled.whl: two members are named 'shop.proto'\n" in refused(
        capsys, "diff", doubled, "self"
    )
    whole = bare.read_bytes()
    bare.write_bytes(whole[: len(whole) // 2])
    assert "bare.whl" in refused(capsys, "diff", bare, "self")


def test_damaged_descriptor_sets_are_read_or_rejected_and_never_crash(tmp_path: Path) -> None:
    chance, path = random.Random(1), tmp_path / "spoilt.binpb"
    whole, ours = smg_proto.descriptor_set().SerializeToString(), load("self")
    refusals = 0
    for _ in range(40):
        spoilt = bytearray(whole)
        for _ in range(chance.choice([1, 1, 5])):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        path.write_bytes(spoilt if chance.random() < 0.8 else spoilt[: chance.randrange(10**5)])
        try:
            diff(ours, load(path)).text()
        except ContractError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert 0 < refusals < 40


def test_the_error_without_a_compiler_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protos = tree(tmp_path / "protos", "string id = 1;")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setitem(sys.modules, "grpc_tools", None)
    with pytest.raises(ContractError, match="grpcio-tools"):
        load(protos)
