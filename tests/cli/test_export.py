"""smg-proto export: vendored protos that stay verified, and never cost anybody's work."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from support import ROOT, find_python, make_environment, run

from smg_proto import __version__, proto_path
from smg_proto.cli import _export, _tree, main
from smg_proto.compat import load

COMMON = "smg/grpc/common/common.proto"
VLLM = "vllm/grpc/engine/vllm_engine.proto"
OWN = {"LICENSE", _tree.MANIFEST}  # in every export


def contents(folder: Path) -> dict[str, bytes]:
    return dict(_tree.read_tree(folder))


@pytest.fixture
def vendored(tmp_path: Path) -> Path:
    """An export of the vLLM contract."""
    dest = tmp_path / "vendored"
    assert main(["export", str(dest), "--only", "vllm.grpc.engine"]) == 0
    return dest


@pytest.fixture
def older(vendored: Path) -> Path:
    """The same, as if a release before this one had written it, without a field."""
    path = vendored / VLLM
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text(
        "".join(line for line in lines if " grammar_from_first_token = " not in line),
        encoding="utf-8",
    )
    manifest = json.loads((vendored / _tree.MANIFEST).read_text(encoding="utf-8"))
    manifest["version"] = "0.0.1"
    manifest["files"][VLLM] = _tree.sha256(path.read_bytes())
    (vendored / _tree.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return vendored


def test_everything_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / "new" / "deep" / "protos"
    assert main(["export", str(dest)]) == 0
    assert f"{dest}: wrote " in capsys.readouterr().out
    written = contents(dest)
    assert main(["export", str(dest)]) == 0
    assert f"{dest}: already has {len(written) - 1} files of " in capsys.readouterr().out
    manifest = json.loads(written.pop(_tree.MANIFEST))
    licence = {"LICENSE": (ROOT / "LICENSE").read_bytes()}
    assert written == {
        **{k: v for k, v in contents(proto_path()).items() if k.endswith(".proto")},
        **licence,
    }
    assert manifest["version"] == __version__
    assert manifest["files"] == {name: _tree.sha256(data) for name, data in written.items()}


def test_only_exports_a_package_with_its_imports(vendored: Path) -> None:
    assert contents(vendored).keys() == {COMMON, VLLM, *OWN}


def test_an_untouched_export_passes_the_check(
    vendored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--check", str(vendored)]) == 0
    assert "3 files, unmodified" in capsys.readouterr().out


def test_the_check_names_modified_and_missing_files(
    vendored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (vendored / VLLM).write_text("syntax = 'proto3';\n", encoding="utf-8")
    (vendored / COMMON).unlink()
    assert main(["export", "--check", str(vendored)]) == 1
    shown = capsys.readouterr().out
    assert f"modified since the export: {VLLM}" in shown
    assert f"missing: {COMMON}" in shown


def test_the_check_lists_what_an_older_copy_lacks(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(older)
    assert main(["export", "--check", str(older)]) == 1
    shown = capsys.readouterr().out
    assert f"exported from smg-proto 0.0.1; changes in {__version__}:" in shown
    assert f"  {VLLM} has changed" in shown
    assert "notice: vllm.grpc.engine.SamplingParams.grammar_from_first_token: " in shown
    assert "modified" not in shown
    assert contents(older) == before


def test_an_older_export_is_replaced_and_other_files_stay(older: Path) -> None:
    (older / "BUILD.bazel").write_text("mine", encoding="utf-8")
    (older / "vllm" / "notes").mkdir()
    (older / "vllm" / "notes" / "why.txt").write_text("mine too", encoding="utf-8")
    assert main(["export", str(older), "--only", "smg.grpc.common"]) == 0
    assert contents(older).keys() == {COMMON, *OWN, "BUILD.bazel", "vllm/notes/why.txt"}
    assert [entry.name for entry in older.parent.iterdir()] == ["vendored"]


def test_a_local_modification_is_overwritten_only_with_force(
    vendored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = vendored / VLLM
    original = path.read_bytes()
    path.write_bytes(original + b"// ours\n")
    assert main(["export", str(vendored), "--only", "vllm.grpc.engine"]) == 2
    assert f"changed by hand: {VLLM}" in capsys.readouterr().err
    assert path.read_bytes().endswith(b"// ours\n")
    assert main(["export", str(vendored), "--only", "vllm.grpc.engine", "--force"]) == 0
    assert path.read_bytes() == original


def test_an_own_file_in_the_place_of_an_export_counts_as_a_modification(vendored: Path) -> None:
    mine = vendored / "entity" / "grpc" / "llm.proto"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    assert main(["export", str(vendored), "--all"]) == 2
    assert mine.read_text(encoding="utf-8") == "mine"
    assert contents(vendored).keys() == {"entity/grpc/llm.proto", COMMON, VLLM, *OWN}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("vllm.grpc.engin", "choose from vllm.grpc.engine"), ("nothing", "choose from entity.grpc, ")],
)
def test_the_error_for_an_unknown_package_lists_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, hint: str
) -> None:
    assert main(["export", str(tmp_path / "out"), "--only", name]) == 2
    assert hint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_not_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("mine", encoding="utf-8")
    assert main(["export", str(tmp_path)]) == 2
    assert "not empty and not written by smg-proto" in capsys.readouterr().err
    assert contents(tmp_path) == {"thesis.tex": b"mine"}


def test_with_force_an_export_is_added_to_a_folder_with_other_files(tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    (dest / "smg" / "mine").mkdir(parents=True)
    (dest / "smg" / "mine" / "thesis.tex").write_text("mine", encoding="utf-8")
    assert main(["export", str(dest), "--only", "smg.grpc.common", "--force"]) == 0
    assert contents(dest).keys() == {COMMON, *OWN, "smg/mine/thesis.tex"}
    assert main(["export", "--check", str(dest)]) == 0


def test_generated_code_is_not_replaced_by_protos(
    vendored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((vendored / _tree.MANIFEST).read_text(encoding="utf-8"))
    manifest["command"] = "generate go"
    (vendored / _tree.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert main(["export", str(vendored)]) == 2
    assert "written by `smg-proto generate go`" in capsys.readouterr().err


def test_a_half_written_export_is_completed(vendored: Path) -> None:
    (vendored / VLLM).unlink()
    assert main(["export", str(vendored), "--only", "vllm.grpc.engine"]) == 0
    assert main(["export", "--check", str(vendored)]) == 0


def test_a_file_is_rejected_as_the_destination(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "file"
    dest.write_text("mine", encoding="utf-8")
    assert main(["export", str(dest)]) == 2
    assert main(["export", str(dest / "below")]) == 2
    assert "not a directory" in capsys.readouterr().err.lower()
    assert dest.read_text(encoding="utf-8") == "mine"


def test_a_broken_manifest_is_named(vendored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (vendored / _tree.MANIFEST).write_text("{", encoding="utf-8")
    assert main(["export", str(vendored)]) == 2
    assert main(["export", "--check", str(vendored)]) == 2
    assert "smg-proto.json: invalid manifest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "problem"),
    [(Path.mkdir, "Is a directory"), (os.mkfifo, "not a regular file")],
    ids=["folder", "pipe"],
)
def test_a_manifest_that_is_no_file_is_named(
    vendored: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], None],
    problem: str,
) -> None:
    path = vendored / _tree.MANIFEST
    path.unlink()
    make(path)
    assert main(["export", str(vendored), "--force"]) == 2
    assert capsys.readouterr().err == f"smg-proto export: {path}: {problem}\n"


def test_a_manifest_cannot_reach_outside_of_its_folder(vendored: Path) -> None:
    victim = vendored.parent / "victim"
    victim.write_text("mine", encoding="utf-8")
    manifest = json.loads((vendored / _tree.MANIFEST).read_text(encoding="utf-8"))
    manifest["files"]["../victim"] = _tree.sha256(b"mine")
    (vendored / _tree.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert main(["export", str(vendored), "--force"]) == 2
    assert victim.read_text(encoding="utf-8") == "mine"


def test_checking_something_else_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--check", str(tmp_path)]) == 2
    assert "not written by smg-proto export" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--all", "--only", "entity.grpc"], "--all and --only exclude each other"),
        (
            ["--check", "--descriptor-set"],
            "--check is for folders; compare a descriptor set with diff",
        ),
        (["--descriptor-set"], "{}: not a file; choose another destination"),
        (["--descriptor-set", "--force"], "{}: not a file; choose another destination"),
    ],
)
def test_options_that_do_not_fit_are_a_usage_error(
    vendored: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    before = contents(vendored)
    capsys.readouterr()
    assert main(["export", str(vendored), *options]) == 2
    assert capsys.readouterr().err == f"smg-proto export: {message.format(vendored)}\n"
    assert contents(vendored) == before


def test_a_destination_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(tmp_path))  # root may write anywhere

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    assert main(["export", str(tmp_path / "out")]) == 2
    assert f"{tmp_path}: Permission denied" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_current_directory_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "."]) == 2
    assert "run this from outside of it" in capsys.readouterr().err


# --- killed, at once, and through links ----------------------------------------------------------


def steps(*words: str, stop_at: int = 0) -> int:
    """Run the command in a process of its own that ends at a step of its file work.

    The number of steps that it came to. Nothing is caught or cleared up, as in a killed process.
    """
    read, write = os.pipe()
    if not (child := os.fork()):
        count = 0

        def count_steps(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event in STEPS or (event == "open" and "w" in str(arguments[1])):
                count += 1
                if count == stop_at:
                    os.write(write, str(count).encode())
                    os._exit(9)

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.addaudithook(count_steps)
        code = main([*words])
        os.write(write, str(count).encode())
        os._exit(code)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as result:
        return int(result.read() or 0)


STEPS = {
    "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree",
    "shutil.copyfile", "tempfile.mkdtemp", "ctypes.dlopen", "ctypes.dlsym",
}  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_leaves_the_old_or_the_new_folder(older: Path, tmp_path: Path) -> None:
    (older / "mine.txt").write_text("mine", encoding="utf-8")
    old = contents(older)
    words = ["export", str(older)]
    copy = tmp_path / "copy"
    shutil.copytree(older, copy)
    total = steps("export", str(copy))
    new = contents(copy)
    shutil.rmtree(copy)
    assert new[VLLM] != old[VLLM]
    assert new["mine.txt"] == b"mine"
    assert total > 10
    seen: set[bytes] = set()
    for step in range(1, total + 1):
        shutil.copytree(older, copy)
        assert steps("export", str(copy), stop_at=step) == step
        left = contents(copy)
        assert left in (old, new), f"step {step}"
        seen.add(left[VLLM])
        assert steps("export", str(copy)) > 0
        assert contents(copy) == new
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy", "vendored"]
        shutil.rmtree(copy)
    assert len(seen) == 2  # it was killed before and after the one step that counts
    assert main(words) == 0


def test_without_an_atomic_swap_the_next_run_repairs_a_killed_one(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (older / "mine.txt").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(_tree, "exchange", lambda *_: False)
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self == older:
            return rename(self, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        patched.setattr(_tree, "_restore", lambda *_: None)  # a killed process runs no finally
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        assert main(["export", str(older)]) == 130
    assert not older.exists()
    assert main(["export", str(older)]) == 0
    assert (older / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert _export.stale_files(_tree.read_manifest(older) or pytest.fail("no manifest")) == []
    assert [entry.name for entry in older.parent.iterdir()] == ["vendored"]


def test_concurrent_runs_succeed(older: Path) -> None:
    (older / "mine.txt").write_text("mine", encoding="utf-8")
    command = [sys.executable, "-m", "smg_proto", "export", str(older)]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)
    ]
    ends = [(process.communicate(timeout=100), process.returncode) for process in runs]
    assert [code for _, code in ends] == [0] * 4, ends
    assert main(["export", "--check", str(older)]) == 0
    assert (older / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert [entry.name for entry in older.parent.iterdir()] == ["vendored"]


def test_a_folder_that_became_a_link_is_not_followed(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = older.parent / "elsewhere"
    (older / "vllm").rename(elsewhere)
    (older / "vllm").symlink_to(elsewhere)
    there = contents(elsewhere)
    assert main(["export", str(older)]) == 2
    assert f"changed by hand: {VLLM}" in capsys.readouterr().err
    assert main(["export", str(older), "--force"]) == 0
    assert contents(elsewhere) == there
    assert not (older / "vllm").is_symlink()
    assert main(["export", "--check", str(older)]) == 0


def test_a_manifest_cannot_reach_through_a_link(vendored: Path) -> None:
    victim = vendored.parent / "keys" / "authorized"
    victim.parent.mkdir()
    victim.write_text("mine", encoding="utf-8")
    (vendored / "link").symlink_to(victim.parent)
    (vendored / "file").symlink_to(victim)
    manifest = json.loads((vendored / _tree.MANIFEST).read_text(encoding="utf-8"))
    manifest["files"]["link/authorized"] = manifest["files"]["file"] = _tree.sha256(b"mine")
    (vendored / _tree.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert main(["export", str(vendored)]) == 2
    assert main(["export", str(vendored), "--force"]) == 0
    assert victim.read_text(encoding="utf-8") == "mine"
    assert (vendored / "link").is_symlink()


def test_a_link_is_rejected_as_the_destination(
    vendored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = vendored.parent / "link"
    link.symlink_to(vendored)
    before = contents(vendored)
    assert main(["export", str(link), "--all"]) == 2
    assert f"a link to {vendored}" in capsys.readouterr().err
    assert contents(vendored) == before


def test_foreign_files_beside_the_folder_are_ignored(
    older: Path,
) -> None:
    parent = older.parent
    (parent / ".vendored.smg-proto-file").write_text("planted", encoding="utf-8")
    target = parent / "target"
    target.mkdir()
    (target / "kept").write_text("kept", encoding="utf-8")
    (parent / ".vendored.smg-proto-link").symlink_to(target)
    planted = parent / ".vendored.smg-proto-x" / "old"
    planted.mkdir(parents=True)
    (planted / "evil.proto").write_text("planted", encoding="utf-8")
    assert main(["export", str(older)]) == 0
    assert contents(older).keys() == {COMMON, VLLM, *OWN}
    assert (target / "kept").read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize("name", ["we[ird]", "sp ace", "st*r"])
def test_leftovers_of_a_killed_run_are_removed_for_any_folder_name(
    tmp_path: Path, name: str
) -> None:
    dest = tmp_path / name
    assert main(["export", str(dest), "--only", "smg.grpc.common"]) == 0
    (tmp_path / f".{name}.smg-proto-abc" / "new").mkdir(parents=True)
    assert main(["export", str(dest)]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


# --- what is exported ----------------------------------------------------------------------------


def test_a_second_run_exports_the_packages_of_the_first(vendored: Path) -> None:
    assert main(["export", str(vendored)]) == 0
    assert main(["export", str(vendored), "--force"]) == 0
    assert contents(vendored).keys() == {COMMON, VLLM, *OWN}
    assert main(["export", str(vendored), "--all"]) == 0
    assert len(contents(vendored)) > 20


def test_options_may_precede_the_folder(tmp_path: Path) -> None:
    dest = tmp_path / "out"
    assert main(["export", "--only", "entity.grpc", "--only", "smg.grpc.common", str(dest)]) == 0
    assert contents(dest).keys() == {"entity/grpc/llm.proto", COMMON, *OWN}


def test_the_check_covers_the_exported_packages(
    vendored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--check", str(vendored), "--only", "vllm.grpc.engine"]) == 0
    assert main(["export", "--check", str(vendored), "--only", "entity.grpc"]) == 1
    assert "missing package: entity.grpc" in capsys.readouterr().out


def test_the_check_names_new_and_removed_files_and_removed_packages(
    vendored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((vendored / _tree.MANIFEST).read_text(encoding="utf-8"))
    del manifest["files"][COMMON]
    manifest["files"]["vllm/grpc/engine/former.proto"] = _tree.sha256(b"")
    (vendored / "vllm/grpc/engine/former.proto").write_bytes(b"")
    manifest["packages"].append("vllm.former")
    (vendored / _tree.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert main(["export", "--check", str(vendored)]) == 1
    shown = capsys.readouterr().out
    assert f"  {COMMON} is new" in shown
    assert "  vllm/grpc/engine/former.proto was removed" in shown
    assert "  package vllm.former was removed" in shown
    assert "could not compare" not in shown


def test_the_check_says_why_an_older_copy_cannot_be_compared(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (older / VLLM).write_text("message {\n", encoding="utf-8")
    assert main(["export", "--check", str(older)]) == 1
    assert f"could not compare the contracts: {older}: " in capsys.readouterr().out


def test_the_check_notices_other_content_of_the_same_version(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((older / _tree.MANIFEST).read_text(encoding="utf-8"))
    manifest["version"] = __version__
    (older / _tree.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert main(["export", "--check", str(older)]) == 1
    assert f"  {VLLM} has changed" in capsys.readouterr().out


def test_a_descriptor_set_has_all_that_the_packages_import(tmp_path: Path) -> None:
    path = tmp_path / "vllm.binpb"
    words = ["export", "--descriptor-set", str(path), "--only", "vllm.grpc.engine"]
    assert main(words) == 0
    files = FileDescriptorSet.FromString(path.read_bytes()).file
    assert {COMMON, VLLM} <= {file.name for file in files}
    assert "google/rpc/error_details.proto" in {file.name for file in files}
    pool = DescriptorPool()
    for file in files:  # in an order in which they can be read
        pool.AddSerializedFile(file.SerializeToString())
    assert load(path).services.keys() == {"vllm.grpc.engine.VllmEngine"}
    path.write_bytes(b"mine")
    assert main(words) == 2
    assert path.read_bytes() == b"mine"
    assert main([*words, "--force"]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["vllm.binpb"]


def test_a_descriptor_set_is_written_beside_its_place_and_then_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a reader never sees a part of it, and both are on one file system."""
    moved: list[Path] = []
    replace = Path.replace

    def record(self: Path, target: Path) -> Path:
        moved.extend([self.parent.parent, target])
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", record)
    path = tmp_path / "new" / "deep" / "set.binpb"
    assert main(["export", "--descriptor-set", str(path)]) == 0
    assert moved == [path.parent, path]
    count = len(FileDescriptorSet.FromString(path.read_bytes()).file)
    assert capsys.readouterr().out == (
        f"{path}: wrote {count} files of smg-proto {__version__} as one descriptor set\n"
    )


