"""Compiles proto files to descriptors in a temporary folder, with any compiler installed."""

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from smg_proto.compat import _limits as limits
from smg_proto.compat._files import ContractError, parse
from smg_proto.compat._programs import ProgramError, program, run
from smg_proto.compat._roots import Names, imports
from smg_proto.compat._tree import Tree, check_name

_PROBLEM = re.compile(
    r"^(?P<file>[^:\n]+\.proto):(?:(?P<line>\d+):(?:(?P<column>\d+):)?)? ?(?P<text>.*)$"
)
_WITH_COMPILERS = "google/protobuf/"

# Finds an imported file outside the tree: its content, and the path to show.
Find = Callable[[str], tuple[bytes, str] | None]


@dataclass
class Compiled:
    files: FileDescriptorSet
    own: frozenset[str]
    shown: Mapping[str, str]
    skipped: Mapping[str, str]


@dataclass
class _Sources:
    """Files by import name."""

    own: dict[str, bytes] = field(default_factory=dict[str, bytes])
    other: dict[str, bytes] = field(default_factory=dict[str, bytes])
    shown: dict[str, str] = field(default_factory=dict[str, str])


class BrokenFile(ContractError):
    """A file that does not compile. `name` is its import name."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


def compile_tree(tree: Tree, included: Find, elsewhere: Find, *, keep_going: bool) -> Compiled:
    """Compile the protos of a tree. Other imports come from one of the two finders.

    keep_going: leave out broken files and the files that import them.
    """

    def find(name: str) -> tuple[bytes, str] | None:
        return included(name) or elsewhere(name)

    names = Names(tree, lambda name: included(name) is not None)
    sources = _Sources()
    for name, path in names.by_name().items():
        check_name(name, tree.origin)
        sources.own[name] = tree.files[path]
        sources.shown[name] = tree.shown + path
    if not sources.own:
        raise ContractError(f"{tree.origin}: no .proto files")
    skipped: dict[str, str] = {}
    deadline = time.monotonic() + limits.COMPILE_SECONDS
    while True:
        try:
            _add_imports(sources, find, tree.origin, names.dependencies)
            files = _compiled(sources, tree.origin, deadline, _lock(tree, names.dependencies))
            return Compiled(files, frozenset(sources.own), sources.shown, skipped)
        except BrokenFile as error:
            if not keep_going or error.name not in sources.own:
                raise
            if len(skipped) >= limits.MAX_BROKEN_FILES:
                raise ContractError(
                    f"{tree.origin}: more than {limits.MAX_BROKEN_FILES} files do not compile; "
                    f"the last is {error}"
                ) from error
            _leave_out(sources, error, skipped)
            if not sources.own:
                raise


def _leave_out(sources: _Sources, error: BrokenFile, skipped: dict[str, str]) -> None:
    """Remove a broken file and the files that import it."""
    skipped[error.name] = str(error)
    del sources.own[error.name]
    todo = [error.name]
    while todo:
        broken = todo.pop()
        for name, data in [*sources.own.items()]:
            if any(imported == broken for imported, _ in imports(data)):
                skipped[name] = f"{sources.shown[name]}: imports {broken}, which is left out"
                del sources.own[name]
                todo.append(name)


def _add_imports(sources: _Sources, find: Find, origin: str, dependencies: Collection[str]) -> None:
    """Add the files that are imported from outside the tree."""
    todo = [*sources.own.items()]
    while todo:
        name, data = todo.pop()
        for imported, line in imports(data):
            if imported in sources.own or imported in sources.other:
                continue
            if file := find(imported):
                check_name(imported, origin)
                sources.other[imported], sources.shown[imported] = file
                if len(sources.other) > limits.MAX_PROTO_FILES:
                    raise ContractError(
                        f"{origin}: imports more than {limits.MAX_PROTO_FILES} files"
                    )
                todo.append((imported, file[0]))
            elif not imported.startswith(_WITH_COMPILERS) and not (dependencies and program("buf")):
                where = f"{sources.shown[name]}:{line}"
                raise BrokenFile(
                    f"{origin}: {where}: imports {imported}, which does not exist; "
                    f"{advice(imported, dependencies)}",
                    name,
                )


def advice(imported: str, dependencies: Collection[str] = ()) -> str:
    """What to do about a missing import."""
    words = "give its folder with -I DIR"
    if re.match(r"google/(api|rpc|type|logging|longrunning)/", imported):
        words += ", or -I pypi:googleapis-common-protos==VERSION"
    if dependencies:
        words += f"; buf.yaml depends on {', '.join(sorted(dependencies)[:5])}"
        words += ", which buf can fetch: pip install buf-bin"
    return words


def _lock(tree: Tree, dependencies: Sequence[str]) -> dict[str, bytes]:
    """The buf configuration for a build with dependencies."""
    if not dependencies:
        return {}
    import json

    version = "v2" if b"v2" in tree.files.get("buf.yaml", b"")[:200] else "v1"
    config = json.dumps({"version": version, "deps": [*dependencies]})
    lock = next((tree.files[path] for path in tree.files if path.endswith("buf.lock")), None)
    return {"buf.yaml": config.encode()} | ({"buf.lock": lock} if lock else {})


def _compiled(
    sources: _Sources, origin: str, deadline: float, buf_files: Mapping[str, bytes]
) -> FileDescriptorSet:
    """Compile with the first compiler that succeeds; the first error if none does."""
    with tempfile.TemporaryDirectory() as scratch:
        protos, out = Path(scratch, "protos"), Path(scratch, "out.binpb")
        for name, data in (sources.own | sources.other | dict(buf_files)).items():
            target = protos / os.fsdecode(name.encode())
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        # In a file, so that there can be any number and no name is taken for an option.
        listed = Path(scratch, "names")
        listed.write_text("".join(f"{name}\n" for name in sources.own), encoding="utf-8")
        first: ContractError | None = None
        for command in _commands(out, listed, bool(buf_files)):
            try:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ContractError(
                        f"{origin}: not compiled within {limits.COMPILE_SECONDS:g} s"
                    )
                run(command, origin, seconds=left, cwd=protos)
                if out.stat().st_size > limits.MAX_DESCRIPTORS_BYTES:
                    bound = limits.size(limits.MAX_DESCRIPTORS_BYTES)
                    raise ContractError(f"{origin}: compiles to more than {bound} of descriptors")
                return parse(out.read_bytes(), origin)
            except ProgramError as error:
                first = first or _explained(error, sources, origin)
        if first:
            raise first
    hint = "pip install buf-bin or grpcio-tools, or put protoc on PATH"
    raise ContractError(f"{origin}: .proto files need a compiler; {hint}")


def _commands(out: Path, names: Path, buf_alone: bool) -> list[list[str]]:
    """One command for each installed compiler, in order of preference."""
    commands: list[list[str]] = []
    if buf := program("buf"):
        config = [] if buf_alone else ["--config", '{"version":"v2","modules":[{"path":"."}]}']
        commands.append([buf, "build", *config, "--error-format", "text", "-o", str(out)])
    options = ["-I.", "--include_imports", "--include_source_info", f"--descriptor_set_out={out}"]
    if not buf_alone:
        if find_spec("grpc_tools"):
            commands.append([sys.executable, "-m", "grpc_tools.protoc", *options, f"@{names}"])
        if protoc := program("protoc"):
            commands.append([protoc, *options, f"@{names}"])
    return commands


def _explained(error: ProgramError, sources: _Sources, origin: str) -> ContractError:
    """The compiler's first error, with the path as the user knows it."""
    problems = [
        match
        for line in error.output.splitlines()
        if (match := _PROBLEM.match(line.strip())) and "warning" not in match["text"].lower()[:10]
    ]
    if not problems:
        return error
    known = [match for match in problems if match["file"] in sources.shown]
    first = (known or problems)[0]
    name = first["file"]
    place = ":".join(
        part for part in (sources.shown.get(name, name), first["line"], first["column"]) if part
    )
    others = len(problems) - 1
    more = f" (and {others} more)" if others else ""
    return BrokenFile(f"{origin}: {place}: {first['text'].strip()}{more}", name)
