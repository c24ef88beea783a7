"""smg-proto generate --lang python: a team's own protos, which import the contracts.

The contracts themselves are not generated again: the code of the team imports `smg_proto`, so that
there is one class of each message in a process, and no package of the name `smg` or `vllm`.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import smg_proto
from smg_proto import __version__, descriptor_set, proto_path
from smg_proto.cli import CommandError
from smg_proto.cli._environments import Tools, tools
from smg_proto.cli._stubs import STUB_OPTIONS, moved, plain_module, stub
from smg_proto.cli._tree import MANIFEST, read_manifest, read_tree
from smg_proto.compat import ContractError
from smg_proto.compat._limits import COMPILE_SECONDS
from smg_proto.compat._programs import ProgramError
from smg_proto.compat._programs import run as run_program


def generated(folder: Path, include: Sequence[Path]) -> dict[str, bytes]:
    """The modules of all protos below a folder, with their stubs; imports may lie in others."""
    for place in (folder, *include):
        if not place.is_dir():
            raise CommandError(f"{place}: not a folder of .proto files")
    ours = {str(file.name): file for file in descriptor_set().file}
    exports = [path.parent for path in sorted(folder.rglob(MANIFEST)) if read_manifest(path.parent)]
    found = sorted(folder.rglob("*.proto"))
    own = [p for p in found if not any(export in p.parents for export in exports)]
    wanted = [path for path in own if path.relative_to(folder).as_posix() not in ours]
    if not wanted:
        raise CommandError(f"{folder}: no .proto files of your own in it")
    _refuse_doubles(wanted, ours)
    roots = [folder, *include, *(export for export in exports if export != folder)]
    with tempfile.TemporaryDirectory() as scratch:
        compiler = _Compiler(tools(), Path(scratch).resolve())
        for root in roots:
            compiler.refuse_skew(root, ours)
        out = compiler.python([folder, *include], wanted)
        return {name: _at_home(name, data.decode()).encode() for name, data in read_tree(out)}


class _Compiler:
    def __init__(self, programs: Tools, scratch: Path) -> None:
        self._programs, self._scratch = programs, scratch

    def _run(self, roots: Sequence[Path], files: Iterable[Path], *options: str) -> None:
        """protoc, which takes the first of the roots that has a file."""
        places = [f"-I{root.resolve()}" for root in (*roots, proto_path())]
        paths = [str(path.resolve()) for path in files]
        command = [str(self._programs.python), "-m", "grpc_tools.protoc", *places, *options, *paths]
        try:
            # In a folder without modules: `python -m` looks for them in the current one first.
            run_program(command, "python", seconds=COMPILE_SECONDS, cwd=self._scratch)
        except ProgramError as error:
            raise CommandError(f"Python cannot be generated: {error.said}") from error
        except ContractError as error:
            raise CommandError(f"Python cannot be generated: {error}") from error

    def compiled(self, roots: Sequence[Path], files: Iterable[Path]) -> FileDescriptorSet:
        image = self._scratch / "image.binpb"
        self._run(roots, files, f"--descriptor_set_out={image}", "--include_imports")
        return FileDescriptorSet.FromString(image.read_bytes())

    def python(self, roots: Sequence[Path], files: Iterable[Path]) -> Path:
        out = self._scratch / "out"
        out.mkdir()
        options = [f"--python_out={out}", f"--grpc_python_out={out}"]
        for name, parameter in STUB_OPTIONS.items():
            plugin = self._programs.folder / f"protoc-gen-{name}"
            options += [f"--plugin=protoc-gen-{name}={plugin}", f"--{name}_out={parameter}:{out}"]
        self._run(roots, files, *options)
        return out

    def refuse_skew(self, root: Path, ours: Mapping[str, FileDescriptorProto]) -> None:
        """Raise CommandError for a copy of our protos that is of another release.

        Code made from it could not be imported beside smg_proto: the files have the same names.
        """
        copies = [name for name in sorted(ours) if (root / name).is_file()]
        changed = [
            name
            for name in copies
            if not name.startswith("google/")
            and (root / name).read_bytes() != (proto_path() / name).read_bytes()
        ]
        if not changed:
            return
        there = {f.name: f for f in self.compiled([root], [root / name for name in changed]).file}
        for name in changed:
            if _plain(there[name]) != _plain(ours[name]):
                raise CommandError(
                    f"{root / name}: not as in smg-proto {__version__}{_release(root)}; update "
                    f"the copy with `smg-proto export`, remove it, or install its release"
                )


def _release(root: Path) -> str:
    manifest = read_manifest(root)
    return f", but as in {manifest.version}" if manifest else ""


def _plain(file: FileDescriptorProto) -> FileDescriptorProto:
    """Without comments."""
    plain = FileDescriptorProto()
    plain.CopyFrom(file)
    plain.ClearField("source_code_info")
    return plain


def _refuse_doubles(files: Iterable[Path], ours: Mapping[str, FileDescriptorProto]) -> None:
    """Raise CommandError for a file of our packages under another name, a copy in most cases."""
    packages = {str(file.package): name for name, file in ours.items()}
    for path in files:
        declared = _PACKAGE.search(path.read_bytes())
        package = re.sub(r"\s", "", declared[1].decode()) if declared else ""
        if package in packages:
            folder = packages[package].rpartition("/")[0]
            raise CommandError(
                f"{path}: is of the package {package}, which smg_proto has; "
                f'remove the copy, and import "{folder}/{path.name}"'
            )


_PACKAGE = re.compile(rb"^\s*package\s+([\w.\s]+?)\s*;", re.MULTILINE)


# --- imports -------------------------------------------------------------------------------------


@cache
def modules() -> Mapping[str, str]:
    """The modules that protoc would import for our files: smg.v1.chat_pb2; and what there is."""
    ours = {str(file.name) for file in descriptor_set().file}
    found: dict[str, str] = {}
    for module in _generated_modules(smg_proto.__name__, list(smg_proto.__path__)):
        name = str(import_module(module).DESCRIPTOR.name)
        if name in ours:
            found[plain_module(name)] = module
    return found


def _generated_modules(package: str, folders: list[str]) -> Iterator[str]:
    for info in iter_modules(folders, f"{package}."):
        if info.name.endswith("_pb2"):
            yield info.name
        elif info.ispkg and info.name in ("smg_proto.v1", "smg_proto.openengine"):
            yield from _generated_modules(info.name, list(import_module(info.name).__path__))


def _at_home(name: str, text: str) -> str:
    return stub(text, modules()) if name.endswith(".pyi") else moved(text, modules())
