"""The pinned tools that generate code, from the environment that runs the script."""

import re
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import _venv

# Other releases of these may produce other output; scripts/constraints.txt pins them.
PINNED = ("buf-bin", "mypy-protobuf", "ruff")
_AGAIN = f"delete {_venv.VENV} and run this again"


class Stop(Exception):
    """Ends a script with a message and an exit status: 1 check failed, 2 a tool is missing."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def enter() -> None:
    """Continue in a Python with the tools: this one, or else the repository's own."""
    if _problem() and Path(sys.prefix).resolve() != _venv.VENV.resolve():
        _venv.enter()  # does not return
    if problem := _problem():
        raise Stop(2, f"{problem}; {_AGAIN}")


def program(name: str) -> str:
    """The path of a program of this environment, which need not be on PATH."""
    return str(Path(sysconfig.get_path("scripts"), name))


def run(
    name: str, *options: str, cwd: Path | None = None, given: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    """Run a program of this environment and capture its output."""
    command = [program(name), *options]
    try:
        return subprocess.run(command, cwd=cwd, input=given, capture_output=True)
    except OSError as error:
        raise Stop(2, f"could not run {command[0]}: {error.strerror}; {_AGAIN}") from error


def last_line(output: bytes) -> str:
    return (output.decode(errors="replace").strip() or "no output").splitlines()[-1]


def _problem() -> str:
    """A tool that is missing or of the wrong version; "" if there is none."""
    pins = _venv.CONSTRAINTS.read_text(encoding="utf-8")
    for name in PINNED:
        (wanted,) = re.findall(rf"^{name}==([\w.]+)", pins, re.MULTILINE)
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "missing"
        if installed != wanted:
            return f"{name} is {installed}, but must be {wanted}"
    return ""
