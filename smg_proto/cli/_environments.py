"""The Python programs of a generation: the team's own, or in an environment made for them."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from smg_proto.cli import CommandError
from smg_proto.cli._swap import alone
from smg_proto.compat import ContractError
from smg_proto.compat._download import cache
from smg_proto.compat._limits import DOWNLOAD_SECONDS
from smg_proto.compat._programs import ProgramError, program, run

_STUBS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
_READY = "ready"


@dataclass(frozen=True)
class Tools:
    python: Path  # that has grpc_tools
    folder: Path  # where protoc-gen-mypy and protoc-gen-mypy_grpc are


def tools() -> Tools:
    """The compiler and the plugins beside this Python, else in environments in the cache.

    The compiler's code runs on the runtime that it was made for, and on newer ones: so it is the
    newest one that needs no newer protobuf and grpcio than those installed here.
    """
    here = Path(sys.executable).parent
    python = Path(sys.executable)
    if not find_spec("grpc_tools"):
        runtime = [f"{name}<={metadata.version(name)}" for name in ("protobuf", "grpcio")]
        python = _environment(["grpcio-tools", *runtime])
    if not all((here / name).exists() for name in _STUBS):
        here = _environment(["mypy-protobuf"]).parent
    return Tools(python, here)


def _environment(requirements: Sequence[str]) -> Path:
    """The Python of an environment with these packages, made once and kept in the cache."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = cache().parent / "-".join([version, *(r.replace("<=", "-") for r in requirements)])
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.parent):
        if not (folder / _READY).exists():
            shutil.rmtree(folder, ignore_errors=True)
            print(f"making an environment with {', '.join(requirements)}", file=sys.stderr)
            try:
                _make(folder, python, requirements)
            except (ContractError, OSError) as error:
                shutil.rmtree(folder, ignore_errors=True)
                said = error.said if isinstance(error, ProgramError) else str(error)
                raise CommandError(
                    f"no environment with {', '.join(requirements)}: {said.partition(chr(10))[0]}; "
                    "or install grpcio-tools and mypy-protobuf beside smg-proto"
                ) from error
            (folder / _READY).touch()
    return python


def _make(folder: Path, python: Path, requirements: Sequence[str]) -> None:
    options: list[str] = ["--only-binary", ":all:"]
    if uv := program("uv"):
        make = [uv, "venv", "-q", "--no-python-downloads", "--python", sys.executable, str(folder)]
        install = [uv, "pip", "install", "-q", "--python", str(python), *options, *requirements]
    else:
        make = [sys.executable, "-m", "venv", str(folder)]
        options += ["--disable-pip-version-check", "-q"]
        install = [str(python), "-m", "pip", "install", *options, *requirements]
    # In a folder without modules: `python -m` looks for them in the current one first.
    run(make, "pypi", seconds=DOWNLOAD_SECONDS, cwd=folder.parent)
    run(install, "pypi", seconds=DOWNLOAD_SECONDS, cwd=folder)
