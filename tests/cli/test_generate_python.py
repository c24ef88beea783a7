"""smg-proto generate --lang python: a team's own protos that embed the contracts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, make_environment, run

import smg_proto
from smg_proto.cli import main
from smg_proto.cli._python import modules
from smg_proto.cli._stubs import STUB_HEADER, moved

EMBEDDING = Path(__file__).parent / "embedding"
CHAT = "smg/v1/chat.proto"


def generate(proto: Path, out: Path, *more: str | Path) -> int:
    words = ["--lang", "python", "--proto", proto, "--out", out, *more]
    return main(["generate", *map(str, words)])


@pytest.fixture
def team(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EMBEDDING, tmp_path / "team"))


# --- without a compiler --------------------------------------------------------------------------


def test_each_file_of_the_contracts_has_a_module() -> None:
    own = {f.name for f in smg_proto.descriptor_set().file if not f.name.startswith("google/")}
    assert len(modules()) == len(own)
    assert modules()["smg.v1.chat_pb2"] == "smg_proto.v1.chat_pb2"
    assert modules()["vllm.grpc.engine.vllm_engine_pb2"] == "smg_proto.vllm_engine_pb2"
    assert modules()["smg.grpc.common.common_pb2"] == "smg_proto.common_pb2"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from smg.v1 import chat_pb2 as x", "from smg_proto.v1 import chat_pb2 as x"),
        ("from smg.v1.chat_pb2 import *", "from smg_proto.v1.chat_pb2 import *"),
        ("from smg.v1.chat_pb2_grpc import *", "from smg_proto.v1.chat_pb2_grpc import *"),
        ("from smg.v1.chat_pb2 import A as A", "from smg_proto.v1.chat_pb2 import A as A"),
        ("from smg.v2 import chat_pb2 as x", "from smg.v2 import chat_pb2 as x"),
        ("from acme.smg.v1 import chat_pb2 as x", "from acme.smg.v1 import chat_pb2 as x"),
        ("  from smg.v1 import chat_pb2 as x", "  from smg.v1 import chat_pb2 as x"),
    ],
)
def test_only_imports_of_the_contracts_are_rewritten(line: str, expected: str) -> None:
    assert moved(f"import a\n{line}\n", modules()) == f"import a\n{expected}\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--lang", "python"], "missing --proto DIR"),
        (["--lang", "python", "--proto", "nowhere"], "nowhere: not a folder of .proto files"),
        (["--lang", "python", "--proto", ".", "-I", "no"], "no: not a folder of .proto files"),
        (["--lang", "python", "--proto", "."], ".: no .proto files of your own"),
        (["--lang", "python", "--proto", ".", "--only", "smg.v1"], "takes only --proto"),
        (["--lang", "python", "--proto", ".", "--crate", "x"], "takes only --proto"),
        (["--lang", "go", "--proto", "."], "--proto and -I are for python, not for go"),
    ],
)
def test_usage_errors_are_one_line(
    words: list[str],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", *words, "--out", "out"]) == 2
    shown = capsys.readouterr().err
    assert problem in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- with the newest compiler --------------------------------------------------------------------


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments for it in the cache of this checkout."""
    monkeypatch.setenv("SMG_PROTO_CACHE", str(ROOT / ".cache"))


