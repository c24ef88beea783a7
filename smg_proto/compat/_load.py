"""Reading a contract from wherever it is: files, wheels, releases, git revisions, servers."""

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

from smg_proto.compat._contract import Contract
from smg_proto.compat._files import ContractError

SPECS = """\
a directory of .proto files, a FileDescriptorSet file, a wheel, pypi:NAME==VERSION, git:REVISION,
self (this package) or grpc://HOST:PORT (a running server, by reflection)"""
_DESCRIPTORS = "smg_proto/descriptors.binpb"


def load(spec: str | Path) -> Contract:
    """The contract that a spec names; ContractError says why it cannot be read."""
    text = str(spec)
    match text.partition(":"):
        case "self", "", "":
            from smg_proto import descriptor_set

            return Contract(descriptor_set(), "self")
        case "pypi", ":", requirement:
            return Contract(_wheel(_download(requirement), text), text)
        case "git", ":", revision:
            return Contract(_revision(revision, text), text)
        case "grpc", ":", address:
            from smg_proto.compat._server import Server

            with Server(address.removeprefix("//")) as server:
                return server.contract()
        case "", "", "":
            raise ContractError(f"an empty name; give {' '.join(SPECS.split())}")
        case _:
            return Contract(_path(Path(text), text), text)


def cache() -> Path:
    """Where downloaded wheels stay."""
    home = os.environ.get("SMG_PROTO_CACHE")
    return (Path(home) if home else Path.home() / ".cache" / "smg-grpc-proto") / "wheels"


def _path(path: Path, origin: str) -> FileDescriptorSet:
    if path.is_dir():
        return _compile(path, origin)
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ContractError(f"{origin}: {reason}; give {' '.join(SPECS.split())}") from error
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _wheel(path, origin)
    return _parse(data, origin)


def _parse(data: bytes, origin: str) -> FileDescriptorSet:
    try:
        files = FileDescriptorSet.FromString(data)
    except DecodeError as error:
        hint = "make one with protoc --include_imports --descriptor_set_out, or buf build -o"
        raise ContractError(f"{origin}: not a FileDescriptorSet; {hint}") from error
    if not files.file or not all(file.name for file in files.file):
        raise ContractError(f"{origin}: no descriptors in it, so it is not a FileDescriptorSet")
    return files


# --- wheels ----------------------------------------------------------------------------------


def _wheel(path: Path, origin: str) -> FileDescriptorSet:
    """What the wheel's generated modules hold, read without running them."""
    try:
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            if _DESCRIPTORS in names:
                return _parse(wheel.read(_DESCRIPTORS), f"{origin}: {_DESCRIPTORS}")
            sources = {name: wheel.read(name) for name in names if name.endswith("_pb2.py")}
            if not sources and any(name.endswith(".proto") for name in names):
                with tempfile.TemporaryDirectory() as scratch:
                    wheel.extractall(scratch)
                    return _compile(Path(scratch), origin)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ContractError(f"{origin}: not a readable wheel: {error}") from error
    found: dict[str, FileDescriptorProto] = {}
    for name, source in sources.items():
        for data in _serialized(source, f"{origin}: {name}"):
            try:
                file = FileDescriptorProto.FromString(data)
            except DecodeError as error:
                raise ContractError(f"{origin}: {name} holds no readable descriptor") from error
            if found.setdefault(file.name, file) != file:
                raise ContractError(
                    f"{origin}: two modules differ about {file.name}, one is {name}"
                )
    if not found:
        raise ContractError(f"{origin}: no protos and no generated modules in this wheel")
    return FileDescriptorSet(file=found.values())


