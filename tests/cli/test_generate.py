"""smg-proto generate: what it says when it cannot. tests/languages/ shows what it writes."""

import zipfile
from pathlib import Path

import pytest
from support import ROOT

from smg_proto.cli import _languages, main
from smg_proto.cli._generate import rename_fields, semantic_version
from smg_proto.cli._languages import LANGUAGES
from smg_proto.cli._tree import read_tree


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH but for the shell's own, and for buf, which is beside Python."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, version: str) -> Path:
    """A plugin that tells a version, and writes nothing but an error."""
    path = folder / name
    said = f'[ "$1" = --version ] && echo "{name} {version}" && exit 0'
    path.write_text(f"#!/bin/sh\n{said}\necho out of order >&2\nexit 1\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def generate(language: str, out: Path) -> int:
    return main(["generate", "--lang", language, "--out", str(out)])


def test_an_unknown_language_is_answered_with_the_closest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("typscript", tmp_path / "out") == 2
    assert "no language 'typscript'; there is typescript\n" in capsys.readouterr().err
    assert generate("cobol", tmp_path / "out") == 2
    assert f"there is {', '.join(sorted(LANGUAGES))}" in capsys.readouterr().err


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_missing_plugin_is_named_with_its_installation(
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
        ("go", "protoc-gen-go", "v1.20.0", "is 1.20.0, needed is 1.36.6 or newer: go install"),
        ("java", "protoc", "30.2", "is 30.2, needed is 25.0 or newer, but older than 26: "),
        ("rust", "protoc-gen-prost", "(unknown)", "is of no known version, needed is 0.5.0"),
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


def test_a_plugin_that_fails_leaves_nothing_behind(
    tmp_path: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program(programs, "protoc-gen-es", "v2.17.0")
    assert generate("typescript", tmp_path / "out") == 2
    assert "out of order" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["programs"]


def test_the_licence_goes_with_generated_code(tmp_path: Path, programs: Path) -> None:
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


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_language_has_a_template_with_its_plugins(name: str) -> None:
    template = (LANGUAGES[name].folder / "buf.gen.yaml").read_text(encoding="utf-8")
    for tool in LANGUAGES[name].tools:
        builtin = f"protoc_builtin: {name}"
        assert (builtin if tool.program == "protoc" else f"local: {tool.program}\n") in template


def test_templates_are_for_known_languages_only() -> None:
    folders = {path.name for path in _languages.TEMPLATES.iterdir()}
    assert folders == {*LANGUAGES, _languages.GOOGLE_RPC.name}


@pytest.mark.packaging
def test_the_templates_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
    for name, data in read_tree(_languages.TEMPLATES):
        assert shipped[f"templates/{name}"] == data


def test_the_version_is_one_that_other_registries_take(monkeypatch: pytest.MonkeyPatch) -> None:
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
