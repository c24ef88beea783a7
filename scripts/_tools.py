"""The pinned tools that generate code: two environments, made on first use."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("SMG_PROTO_CACHE") or Path.home() / ".cache" / "smg-grpc-proto")

# Two, because their protobuf runtimes exclude each other. Each pin has its reason.
GENERATOR = [
    "grpcio-tools==1.62.3",  # protoc 25.1: its code runs without warnings on protobuf 4.25 to 7.x
    "protobuf==4.25.8",  # of the newest line that grpcio-tools 1.62.3 accepts
    "setuptools==80.9.0",  # asked for by grpcio-tools; fixed, so that a new one cannot break it
]
STUBS = [
    "mypy-protobuf==5.1.0",  # types sync and aio stubs apart; another release writes other text
    "protobuf==7.36.2",  # mypy-protobuf wants 6.32 or newer; also reads the descriptor set
]
PROTOC_VERSION = "libprotoc 25.1"
STUBS_VERSION = "mypy-protobuf 5.1.0"
PYTHONS = ((3, 10), (3, 12))  # grpcio-tools 1.62.3 has wheels for these


class Stop(Exception):
    """Ends a script with a message and an exit code: 1 the answer is no, 2 a tool is missing."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def protoc() -> list[str]:
    """The command that runs the pinned protoc, after a look at its version."""
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        raise Stop(2, f"run with Python 3.10, 3.11 or 3.12: {GENERATOR[0]} has wheels for no other")
    command = [str(python_with("generator", GENERATOR)), "-m", "grpc_tools.protoc"]
    _assert_version(command, PROTOC_VERSION)
    return command


def stub_python() -> Path:
    """The Python beside which protoc-gen-mypy and protoc-gen-mypy_grpc lie."""
    python = python_with("stubs", STUBS)
    for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc"):
        _assert_version([str(python.with_name(plugin))], STUBS_VERSION)
    return python


def _assert_version(command: list[str], wanted: str) -> None:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True)
        found = done.stdout.strip() or f"exit {done.returncode}"
    except OSError as error:
        found = str(error)
    if found != wanted:
        tool = " ".join(command)
        raise Stop(2, f"{tool} is not {wanted} but: {found}; delete {CACHE} and run again")


def python_with(name: str, pins: list[str]) -> Path:
    """The Python of an environment with these pins; made if it is not there yet."""
    version = f"py{sys.version_info[0]}{sys.version_info[1]}"
    home = CACHE / "-".join([name, *(re.sub(r"\W+", "_", pin) for pin in pins), version])
    python, ready = home / "bin" / "python", home / "ready"
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with home.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two checkouts may build at once
            if not (ready.exists() and python.exists()):
                print(f"build: making the {name} environment: {', '.join(pins)}", flush=True)
                shutil.rmtree(home, ignore_errors=True)
                _run(name, [sys.executable, "-m", "venv", str(home)])
                _run(name, [str(python), "-m", "pip", "install", "-q", "--no-input", *pins])
                ready.touch()
    except OSError as error:
        raise Stop(2, f"the {name} environment could not be made under {CACHE}: {error}") from error
    return python


def _run(name: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = ((done.stderr or done.stdout).strip().splitlines() or ["no output"])[-1]
        raise Stop(
            2, f"the {name} environment could not be made; is a package index in reach? {reason}"
        )
