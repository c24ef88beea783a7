"""From proto files to descriptors, by whichever compiler is there, in a folder of its own."""

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

# The content of an imported file that is not of the tree, and what people call it.
Find = Callable[[str], tuple[bytes, str] | None]


@dataclass
class Compiled:
    files: FileDescriptorSet
    own: frozenset[str]
    shown: Mapping[str, str]
    skipped: Mapping[str, str]


@dataclass
class _Sources:
    """Files by the name under which they are imported."""

    own: dict[str, bytes] = field(default_factory=dict[str, bytes])
    other: dict[str, bytes] = field(default_factory=dict[str, bytes])
    shown: dict[str, str] = field(default_factory=dict[str, str])


class BrokenFile(ContractError):
    """A file that does not compile, named as it is imported."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


def compile_tree(
    tree: Tree, included: Find, elsewhere: Find, *, keep_going: bool = False
) -> Compiled:
    """The protos of a tree; imports that are not of it come from one of the two finders.

    With keep_going broken files, and those that import them, are left out.
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
        raise ContractError(f"{tree.origin}: no .proto files in it")
    skipped: dict[str, str] = {}
    deadline = time.monotonic() + limits.COMPILE_SECONDS
    while True:
        try:
            _close(sources, find, tree.origin, names.dependencies)
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
    """Drop a broken file and those that import it."""
    skipped[error.name] = str(error)
    todo = [error.name]
    while todo:
        gone = todo.pop()
        sources.own.pop(gone, None)
        for name, data in [*sources.own.items()]:
            if any(imported == gone for imported, _ in imports(data)):
                skipped[name] = f"{sources.shown[name]}: imports {gone}, which is left out"
                sources.own.pop(name)
                todo.append(name)


def _close(sources: _Sources, find: Find, origin: str, dependencies: Collection[str]) -> None:
    """Take in what the files import from outside of the tree."""
    todo = [*sources.own.items()]
    while todo:
        name, data = todo.pop()
        for imported, line in imports(data):
            if imported in sources.own or imported in sources.other:
                continue
            if found := find(imported):
                check_name(imported, origin)
                sources.other[imported], sources.shown[imported] = found
                if len(sources.other) > limits.MAX_PROTO_FILES:
                    raise ContractError(
                        f"{origin}: imports more than {limits.MAX_PROTO_FILES} files"
                    )
                todo.append((imported, found[0]))
            elif not imported.startswith(_WITH_COMPILERS) and not (dependencies and program("buf")):
                where = f"{sources.shown[name]}:{line}"
                raise BrokenFile(
                    f"{origin}: {where}: imports {imported}, which is not there; "
                    f"{_advice(imported, dependencies)}",
                    name,
                )


def _advice(imported: str, dependencies: Collection[str]) -> str:
    advice = "name the folder that it lies in with -I DIR"
    if re.match(r"google/(api|rpc|type|logging|longrunning)/", imported):
        advice += ", or -I pypi:googleapis-common-protos==VERSION"
    if dependencies:
        advice += f"; buf.yaml depends on {', '.join(sorted(dependencies)[:5])}"
        advice += ", which buf would fetch: pip install buf-bin"
    return advice


def _lock(tree: Tree, dependencies: Sequence[str]) -> dict[str, bytes]:
    """buf's files for a build that needs modules from elsewhere."""
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
    """What the first compiler makes of them; where it fails, the next one is asked."""
    with tempfile.TemporaryDirectory() as scratch:
        protos, out = Path(scratch, "protos"), Path(scratch, "out.binpb")
        for name, data in (sources.own | sources.other | dict(buf_files)).items():
            target = protos / os.fsdecode(name.encode())
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        # In a file of ours: however many there are, and each a name, not an option.
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
                    raise ContractError(f"{origin}: gives more than {bound} of descriptors")
                return parse(out.read_bytes(), origin)
            except ProgramError as error:
                first = first or _explained(error, sources, origin)
        if first:
            raise first
    hint = "pip install buf-bin or grpcio-tools, or put protoc on PATH"
    raise ContractError(f"{origin}: .proto files need a compiler; {hint}")


def _commands(out: Path, names: Path, buf_alone: bool) -> list[list[str]]:
    """The compilers that are there, in order."""
    found: list[list[str]] = []
    if buf := program("buf"):
        own = [] if buf_alone else ["--config", '{"version":"v2","modules":[{"path":"."}]}']
        found.append([buf, "build", *own, "--error-format", "text", "-o", str(out)])
    options = ["-I.", "--include_imports", "--include_source_info", f"--descriptor_set_out={out}"]
    if not buf_alone:
        if find_spec("grpc_tools"):
            found.append([sys.executable, "-m", "grpc_tools.protoc", *options, f"@{names}"])
        if protoc := program("protoc"):
            found.append([protoc, *options, f"@{names}"])
    return found


def _explained(error: ProgramError, sources: _Sources, origin: str) -> ContractError:
    """The compiler's first complaint, with the place as a person finds it."""
    problems = [
        match
        for line in error.said.splitlines()
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
