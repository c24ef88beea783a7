"""Released packages, from the registries' own clients, kept in a cache."""

import os
import re
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from smg_proto.compat._files import ContractError
from smg_proto.compat._limits import DOWNLOAD_SECONDS
from smg_proto.compat._programs import ProgramError, program, run


def cache() -> Path:
    """Where downloaded packages stay."""
    home = os.environ.get("SMG_PROTO_CACHE")
    return (Path(home) if home else Path.home() / ".cache" / "smg-grpc-proto") / "wheels"


def wheel(requirement: str) -> Path:
    """The wheel of a released version, from the package index or the cache."""
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([A-Za-z0-9][\w.+!-]*)", requirement, re.ASCII)
    if not match:
        raise ContractError(f"pypi:{requirement}: write pypi:NAME==VERSION")
    folder = cache()
    stem = re.sub(r"[-_.]+", "_", match[1]).lower() + f"-{match[2]}"
    if kept := _kept(folder, f"{stem}-", ".whl"):
        return kept
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-q"]
        command = [*_pip(), "download", *options, "-d", scratch, requirement]
        try:
            # In an empty folder: `python -m` looks for modules in the current one first.
            run(command, "pypi", seconds=DOWNLOAD_SECONDS, cwd=Path(scratch))
        except ProgramError as error:
            reason = error.said.partition(" (from versions")[0].partition("ERROR: ")[2]
            raise ContractError(f"pypi:{requirement}: {reason or error.said}") from None
        wheels = sorted(Path(scratch).glob("*.whl"))
        if not wheels:
            raise ContractError(f"pypi:{requirement}: the index gave no wheel")
        return _keep(folder, wheels[0])


def crate(requirement: str) -> Path:
    """The archive of a released crate, from cargo's registry or the cache."""
    match = re.fullmatch(r"([A-Za-z][\w-]*)@(\d[\w.+-]*)", requirement, re.ASCII)
    if not match:
        raise ContractError(f"crate:{requirement}: write crate:NAME@VERSION")
    folder = cache()
    stem = f"{match[1]}-{match[2]}"
    if kept := _kept(folder, stem, ".crate"):
        return kept
    cargo = program("cargo")
    if not cargo:
        raise ContractError(f"crate:{requirement}: needs cargo to download it; install Rust")
    with tempfile.TemporaryDirectory() as scratch:
        # In an empty folder: cargo and rustup obey files that they find in the current one.
        command = [cargo, "info", "--quiet", requirement]
        try:
            run(command, "crate", seconds=DOWNLOAD_SECONDS, cwd=Path(scratch))
        except ProgramError as error:
            reason = error.said.partition("error: ")[2].partition("\n")[0]
            raise ContractError(f"crate:{requirement}: {reason or error.said}") from None
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    found = sorted((home / "registry" / "cache").glob(f"*/{stem}.crate"))
    if not found:
        raise ContractError(f"crate:{requirement}: cargo kept no archive of it; update Rust")
    return _keep(folder, found[0])


def _kept(folder: Path, start: str, suffix: str) -> Path | None:
    """The package in the cache; a name that ends as it starts is the whole name."""
    if not folder.is_dir():
        return None
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix == suffix
        and (path.name.startswith(start) if start.endswith("-") else path.stem == start)
    )
    return found[0] if found else None


def _keep(folder: Path, package: Path) -> Path:
    """Put a package into the cache, whole or not at all."""
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
    raise ContractError("pypi: needs pip or uv to download a release; install one of them")
