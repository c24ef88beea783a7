"""The pinned tools that generate code, in the environment that runs the script."""

import re
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import _venv

# Another release of these may write other text; scripts/constraints.txt says which.
PINNED = ("buf-bin", "mypy-protobuf", "ruff")
_AGAIN = f"delete {_venv.VENV} and run again"


class Stop(Exception):
    """Ends a script with a message and an exit code: 1 the answer is no, 2 a tool is missing."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def enter() -> None:
    """Go on in a Python that has the tools: this one, or else the repository's own."""
    if _wrong() and Path(sys.prefix).resolve() != _venv.VENV.resolve():
        _venv.enter()  # does not come back
    if wrong := _wrong():
        raise Stop(2, f"{wrong}; {_AGAIN}")


def program(name: str) -> str:
    """A program of this environment, whether or not the environment is on PATH."""
    return str(Path(sysconfig.get_path("scripts"), name))


def run(
    name: str, *options: str, cwd: Path | None = None, given: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    """Run a program of this environment: what it prints is in the result."""
    command = [program(name), *options]
    try:
        return subprocess.run(command, cwd=cwd, input=given, capture_output=True)
    except OSError as error:
        raise Stop(2, f"{command[0]} does not run: {error.strerror}; {_AGAIN}") from error


def last_line(output: bytes) -> str:
    return (output.decode(errors="replace").strip() or "no output").splitlines()[-1]


def _wrong() -> str:
    """What this environment lacks, or nothing."""
    pins = _venv.CONSTRAINTS.read_text(encoding="utf-8")
    for name in PINNED:
        (wanted,) = re.findall(rf"^{name}==([\w.]+)", pins, re.MULTILINE)
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "missing"
        if found != wanted:
            return f"{name} is {found}, needed is {wanted}"
    return ""