def _serialized(source: bytes, origin: str) -> list[bytes]:
    """The descriptors in a generated module, which passes each to the pool as a bytes literal."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ContractError(f"{origin}: not a Python module: {error}") from error
    found: list[bytes] = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="AddSerializedFile"), args=[ast.Constant(value=bytes(data))]
            ):
                found.append(data)
            case ast.keyword(arg="serialized_pb", value=ast.Constant(value=bytes(data))):
                found.append(data)  # protoc before 3.20
            case _:
                pass
    return found


def _download(requirement: str) -> Path:
    """The wheel of a released version, from the package index or the cache."""
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([A-Za-z0-9][\w.+!-]*)", requirement)
    if not match:
        raise ContractError(f"pypi:{requirement}: write pypi:NAME==VERSION")
    folder = cache()
    stem = re.sub(r"[-_.]+", "_", match[1]).lower() + f"-{match[2]}"
    if not (wheels := sorted(folder.glob(f"{stem}-*.whl"))):
        with tempfile.TemporaryDirectory() as scratch:
            options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-q"]
            try:
                _run([*_pip(), "download", *options, "-d", scratch, requirement], "")
            except ContractError as error:
                reason = str(error).partition(" (from versions")[0].partition("ERROR: ")[2]
                raise ContractError(f"pypi:{requirement}: {reason or error}") from None
            folder.mkdir(parents=True, exist_ok=True)
            for wheel in Path(scratch).glob("*.whl"):
                shutil.copyfile(wheel, folder / f"{wheel.name}.new")
                (folder / f"{wheel.name}.new").replace(folder / wheel.name)
                wheels = [folder / wheel.name]
    if not wheels:
        raise ContractError(f"pypi:{requirement}: the index gave no wheel")
    return wheels[0]


def _pip() -> list[str]:
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if uv := _program("uv"):
        return [uv, "tool", "run", "pip"]
    raise ContractError("pypi: needs pip or uv to download a release; install one of them")


# --- trees of protos ---------------------------------------------------------------------------


def _revision(revision: str, origin: str) -> FileDescriptorSet:
    """A revision of the repository that we are in; a committed descriptor set goes first."""
    git = _program("git")
    if not git:
        raise ContractError(f"{origin}: git is not installed; give a directory or a wheel instead")
    if not revision or revision.startswith("-"):
        raise ContractError(f"{origin}: write git:REVISION")
    top = _run([git, "rev-parse", "--show-toplevel"], origin).decode().strip()
    commit = [git, "-C", top, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    try:
        commit_id = _run(commit, origin).decode().strip()
    except ContractError:
        raise ContractError(f"{origin}: no such revision in {top}") from None
    listed = _run([git, "-C", top, "ls-tree", "-r", "--name-only", commit_id], origin).decode()
    names = listed.splitlines()
    if _DESCRIPTORS in names:
        data = _run([git, "-C", top, "show", f"{commit_id}:{_DESCRIPTORS}"], origin)
        return _parse(data, f"{origin}: {_DESCRIPTORS}")
    protos = [name for name in names if name.endswith(".proto")]
    if not protos:
        raise ContractError(f"{origin}: no .proto files in that revision")
    data = _run([git, "-C", top, "archive", "--format=tar", commit_id, "--", *protos], origin)
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(fileobj=io.BytesIO(data)) as tree:
        for member in tree.getmembers():
            if member.isfile() and (content := tree.extractfile(member)):
                target = Path(scratch, member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
        return _compile(Path(scratch), origin)


def _compile(folder: Path, origin: str) -> FileDescriptorSet:
    """The protos below a folder, by whichever compiler is there."""
    root = folder / "proto" if (folder / "proto").is_dir() else folder
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.proto"))
    if not names:
        raise ContractError(f"{origin}: no .proto files in it")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "descriptors.binpb")
        options = ["-I.", "--include_imports", f"--descriptor_set_out={out}"]
        if find_spec("grpc_tools"):
            command = [sys.executable, "-m", "grpc_tools.protoc", *options, *names]
        elif protoc := _program("protoc"):
            command = [protoc, *options, *names]
        elif buf := _program("buf"):
            config = '{"version":"v2","modules":[{"path":"."}]}'
            command = [buf, "build", "--config", config, "-o", str(out)]
        else:
            wanted = "pip install grpcio-tools, or put protoc or buf on PATH"
            raise ContractError(f"{origin}: .proto files need a compiler; {wanted}")
        _run(command, origin, cwd=root)
        return _parse(out.read_bytes(), origin)


def _program(name: str) -> str | None:
    """On PATH, or beside this Python, where pip puts programs."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def _run(command: Sequence[str], origin: str, cwd: Path | None = None) -> bytes:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise ContractError(f"{origin}: {command[0]} does not run: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        said = [line for line in lines if "warning" not in line.lower()] or lines or ["nothing"]
        problem = said[0].strip() + _imported(said[0], cwd)
        raise ContractError(f"{origin}: {Path(command[0]).name} said: {problem}")
    return done.stdout


def _imported(problem: str, root: Path | None) -> str:
    """The line of source that buf complains of where it does not name the import itself."""
    match = re.match(r"(.+?\.proto):(\d+):\d+:imported file does not exist$", problem.strip())
    if not match or root is None:
        return ""
    lines = (root / match[1]).read_text(encoding="utf-8", errors="replace").splitlines()
    return f": {lines[int(match[2]) - 1].strip()}"
