"""scripts/build.py: it names what is wrong, changes nothing then, and gives the same everywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, find_python

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(300)]

PARTS = ["proto", "scripts", "smg_proto", "smg_grpc_proto", "docs"]
CHAT = Path("proto/smg/v1/chat.proto")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the script reads and writes, to do harm to."""
    home = tmp_path / "copy"
    for part in PARTS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, home / part, ignore=ignore)
    return home


def build(
    home: Path, *words: str, python: str = sys.executable, **env: str
) -> "subprocess.CompletedProcess[str]":
    command = [python, "-B", str(home / "scripts" / "build.py"), *words]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True)


def content(home: Path) -> dict[Path, bytes]:
    return {path.relative_to(home): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_a_broken_proto_is_named_with_its_line_and_nothing_changes(copy: Path) -> None:
    lines = (copy / CHAT).read_text(encoding="utf-8").splitlines(keepends=True)
    broken = next(i for i, line in enumerate(lines) if line.startswith("message ChatMessage"))
    lines.insert(broken + 1, "  nonsense here = 1;\n")
    (copy / CHAT).write_text("".join(lines), encoding="utf-8")
    before = content(copy)
    done = build(copy)
    assert done.returncode == 1
    assert f'smg/v1/chat.proto:{broken + 2}:3: "nonsense" is not defined.' in done.stderr
    assert "Traceback" not in done.stderr
    assert content(copy) == before


def test_check_names_what_differs_and_build_mends_it(copy: Path) -> None:
    edited, lost = copy / "smg_proto/llm_pb2.py", copy / "smg_proto/v1/chat_pb2.pyi"
    stale = copy / "smg_proto/gone_pb2.py"
    mine = copy / "smg_proto/handwritten.py"
    before = content(copy)
    edited.write_text(edited.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    lost.unlink()
    stale.touch()
    mine.touch()
    harmed = content(copy)

    done = build(copy, "--check")
    assert done.returncode == 1
    named = [line.split()[1] for line in done.stderr.splitlines()]
    assert named == ["smg_proto/gone_pb2.py", "smg_proto/llm_pb2.py", "smg_proto/v1/chat_pb2.pyi"]
    assert content(copy) == harmed

    assert build(copy).returncode == 0
    assert content(copy) == before | {mine.relative_to(copy): b""}
    again = build(copy, "--check")
    assert (again.returncode, again.stderr) == (0, "")


def test_a_changed_comment_changes_stubs_and_reference(copy: Path) -> None:
    text = (copy / CHAT).read_text(encoding="utf-8")
    (copy / CHAT).write_text(text.replace("// ", "// Indeed: ", 1), encoding="utf-8")
    done = build(copy, "--check")
    assert done.returncode == 1
    assert {"smg_proto/v1/chat_pb2.pyi", "smg_proto/descriptors.binpb"} <= {
        line.split()[1] for line in done.stderr.splitlines()
    }


def test_without_a_network_one_line_says_so(copy: Path, tmp_path: Path) -> None:
    before = content(copy)
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    done = build(copy, SMG_PROTO_CACHE=str(tmp_path / "empty"), **nowhere)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "generator environment could not be made; is a package index in reach?" in line
    assert "grpcio-tools==1.62.3" in line
    assert content(copy) == before


@pytest.mark.parametrize("version", ["libprotoc 25.1", "mypy-protobuf 5.1.0"])
def test_a_tool_of_another_version_is_refused(version: str, copy: Path) -> None:
    tools = copy / "scripts" / "_tools.py"
    tools.write_text(
        tools.read_text(encoding="utf-8").replace(f'"{version}"', '"another 1.0"'), encoding="utf-8"
    )
    before = content(copy)
    done = build(copy)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"is not another 1.0 but: {version}" in line
    assert content(copy) == before


def test_a_cache_that_cannot_be_made_is_named(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = build(copy, SMG_PROTO_CACHE=str(tmp_path / "file" / "cache"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(tmp_path / "file" / "cache") in line


def test_a_python_without_the_tools_is_told_which_to_take(copy: Path) -> None:
    done = build(copy, python=find_python("3.13"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "Python 3.10, 3.11 or 3.12" in line


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12"])
def test_the_same_bytes_on_every_python(version: str, copy: Path) -> None:
    python = find_python(version)
    before = content(copy)
    for pattern in ("smg_proto/*_pb2*", "smg_proto/v1/*", "smg_proto/descriptors.binpb"):
        for path in copy.glob(pattern):
            path.unlink()
    done = build(copy, python=python)
    assert done.returncode == 0, done.stderr
    assert content(copy) == before
