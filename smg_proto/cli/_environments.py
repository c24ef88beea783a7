"""Finds the Python tools of code generation, or installs them in an environment of their own."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from smg_proto.cli import CommandError
from smg_proto.cli._swap import locked
from smg_proto.compat import ContractError
from smg_proto.compat._download import cache
from smg_proto.compat._limits import DOWNLOAD_SECONDS
from smg_proto.compat._programs import ProgramError, program, run

_STUBS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
_READY = "ready"


@dataclass(frozen=True)
class Tools:
    python: Path  # has grpc_tools
    folder: Path  # holds protoc-gen-mypy and protoc-gen-mypy_grpc


def tools() -> Tools:
    """The compiler and the plugins beside this Python, or else in environments in the cache.

    Generated code runs on the runtime of its compiler and on newer ones, so this selects the newest
    compiler that needs no newer protobuf and grpcio than those installed here.
    """
    folder = Path(sys.executable).parent
    python = Path(sys.executable)
    if not find_spec("grpc_tools"):
        runtime = [f"{name}<={metadata.version(name)}" for name in ("protobuf", "grpcio")]
        python = _environment(["grpcio-tools", *runtime])
    if not all((folder / name).exists() for name in _STUBS):
        folder = _environment(["mypy-protobuf"]).parent
    return Tools(python, folder)


def _environment(requirements: Sequence[str]) -> Path:
    """The Python of an environment with these packages, created once and kept in the cache."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = cache().parent / "-".join([version, *(r.replace("<=", "-") for r in requirements)])
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent):
        if not (folder / _READY).exists():
            shutil.rmtree(folder, ignore_errors=True)
            print(f"creating an environment with {', '.join(requirements)}", file=sys.stderr)
            try:
                _create(folder, python, requirements)
            except (ContractError, OSError) as error:
                shutil.rmtree(folder, ignore_errors=True)
                reason = error.output if isinstance(error, ProgramError) else str(error)
                raise CommandError(
                    f"could not create an environment with {', '.join(requirements)}: "
                    f"{reason.partition(chr(10))[0]}; "
                    "install grpcio-tools and mypy-protobuf beside smg-proto"
                ) from error
            (folder / _READY).touch()
    return python


def _create(folder: Path, python: Path, requirements: Sequence[str]) -> None:
    options: list[str] = ["--only-binary", ":all:"]
    if uv := program("uv"):
        venv = [uv, "venv", "-q", "--no-python-downloads", "--python", sys.executable, str(folder)]
        install = [uv, "pip", "install", "-q", "--python", str(python), *options, *requirements]
    else:
        venv = [sys.executable, "-m", "venv", str(folder)]
        options += ["--disable-pip-version-check", "-q"]
        install = [str(python), "-m", "pip", "install", *options, *requirements]
    # In a folder without modules, because `python -m` imports them from the current one first.
    run(venv, "pypi", seconds=DOWNLOAD_SECONDS, cwd=folder.parent)
    run(install, "pypi", seconds=DOWNLOAD_SECONDS, cwd=folder)