@pytest.mark.languages
@pytest.mark.usefixtures("compiler")
class TestCopies:
    def test_a_copy_of_this_release_is_not_generated_again(
        self, team: Path, tmp_path: Path
    ) -> None:
        for folder in (team, team / "third_party" / "smg"):  # with a manifest, and without
            assert main(["export", str(folder), "--force"]) == 0
        (team / "smg-proto.json").unlink()
        chat = team / CHAT
        chat.write_text(chat.read_text(encoding="utf-8") + "// ours\n", encoding="utf-8")
        assert generate(team, tmp_path / "gen") == 0
        assert {p.name for p in (tmp_path / "gen").iterdir()} == {"acme", "smg-proto.json"}

    @pytest.mark.parametrize("place", ["team", "team/third_party/smg", "other"])
    def test_a_copy_of_another_release_is_rejected_by_name(
        self, place: str, team: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copy = tmp_path / place
        assert main(["export", str(copy), "--force"]) == 0
        chat = copy / CHAT
        text = chat.read_text(encoding="utf-8")
        chat.write_text(text + "message Newer {}\n", encoding="utf-8")
        if place == "team":
            (copy / "smg-proto.json").unlink()
        capsys.readouterr()
        more = ["-I", str(copy)] if place == "other" else []
        assert generate(team, tmp_path / "gen", *more) == 2
        shown = capsys.readouterr().err
        version = smg_proto.__version__
        release = "" if place == "team" else f" (exported from {version})"
        assert f"{chat}: differs from smg-proto {version}{release}; update the copy " in shown
        assert not (tmp_path / "gen").exists()

    def test_a_copy_under_another_name_is_rejected_by_name(
        self, team: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(smg_proto.proto_path() / "smg/v1/content.proto", team / "content.proto")
        assert generate(team, tmp_path / "gen") == 2
        shown = capsys.readouterr().err
        assert (
            f"{team / 'content.proto'}: declares package smg.v1, which belongs to smg_proto"
            in shown
        )
        assert 'import "smg/v1/content.proto"' in shown

    def test_a_mistake_in_a_proto_is_reported_with_its_line(
        self, team: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        part = team / "acme" / "v1" / "part.proto"
        part.write_text(part.read_text(encoding="utf-8") + "message {}\n", encoding="utf-8")
        assert generate(team, tmp_path / "gen") == 2
        assert "acme/v1/part.proto:5:9: Expected message name" in capsys.readouterr().err

    def test_a_compiler_that_takes_too_long_is_named(
        self,
        team: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr("smg_proto.cli._python.COMPILE_SECONDS", 0.001)
        assert generate(team, tmp_path / "gen") == 2
        assert capsys.readouterr().err == (
            "smg-proto generate: could not generate Python: "
            "python: python did not end within 0.001 s\n"
        )

    def test_modules_come_with_stubs_and_no_module_of_the_current_folder_runs(
        self,
        team: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "grpc_tools").mkdir()
        for name in ("__init__.py", "protoc.py"):
            (tmp_path / "grpc_tools" / name).write_text("raise SystemExit(9)", encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        for did in ("wrote", "already has"):
            assert generate(team, tmp_path / "gen") == 0
            count = len(list((tmp_path / "gen").rglob("*_pb2*")))
            assert capsys.readouterr().out == (
                f"{tmp_path / 'gen'}: {did} {count} files of Python "
                f"for smg-proto {smg_proto.__version__}\n"
            )
        written = {p.name: p for p in (tmp_path / "gen").rglob("*_pb2*")}
        for name, path in written.items():
            if name.endswith(".py"):
                stub = written[f"{name}i"].read_text(encoding="utf-8")
                assert stub.startswith(STUB_HEADER)
                assert STUB_HEADER not in path.read_text(encoding="utf-8")
                assert "import smg.v1" not in stub and "from smg.v1" not in stub
        servicer = next(p for name, p in written.items() if name.endswith("_pb2_grpc.pyi"))
        assert "NotImplementedError" not in servicer.read_text(encoding="utf-8")
        assert "abc.abstractmethod" not in servicer.read_text(encoding="utf-8")

    def test_names_that_look_like_options_run_nothing(self, team: Path, tmp_path: Path) -> None:
        for name in ("@args.proto", "--python_out=x.proto"):
            (team / name).write_text('syntax = "proto3";\n', encoding="utf-8")
        assert generate(team, tmp_path / "gen") == 0


@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("protobuf", ["4.25.8", "5.29.5", "6.33.6", "7.34.1", "7.36.2"])
def test_messages_that_embed_the_contracts_still_work(
    protobuf: str, wheel: Path, team: Path, tmp_path: Path
) -> None:
    """Imported, pickled, typed and of shared classes, beside other packages of the same names."""
    types = ["types-protobuf", "types-grpcio"]
    python = make_environment(tmp_path / "env", [wheel, f"protobuf=={protobuf}", *types])
    out, others = tmp_path / "gen", tmp_path / "others"
    words = ["generate", "--lang", "python", "--proto", str(team), "--out", str(out)]
    programs = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    cache = str(ROOT / ".cache")
    run(python.parent / "smg-proto", *words, SMG_PROTO_CACHE=cache, PATH=programs)
    for name in ("smg", "vllm"):  # as the wheels of the gateway and of vLLM have them
        (others / name).mkdir(parents=True)
        (others / name / "__init__.py").touch()
    program = team / "program.py"
    output = run(python, "-W", "error", program, PYTHONPATH=f"{others}:{out}")
    assert output == "shared\n"
    assert "Success" in mypy(python, program, out)
    # Types, not Any: a wrong one is noticed.
    mistakes = program.read_text(encoding="utf-8").replace('text="Hello"', "text=7")
    program.write_text(mistakes.replace('content="Hello"', "content=7"), encoding="utf-8")
    assert mypy(python, program, out).count("error:") == 2


def mypy(python: Path, program: Path, generated: Path) -> str:
    """What mypy --strict says of a program, which imports what is installed for that Python."""
    options = ["--strict", "--config-file=", f"--cache-dir={generated.parent / 'mypy'}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--python-executable", python, program],
        capture_output=True,
        text=True,
        env=os.environ | {"MYPYPATH": str(generated)},
        cwd=generated.parent,  # not the checkout, whose smg_proto mypy would take
    )
    return done.stdout
