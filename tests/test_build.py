"""scripts/build.py: it names what is wrong, changes nothing then, and gives the same everywhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, find_python, make_environment

pytestmark = pytest.mark.packaging

PARTS = ["proto", "scripts", "smg_proto", "smg_grpc_proto", "docs", "templates", "tests/e2e"]
CHAT = Path("proto/smg/v1/chat.proto")
# Those that must be there, and the newer ones that are.
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
PYTHONS += [version for version in ("3.14", "3.15") if shutil.which(f"python{version}")]
PINS = re.findall(
    r"^((?:buf-bin|mypy-protobuf|ruff)==\S+)",
    (ROOT / "scripts/constraints.txt").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the script reads and writes, to do harm to."""
    home = tmp_path / "copy"
    for part in PARTS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, home / part, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", home)
    return home


def build(
    home: Path, *words: str, python: str | Path = sys.executable, **env: str
) -> "subprocess.CompletedProcess[str]":
    command = [python, "-B", str(home / "scripts" / "build.py"), *words]
    # As in a shell where no environment is activated and no package index is in reach.
    bare = {"HOME": str(home.parent), "PATH": os.defpath, "PIP_INDEX_URL": "http://127.0.0.1:9"}
    return subprocess.run(command, env=bare | env, capture_output=True, text=True)


def content(home: Path) -> dict[Path, bytes]:
    return {path.relative_to(home): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def named(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """The files that --check complains about."""
    return [line.split()[1] for line in done.stderr.splitlines()]


def test_a_broken_proto_is_named_with_its_line_and_nothing_changes(copy: Path) -> None:
    lines = (copy / CHAT).read_text(encoding="utf-8").splitlines(keepends=True)
    broken = next(i for i, line in enumerate(lines) if line.startswith("message ChatMessage"))
    lines.insert(broken + 1, "  nonsense here = 1;\n")
    (copy / CHAT).write_text("".join(lines), encoding="utf-8")
    before = content(copy)
    done = build(copy)
    assert done.returncode == 1
    assert f"smg/v1/chat.proto:{broken + 2}:3:" in done.stderr
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr
    assert content(copy) == before


def test_check_names_differences_and_build_updates_them(copy: Path) -> None:
    edited, lost = copy / "smg_proto/llm_pb2.py", copy / "smg_proto/v1/chat_pb2.pyi"
    stale = copy / "smg_proto/gone_pb2.py"
    mine = copy / "smg_proto/_handwritten.py"
    before = content(copy)
    edited.write_text(edited.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    lost.unlink()
    stale.touch()
    mine.touch()
    harmed = content(copy)

    done = build(copy, "--check")
    assert done.returncode == 1
    assert named(done) == [
        "smg_proto/gone_pb2.py",
        "smg_proto/llm_pb2.py",
        "smg_proto/v1/chat_pb2.pyi",
    ]
    assert content(copy) == harmed

    assert build(copy).returncode == 0
    assert content(copy) == before | {mine.relative_to(copy): b""}
    again = build(copy, "--check")
    assert (again.returncode, again.stderr) == (0, "")


def test_type_checkers_know_a_new_public_package(copy: Path) -> None:
    (copy / "smg_proto/news").mkdir()
    (copy / "smg_proto/news/__init__.py").touch()
    assert named(build(copy, "--check")) == ["smg_proto/__init__.py"]
    assert build(copy).returncode == 0
    init = (copy / "smg_proto/__init__.py").read_text(encoding="utf-8")
    assert "    from smg_proto import news as news\n" in init


def test_a_changed_comment_changes_stubs_and_reference(copy: Path) -> None:
    edit(copy / CHAT, "// ", "// Indeed: ")
    done = build(copy, "--check")
    assert done.returncode == 1
    assert {
        "smg_proto/v1/chat_pb2.pyi",
        "smg_proto/descriptors.binpb",
        "docs/reference/smg.v1.md",
    } <= set(named(done))


def test_two_protos_of_one_module_are_named(copy: Path) -> None:
    (copy / "proto/trtllm/llm.proto").write_text(
        'syntax = "proto3"; package trtllm;', encoding="utf-8"
    )
    before = content(copy)
    done = build(copy)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "entity/grpc/llm.proto and trtllm/llm.proto would both become smg_proto.llm_pb2" in line
    assert content(copy) == before


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('import public "google/protobuf/any.proto";', "a public import"),
        (
            'import "google/protobuf/descriptor.proto";'
            "extend google.protobuf.FieldOptions { string s = 50000; }",
            "an extension",
        ),
    ],
)
def test_a_proto_that_the_generator_does_not_support_is_named(
    text: str, what: str, copy: Path
) -> None:
    proto = copy / "proto/trtllm/more.proto"
    proto.write_text(f'syntax = "proto3"; package trtllm; {text}', encoding="utf-8")
    before = content(copy)
    done = build(copy)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"trtllm/more.proto: {what}" in line
    assert content(copy) == before


def test_a_tool_of_another_version_is_rejected(copy: Path) -> None:
    # Where the copy's own environment would be: it is not made anew when it is the one that runs.
    make_environment(copy / ".venv", [pin for pin in PINS if "mypy" not in pin])
    before = content(copy)
    done = build(copy, python=copy / ".venv/bin/python")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "mypy-protobuf is missing, but must be 5.1.0; delete" in line
    assert content(copy) == before


def test_a_tool_that_does_not_run_is_named(copy: Path) -> None:
    python = make_environment(copy / ".venv", PINS)
    (python.parent / "buf").unlink()
    (python.parent / "buf").write_bytes(b"damaged")
    before = content(copy)
    done = build(copy, python=python)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"could not run {python.parent / 'buf'}: " in line and "delete" in line
    assert content(copy) == before


def test_a_file_that_cannot_be_written_is_named(copy: Path) -> None:
    (copy / "smg_proto/v1/chat_pb2.py").unlink()
    (copy / "smg_proto/v1/chat_pb2.py.new").mkdir()  # where the new content would be put first
    before = content(copy)
    done = build(copy)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "could not write smg_proto/v1/chat_pb2.py" in line
    assert content(copy) == before


@pytest.mark.parametrize("version", PYTHONS)
def test_the_same_bytes_on_every_python(version: str, copy: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "tools", PINS, python=find_python(version))
    before = content(copy)
    for pattern in ("smg_proto/*_pb2*", "smg_proto/v1/*", "smg_proto/descriptors.binpb"):
        for path in copy.glob(pattern):
            path.unlink()
    done = build(copy, python=python)
    assert done.returncode == 0, done.stderr
    assert content(copy) == before


def test_without_the_tools_the_build_continues_with_the_repository_s_python(copy: Path) -> None:
    make_environment(copy / ".venv", PINS)
    script = copy / "scripts" / "build.py"
    (copy / "smg_proto/llm_pb2.py").unlink()
    code = f"""
import sys; sys.path.insert(0, {str(script.parent)!r}); sys.argv = [{str(script)!r}, "--check"]
import _venv; _venv.ensure = lambda extras: _venv.PYTHON  # it is there
import build; build.main(); print("did not go on")
"""
    bare = getattr(sys, "_base_executable", sys.executable)
    done = subprocess.run([bare, "-B", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert named(done) == ["smg_proto/llm_pb2.py"]
