"""The changelog names every changed symbol, and the version says how much has changed."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from _changelog import misdated_upstream, problems, released_section, section, step
from _contract import contract
from _frozen import COMPAT, ROOT, Frozen
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import smg_proto

FROZEN = Frozen.here()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.skipif(smg_proto.__version__ in FROZEN.own, reason="this very commit is the release")
def test_changes_since_the_last_release_are_mentioned_and_the_version_step_suffices() -> None:
    text = section(CHANGELOG, "Unreleased")
    found = problems(FROZEN, smg_proto.descriptor_set(), text, smg_proto.__version__)
    assert list(found) == []


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> FileDescriptorSet:
    """The published contract of 0.4.28, to be changed: here, the last release."""
    monkeypatch.setattr(FROZEN, "own", [])
    return FROZEN.descriptors(FROZEN.last)


def file_of(files: FileDescriptorSet, package: str) -> FileDescriptorProto:
    return next(file for file in files.file if file.package == package)


def add_rpc(files: FileDescriptorSet) -> None:
    (service,) = file_of(files, "vllm.grpc.engine").service
    service.method.add(name="New").MergeFrom(service.method[0])
    service.method[-1].name = "New"


def drop_field(files: FileDescriptorSet) -> None:
    (message,) = (m for m in file_of(files, "trtllm").message_type if m.name == "AbortRequest")
    del message.field[0]


@pytest.mark.parametrize("name", ["`VllmEngine.New`", "vllm.grpc.engine.VllmEngine.New."])
def test_a_new_symbol_must_be_mentioned_and_needs_a_minor_release(
    released: FileDescriptorSet, name: str
) -> None:
    add_rpc(released)
    assert list(problems(FROZEN, released, "", "0.4.29")) == [
        "CHANGELOG.md does not mention VllmEngine.New (vllm.grpc.engine.VllmEngine.New), which "
        "changed since 0.4.28",
        "vllm.grpc.engine.VllmEngine.New: new, but the comment says since -, not 0.4.29",
        "0.4.28 to 0.4.29 is too small a step: contracts have changed; make it a minor release",
    ]
    (only,) = problems(FROZEN, released, f"- {name}", "0.5.0")
    assert "says since" in only


@pytest.mark.parametrize("name", ["VllmEngine", "VllmEngine.NewOne", "MyVllmEngine.New", "New"])
def test_a_name_that_only_looks_like_the_symbol_does_not_count(
    released: FileDescriptorSet, name: str
) -> None:
    add_rpc(released)
    assert [p for p in problems(FROZEN, released, name, "0.5.0") if "does not mention" in p]


def test_a_break_needs_a_major_release(released: FileDescriptorSet) -> None:
    drop_field(released)
    text = "AbortRequest.request_id"
    (only,) = problems(FROZEN, released, text, "0.5.0")
    why = "the change is of class data; make it a major release"
    assert only == f"0.4.28 to 0.5.0 is too small a step: {why}"
    assert list(problems(FROZEN, released, text, "1.0.0")) == []


@pytest.fixture
def released_with_mirrors(tmp_path: Path) -> tuple[Frozen, FileDescriptorSet]:
    """Today's contracts as the last release, 9.0.0, and once more to be changed."""
    frozen = Frozen(tmp_path, ["9.0.0"])
    shutil.copytree(COMPAT / "releases", tmp_path / "releases")
    files = smg_proto.descriptor_set()
    frozen.write("9.0.0", contract(files), files, tmp_path)
    return frozen, smg_proto.descriptor_set()


def test_a_break_by_an_engine_needs_a_minor_release_and_an_entry(
    released_with_mirrors: tuple[Frozen, FileDescriptorSet],
) -> None:
    frozen, files = released_with_mirrors
    (request,) = (
        m for m in file_of(files, "openengine.v1").message_type if m.name == "EngineError"
    )
    request.field[0].number = 99
    found = list(problems(frozen, files, "", "9.1.0"))
    assert found == [
        "CHANGELOG.md does not mention EngineError.code (openengine.v1.EngineError.code), which "
        "changed since 9.0.0"
    ]
    assert list(problems(frozen, files, "- `EngineError.code`", "9.1.0")) == []
    (too_small,) = problems(frozen, files, "- `EngineError.code`", "9.0.1")
    assert "make it a minor release" in too_small


def test_since_of_an_engine_contract_is_the_release_of_the_contract() -> None:
    now = contract(smg_proto.descriptor_set())
    assert list(misdated_upstream(FROZEN, now)) == []
    (line,) = (x for x in now if x.name == "vllm.ServerInfo.proto_version")
    (problem,) = misdated_upstream(FROZEN, now - {line} | {replace(line, since="0.1.0")})
    assert problem == f"{line.name}: the comment says since 0.1.0, but 0.6.0 added it"


def test_without_changes_a_patch_release_suffices(released: FileDescriptorSet) -> None:
    assert list(problems(FROZEN, released, "", "0.4.29")) == []
    assert len(list(problems(FROZEN, released, "", "0.4.28"))) == 1


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("0.5.0", "0.6.0.dev0", "minor"),
        ("0.5.9", "1.0.0", "major"),
        ("0.5.0", "0.5.1", "patch"),
        ("0.5.1", "0.5.1", "none"),
        ("0.5.1", "0.4.9", "none"),
    ],
)
def test_steps_between_versions(old: str, new: str, expected: str) -> None:
    assert step(old, new) == expected


def test_every_version_links_to_its_changes() -> None:
    titles = re.findall(r"^## \[(.+?)\]", CHANGELOG, re.MULTILINE)
    assert titles[0] == "Unreleased"
    assert re.findall(r"^\[(.+?)\]: https://", CHANGELOG, re.MULTILINE) == titles
    tag = f"v{titles[1]}"
    assert f"/compare/{tag}...HEAD\n" in CHANGELOG


def test_unreleased_entries_move_under_the_version() -> None:
    text = (
        "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A.\n\n## [0.4.0] - 2026-01-01\n\n- B.\n\n"
        "[Unreleased]: https://h/compare/v0.4.0...HEAD\n[0.4.0]: https://h/releases/tag/v0.4.0\n"
    )
    new = released_section(text, "0.5.0", "2026-02-03")
    assert section(new, "Unreleased") == ""
    assert section(new, "0.5.0") == "### Added\n\n- A."
    assert section(new, "0.4.0") == "- B."
    assert "## [0.5.0] - 2026-02-03\n" in new
    assert new.endswith(
        "[Unreleased]: https://h/compare/v0.5.0...HEAD\n"
        "[0.5.0]: https://h/compare/v0.4.0...v0.5.0\n[0.4.0]: https://h/releases/tag/v0.4.0\n"
    )
    assert released_section(new, "0.5.0", "2027-01-01") == new
