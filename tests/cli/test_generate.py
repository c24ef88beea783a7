"""smg-proto generate: what it says when it cannot. tests/languages/ shows what it writes."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from support import ROOT

from smg_proto.cli import _languages, main
from smg_proto.cli._generate import rename_fields, rust_modules, semantic_version
from smg_proto.cli._languages import LANGUAGES, Tool
from smg_proto.cli._tree import read_tree


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH but for the shell's own, and for buf, which is beside Python."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(folder))
    for name in ("GOBIN", "GOPATH", "CARGO_HOME", "CARGO_INSTALL_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


def program(folder: Path, name: str, version: str) -> Path:
    """A plugin that tells a version, and writes nothing but an error."""
    path = folder / name
    output = f'[ "$1" = --version ] && echo "{name} {version}" && exit 0'
    path.write_text(f"#!/bin/sh\n{output}\necho out of order >&2\nexit 1\n", encoding="utf-8")
    path.chmod(0o755)
    return path


WRITER = """\
import sys
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
if sys.argv[1:] == ["--version"]:
    sys.exit(print("99.0.0"))
asked = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
answer = CodeGeneratorResponse(supported_features=1)
for file in asked.proto_file:
    if file.name in asked.file_to_generate:
        answer.file.add(name=file.name + NAME, content=file.options.go_package + asked.parameter)
sys.stdout.buffer.write(answer.SerializeToString())
"""


def writer(folder: Path, name: str) -> Path:
    """A plugin that writes a file for each proto: its go_package, and the plugin's options."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    text = WRITER.replace("NAME", repr(f".{name.rpartition('-')[2]}"))
    path.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
    path.chmod(0o755)
    return path


def generate(language: str, out: Path, *more: str) -> int:
    return main(["generate", "--lang", language, "--out", str(out), *more])


def protos_in(out: Path) -> set[str]:
    return {name.rpartition(".")[0] for name, _ in read_tree(out) if ".proto." in name}


def test_the_error_for_an_unknown_language_names_the_closest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("typscript", tmp_path / "out") == 2
    assert "no language 'typscript'; choose from typescript\n" in capsys.readouterr().err
    assert generate("cobol", tmp_path / "out") == 2
    assert f"choose from {', '.join(sorted([*LANGUAGES, 'python']))}" in capsys.readouterr().err


@pytest.mark.parametrize("name", LANGUAGES)
def test_each_missing_plugin_is_named_with_how_to_install_it(
    tmp_path: Path, programs: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert list(programs.iterdir()) == []
    assert generate(name, tmp_path / "out") == 2
    shown = capsys.readouterr().err
    for tool in LANGUAGES[name].tools:
        assert f"{tool.program} is missing: {tool.install}" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("language", "name", "version", "problem"),
    [
        ("go", "protoc-gen-go", "v1.20.0", "is 1.20.0, but must be 1.36.6 or newer: go install"),
        ("java", "protoc", "30.2", "is 30.2, but must be 25.0 or newer and older than 26: "),
        ("rust", "protoc-gen-prost", "(unknown)", "is of unknown version, but must be 0.5.0"),
    ],
)
def test_a_plugin_of_the_wrong_version_is_named_with_the_right_one(
    tmp_path: Path,
    programs: Path,
    capsys: pytest.CaptureFixture[str],
    language: str,
    name: str,
    version: str,
    problem: str,
) -> None:
    path = program(programs, name, version)
    assert generate(language, tmp_path / "out") == 2
    assert f"{path} {problem}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("2.0", None),
        ("tool 2.0.1 (built 1.1)", None),
        ("2.9.9", None),
        ("1.99", "is 1.99, but must be 2.0 or newer and older than 3: get it"),
        ("3.0", "is 3.0, but must be 2.0 or newer and older than 3: get it"),
        ("2", "is of unknown version, but must be 2.0 or newer and older than 3: get it"),
    ],
)
def test_a_tool_may_have_any_version_of_a_range(
    output: str, problem: str | None, programs: Path
) -> None:
    path = programs / "tool"
    path.write_text(f"#!/bin/sh\necho '{output}' >&2\n", encoding="utf-8")
    path.chmod(0o755)
    expected = problem and f"{path} {problem}"
    assert Tool("tool", "get it", (2, 0), (3,)).problem() == expected
    assert Tool("tool", "get it").problem() is None
    assert Tool("other", "get it").problem() == "other is missing: get it"


def test_a_tool_that_does_not_run_is_named(programs: Path) -> None:
    path = programs / "tool"
    path.write_text("#!/no/such/shell\n", encoding="utf-8")
    path.chmod(0o755)
    problem = Tool("tool", "get it", (2, 0)).problem()
    assert problem == (
        f"{path} does not run ([Errno 2] No such file or directory: '{path}'): get it"
    )


