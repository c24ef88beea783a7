"""The compiler and plugins for Python: beside this Python, or in environments in the cache."""

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

from smg_proto.cli import CommandError, _environments
from smg_proto.cli._environments import Tools, tools
from smg_proto.compat import ContractError
from smg_proto.compat._programs import ProgramError

VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
RUNTIME = [f"{name}<={metadata.version(name)}" for name in ("protobuf", "grpcio")]
COMPILER = "-".join([VERSION, "grpcio-tools", *(each.replace("<=", "-") for each in RUNTIME)])
PLUGINS = f"{VERSION}-mypy-protobuf"


class Machine:
    """What is installed, and the programs that were run."""

    def __init__(self, home: Path) -> None:
        self.home, self.python = home, home / "beside" / "python"
        self.python.parent.mkdir()
        self.modules = {"grpc_tools"}
        self.programs: set[str] = {"uv"}
        self.commands: list[tuple[Sequence[str], Path]] = []
        self.failure: Exception | None = None
        for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc"):
            (self.python.parent / name).touch()

    def find_spec(self, name: str) -> object:
        return name if name in self.modules else None

    def program(self, name: str) -> str | None:
        return f"/bin/{name}" if name in self.programs else None

    def run(self, command: Sequence[str], origin: str, *, seconds: float, cwd: Path) -> bytes:
        assert (origin, seconds) == ("pypi", 300)
        assert cwd.is_dir()
        self.commands.append((command, cwd))
        if "venv" in command:
            Path(command[-1]).mkdir()
        if self.failure:
            raise self.failure
        return b""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("SMG_PROTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "executable", str(machine.python))
    for name in ("find_spec", "program", "run"):
        monkeypatch.setattr(_environments, name, getattr(machine, name))
    return machine


def test_what_is_beside_python_is_taken(machine: Machine) -> None:
    assert tools() == Tools(machine.python, machine.python.parent)
    assert machine.commands == []


def test_what_is_missing_is_installed_once_with_uv(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.modules.clear()
    (machine.python.parent / "protoc-gen-mypy_grpc").unlink()
    cache = machine.home / "cache"
    compiler, plugins = cache / COMPILER, cache / PLUGINS
    for _ in range(2):
        assert tools() == Tools(compiler / "bin" / "python", plugins / "bin")
    create = ["/bin/uv", "venv", "-q", "--no-python-downloads", "--python", str(machine.python)]
    install = ["/bin/uv", "pip", "install", "-q", "--python"]
    options = ["--only-binary", ":all:"]
    assert machine.commands == [
        ([*create, str(compiler)], cache),
        ([*install, f"{compiler}/bin/python", *options, "grpcio-tools", *RUNTIME], compiler),
        ([*create, str(plugins)], cache),
        ([*install, f"{plugins}/bin/python", *options, "mypy-protobuf"], plugins),
    ]
    output = capsys.readouterr()
    assert (output.out, output.err.splitlines()) == (
        "",
        [
            f"creating an environment with grpcio-tools, {', '.join(RUNTIME)}",
            "creating an environment with mypy-protobuf",
        ],
    )


def test_without_uv_the_standard_library_and_pip_install(machine: Machine) -> None:
    machine.programs.clear()
    (machine.python.parent / "protoc-gen-mypy").unlink()
    plugins = machine.home / "cache" / PLUGINS
    assert tools() == Tools(machine.python, plugins / "bin")
    pip = [f"{plugins}/bin/python", "-m", "pip", "install", "--only-binary", ":all:"]
    assert [command for command, _ in machine.commands] == [
        [str(machine.python), "-m", "venv", str(plugins)],
        [*pip, "--disable-pip-version-check", "-q", "mypy-protobuf"],
    ]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ProgramError("pypi: uv failed: no\nnetwork", "no\nnetwork"), "no"),
        (ContractError("pypi: uv did not end within 300 s"), "pypi: uv did not end within 300 s"),
        (OSError(28, "No space left"), "[Errno 28] No space left"),
    ],
)
def test_an_environment_that_fails_leaves_nothing_and_is_tried_again(
    failure: Exception, reason: str, machine: Machine
) -> None:
    machine.modules.clear()
    machine.failure = failure
    with pytest.raises(CommandError) as raised:
        tools()
    assert str(raised.value) == (
        f"could not create an environment with grpcio-tools, {', '.join(RUNTIME)}: {reason}; "
        "install grpcio-tools and mypy-protobuf beside smg-proto"
    )
    assert list((machine.home / "cache").iterdir()) == []
    (machine.home / "cache" / COMPILER / "half").mkdir(parents=True)  # of a run that was killed
    machine.failure = None
    assert tools().python == machine.home / "cache" / COMPILER / "bin" / "python"
    assert [path.name for path in (machine.home / "cache" / COMPILER).iterdir()] == ["ready"]
