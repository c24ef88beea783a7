"""Downloads released packages with the registries' own clients, and caches them."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from smg_proto.compat._files import ContractError
from smg_proto.compat._limits import DOWNLOAD_SECONDS
from smg_proto.compat._programs import ProgramError, program, run


def cache() -> Path:
    """The folder for downloaded packages."""
    home = os.environ.get("SMG_PROTO_CACHE")
    return (Path(home) if home else Path.home() / ".cache" / "smg-grpc-proto") / "wheels"


def wheel(requirement: str) -> Path:
    """The wheel of a released version, from the cache or the package index."""
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([A-Za-z0-9][\w.+!-]*)", requirement, re.ASCII)
    if not match:
        raise ContractError(f"pypi:{requirement}: not NAME==VERSION; use pypi:NAME==VERSION")
    wanted = f"{_plain(match[1])}-{match[2]}-"

    def matches(path: Path) -> bool:
        name, _, rest = path.name.partition("-")
        return path.suffix == ".whl" and f"{_plain(name)}-{rest}".startswith(wanted)

    folder = cache()
    if cached := _first(folder, matches):
        return cached
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-q"]
        command = [*_pip(), "download", *options, "-d", scratch, requirement]
        try:
            # In an empty folder, because `python -m` imports modules from the current one first.
            run(command, "pypi", seconds=DOWNLOAD_SECONDS, cwd=Path(scratch))
        except ProgramError as error:
            reason = error.output.partition(" (from versions")[0].partition("ERROR: ")[2]
            raise ContractError(f"pypi:{requirement}: {reason or error.output}") from None
        wheels = sorted(Path(scratch).glob("*.whl"))
        if not wheels:
            raise ContractError(f"pypi:{requirement}: the index has no wheel of it")
        return _store(folder, wheels[0])


def crate(requirement: str) -> Path:
    """The archive of a released crate, from the cache or cargo's registry."""
    match = re.fullmatch(r"([A-Za-z][\w-]*)@(\d[\w.+-]*)", requirement, re.ASCII)
    if not match:
        raise ContractError(f"crate:{requirement}: not NAME@VERSION; use crate:NAME@VERSION")
    wanted = _plain(match[0])

    def matches(path: Path) -> bool:
        # The build metadata of a version, after "+", need not be given.
        names = path.stem, path.stem.partition("+")[0]
        return path.suffix == ".crate" and wanted in map(_plain, names)

    folder = cache()
    if cached := _first(folder, matches):
        return cached
    cargo = program("cargo")
    if not cargo:
        raise ContractError(f"crate:{requirement}: cargo is not installed; install Rust")
    with tempfile.TemporaryDirectory() as scratch:
        # In an empty folder, because cargo and rustup read configuration from the current one.
        command = [cargo, "info", "--quiet", requirement]
        try:
            run(command, "crate", seconds=DOWNLOAD_SECONDS, cwd=Path(scratch))
        except ProgramError as error:
            reason = error.output.partition("error: ")[2].partition("\n")[0]
            raise ContractError(f"crate:{requirement}: {reason or error.output}") from None
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    for index in sorted((home / "registry" / "cache").glob("*")):
        if archive := _first(index, matches):
            return _store(folder, archive)
    raise ContractError(f"crate:{requirement}: cargo kept no archive; update Rust")


def _plain(name: str) -> str:
    """Registries do not distinguish names that are equal in this form."""
    return re.sub(r"[-_.@]+", "_", name).lower()


def _first(folder: Path, matches: Callable[[Path], bool]) -> Path | None:
    return min(filter(matches, folder.iterdir()), default=None) if folder.is_dir() else None


def _store(folder: Path, package: Path) -> Path:
    """Put a package into the cache, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".new", delete=False) as scratch:
        copy = Path(scratch.name)
    try:
        shutil.copyfile(package, copy)
        return copy.replace(folder / package.name)
    finally:
        copy.unlink(missing_ok=True)


def _pip() -> list[str]:
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if uv := program("uv"):
        return [uv, "tool", "run", "pip"]
    raise ContractError("pypi: neither pip nor uv is installed; install one to download a release")