def test_a_plugin_that_fails_leaves_nothing_behind(
    tmp_path: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program(programs, "protoc-gen-es", "v2.17.0")
    assert generate("typescript", tmp_path / "out") == 2
    assert "out of order" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["programs"]


def test_the_license_is_copied_with_generated_code(tmp_path: Path, programs: Path) -> None:
    plugin = program(programs, "protoc-gen-es", "v2.17.0")  # one that has nothing to write
    plugin.write_text(
        plugin.read_text(encoding="utf-8").replace(
            "echo out of order >&2\nexit 1", "/bin/cat >/dev/null"
        ),
        encoding="utf-8",
    )
    assert generate("typescript", tmp_path / "out") == 0
    assert (tmp_path / "out" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (tmp_path / "out" / "package.json").exists()


def test_only_generates_a_package_with_its_imports_and_a_new_run_keeps_them(
    tmp_path: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer(programs, "protoc-gen-es")
    out = tmp_path / "out"
    assert generate("typescript", out, "--only", "vllm.grpc.engine") == 0
    few = {"vllm/grpc/engine/vllm_engine.proto", "smg/grpc/common/common.proto"}
    rpc = {name for name in protos_in(out) if name.startswith("google/rpc/")}
    assert protos_in(out) == few | rpc
    assert generate("typescript", out) == 0
    assert "already" in capsys.readouterr().out
    assert generate("typescript", out, "--all") == 0
    assert protos_in(out) > few | rpc
    assert generate("typescript", out, "--only", "smg.v2") == 2
    assert "no package 'smg.v2'; choose from smg.v1" in capsys.readouterr().err
    assert generate("typescript", out, "--only", "smg.v1", "--all") == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("language", "file"),
    [("go", "smg/v1/smgstreams/streams.go"), ("typescript", "smg/v1/streams.js")],
)
def test_the_stream_accumulator_is_generated_with_its_contract(
    language: str, file: str, tmp_path: Path, programs: Path
) -> None:
    for name in ("es", "go", "go-grpc"):
        writer(programs, f"protoc-gen-{name}")
    engine, all_of_it = tmp_path / "engine", tmp_path / "all"
    assert generate(language, engine, "--only", "vllm.grpc.engine") == 0
    assert not (engine / "smg" / "v1").exists()
    assert generate(language, all_of_it) == 0
    assert (all_of_it / file).is_file()


def test_the_owner_chooses_the_name_of_the_package(
    tmp_path: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("es", "go", "go-grpc", "prost", "tonic"):
        writer(programs, f"protoc-gen-{name}")
    npm, go, rust = (tmp_path / name for name in ("npm", "go", "rust"))
    assert generate("typescript", npm, "--npm-name", "@acme/llm") == 0
    package = json.loads((npm / "package.json").read_text(encoding="utf-8"))
    assert package["name"] == "@acme/llm"
    assert generate("go", go, "--go-module", "acme.example/llm", "--only", "smg.v1") == 0
    assert (go / "go.mod").read_text(encoding="utf-8").startswith("module acme.example/llm\n")
    written = (go / "smg/v1/chat.proto.go").read_text(encoding="utf-8")
    assert written == "acme.example/llm/smg/v1;smgv1module=acme.example/llm"
    streams = (go / "smg/v1/smgstreams/streams.go").read_text(encoding="utf-8")
    assert 'smgv1 "acme.example/llm/smg/v1"' in streams
    assert "smg-grpc-proto" not in streams
    assert generate("rust", rust, "--crate", "acme-llm") == 0
    assert '\nname = "acme-llm"\n' in (rust / "Cargo.toml").read_text(encoding="utf-8")
    capsys.readouterr()
    assert generate("go", go) == 2  # which would give it the old name again
    assert "written by `smg-proto generate go --go-module acme.example/llm`" in (
        capsys.readouterr().err
    )


def test_the_owner_chooses_the_maven_group(tmp_path: Path, programs: Path) -> None:
    shutil.copy(_languages.BUF.find() or "", programs)
    script = "import sys\nif sys.argv[1:] == ['--version']: print('libprotoc 25.9')\n"
    protoc = program(programs, "protoc", "25.9")
    protoc.write_text(f"#!{sys.executable}\n{script}", encoding="utf-8")
    writer(programs, "protoc-gen-grpc-java")
    assert generate("java", tmp_path / "out", "--maven-group", "com.acme") == 0
    pom = (tmp_path / "out" / "pom.xml").read_text(encoding="utf-8")
    assert "<groupId>com.acme</groupId>" in pom
    assert "io.smgproto" not in pom
    assert "<groupId>io.grpc</groupId>" in pom


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("go", "--crate", "acme"), "--crate is for rust, not for go"),
        (("go", "--go-module", "acme.example/x y"), "--go-module: invalid name 'acme.example/x y'"),
        (("go", "--go-module", "acme.example/x;y"), "invalid name"),
        (("typescript", "--npm-name", 'x", "bin": "y'), "invalid name"),
        (("java", "--maven-group", "<x>"), "invalid name"),
        (("rust", "--crate", "1x"), "invalid name"),
    ],
)
def test_an_invalid_name_is_rejected(
    words: tuple[str, ...], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(words[0], tmp_path / "out", *words[1:]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "folder"),
    [
        ("", "", "project/node_modules/.bin"),
        ("", "", "programs/go/bin"),
        ("GOPATH", "other", "other/bin"),
        ("GOBIN", "tools", "tools"),
        ("CARGO_HOME", "rust", "rust/bin"),
    ],
)
def test_a_plugin_is_found_where_its_installer_puts_it(
    variable: str,
    value: str,
    folder: str,
    tmp_path: Path,
    programs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert programs
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / value))
    below = tmp_path / "project" / "src"
    below.mkdir(parents=True)
    (tmp_path / "project" / "package.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(below)
    writer(tmp_path / folder, "protoc-gen-es")
    assert generate("typescript", tmp_path / "out", "--only", "entity.grpc") == 0
    assert "entity/grpc/llm.proto" in protos_in(tmp_path / "out")


def test_rust_modules_have_the_names_of_the_packages() -> None:
    files = [
        "src/vllm/vllm.rs",
        "src/vllm/grpc/engine/vllm.grpc.engine.rs",
        "src/vllm/grpc/engine/vllm.grpc.engine.tonic.rs",
        "src/smg/v1/smg.v1.rs",
        "src/lib.rs",
    ]
    assert rust_modules(files).split("\n") == [
        "pub mod smg {",
        "    pub mod v1 {",
        '        include!("smg/v1/smg.v1.rs");',
        "    }",
        "}",
        "pub mod vllm {",
        '    include!("vllm/vllm.rs");',
        "    pub mod grpc {",
        "        pub mod engine {",
        '            include!("vllm/grpc/engine/vllm.grpc.engine.rs");',
        "        }",
        "    }",
        "}",
        "",
    ]


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_language_has_a_template_with_its_plugins(name: str) -> None:
    template = (LANGUAGES[name].folder / "buf.gen.yaml").read_text(encoding="utf-8")
    for tool in LANGUAGES[name].tools:
        builtin = f"protoc_builtin: {name}"
        assert (builtin if tool.program == "protoc" else f"local: {tool.program}\n") in template
    # Each plugin is started once, and not once for each folder of protos.
    assert template.count("strategy: all\n") == template.count("out: ")


@pytest.mark.parametrize("name", [one.name for one in LANGUAGES.values() if one.package])
def test_the_default_name_is_in_the_template(name: str) -> None:
    language = LANGUAGES[name]
    named = language.named.format(language.package).encode()
    assert any(named in data for _, data in read_tree(language.folder))
    assert re.fullmatch(language.name_pattern, language.package)


def test_templates_are_for_known_languages_only() -> None:
    folders = {path.name for path in _languages.TEMPLATES.iterdir()}
    assert folders == {*LANGUAGES, _languages.GOOGLE_RPC.name}


@pytest.mark.packaging
def test_the_templates_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
    for name, data in read_tree(_languages.TEMPLATES):
        assert shipped[f"templates/{name}"] == data


def test_the_version_is_valid_in_other_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    spelled: list[str] = []
    for version in ("1.2.3", "1.2.3.dev4", "1.2.3rc1"):
        monkeypatch.setattr("smg_proto.cli._generate.__version__", version)
        spelled.append(semantic_version())
    assert spelled == ["1.2.3", "1.2.3-dev.4", "1.2.3-rc.1"]


def test_a_renamed_field_keeps_its_number_and_its_json_name(tmp_path: Path) -> None:
    path = tmp_path / "a.proto"
    path.write_text(
        "  // The descriptor = 1.\n  bytes descriptor = 2;\n  string descriptors = 3;\n",
        encoding="utf-8",
    )
    rename_fields(tmp_path, "descriptor")
    assert path.read_text(encoding="utf-8") == (
        "  // The descriptor = 1.\n"
        '  bytes descriptor_field = 2 [json_name = "descriptor"];\n'
        "  string descriptors = 3;\n"
    )