def test_a_descriptor_set_may_be_read_by_whoever_may_read_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, path = tmp_path / "other", tmp_path / "set.binpb"
    other.touch()
    assert main(["export", "--descriptor-set", str(path)]) == 0
    assert path.stat().st_mode == other.stat().st_mode

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(target))

    path.unlink()
    monkeypatch.setattr(Path, "replace", refuse)
    assert main(["export", "--descriptor-set", str(path)]) == 2
    assert capsys.readouterr().err == f"smg-proto export: {path}: Permission denied\n"
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.packaging
@pytest.mark.parametrize(("compiler", "python"), [("1.62.3", "3.11"), ("newest", None)])
def test_plain_protoc_compiles_all_of_it(
    wheel: Path, tmp_path: Path, compiler: str, python: str | None
) -> None:
    """From an empty directory, by the oldest compiler that is promised and by the newest."""
    home = tmp_path / "environment"
    pin = "grpcio-tools" + (f"=={compiler}" if compiler != "newest" else "")
    old_needs = ["setuptools<81"] if compiler != "newest" else []
    wanted: list[str | Path] = [pin, wheel, *old_needs]
    interpreter = make_environment(home, wanted, python=python and find_python(python))
    empty = tmp_path / "empty"
    empty.mkdir()
    run(interpreter, "-m", "smg_proto", "export", "protos", cwd=empty)
    names = sorted(path.relative_to(empty / "protos") for path in empty.rglob("*.proto"))
    assert len(names) > 20
    command: list[str | Path] = [
        interpreter,
        "-m",
        "grpc_tools.protoc",
        "-Iprotos",
        "--python_out=.",
    ]
    run(*command, "--grpc_python_out=.", *map(str, names), cwd=empty)
    assert len(list(empty.rglob("*_pb2_grpc.py"))) == len(names)
    modules = [".".join(name.with_suffix("").parts) + "_pb2" for name in names]
    check = f"import importlib\nfor m in {modules!r}: importlib.import_module(m)"
    run(interpreter, "-c", check, cwd=empty)


@pytest.mark.packaging
def test_buf_builds_all_of_it(tmp_path: Path) -> None:
    assert main(["export", str(tmp_path / "protos")]) == 0
    run("buf", "build", "protos", cwd=tmp_path)


def test_links_of_others_stay_links_when_an_export_is_replaced(older: Path) -> None:
    (older / "notes").mkdir()
    (older / "notes" / "current").symlink_to("somewhere-else")
    assert main(["export", str(older)]) == 0
    assert (older / "notes" / "current").readlink() == Path("somewhere-else")
