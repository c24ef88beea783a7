"""smg-proto generate --lang python: generate code for the user's own protos.

The contracts that they import are not generated again: the code imports `smg_proto`, so that a
process has one class of each message, and no package named `smg` or `vllm`.
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
    """The modules of all protos below a folder, with stubs. `include`: folders of imports."""
    for root in (folder, *include):
        if not root.is_dir():
            raise CommandError(f"{root}: not a folder of .proto files")
    ours = {str(file.name): file for file in descriptor_set().file}
    exports = [path.parent for path in sorted(folder.rglob(MANIFEST)) if read_manifest(path.parent)]
    protos = sorted(folder.rglob("*.proto"))
    theirs = [p for p in protos if not any(export in p.parents for export in exports)]
    wanted = [path for path in theirs if path.relative_to(folder).as_posix() not in ours]
    if not wanted:
        raise CommandError(f"{folder}: no .proto files of your own")
    _reject_copies(wanted, ours)
    roots = [folder, *include, *(export for export in exports if export != folder)]
    with tempfile.TemporaryDirectory() as scratch:
        compiler = _Compiler(tools(), Path(scratch).resolve())
        for root in roots:
            compiler.reject_skew(root, ours)
        out = compiler.python([folder, *include], wanted)
        return {name: _with_imports(name, data.decode()).encode() for name, data in read_tree(out)}


class _Compiler:
    def __init__(self, programs: Tools, scratch: Path) -> None:
        self._programs, self._scratch = programs, scratch

    def _run(self, roots: Sequence[Path], files: Iterable[Path], *options: str) -> None:
        """Run protoc, which reads a file from the first of the roots that has it."""
        places = [f"-I{root.resolve()}" for root in (*roots, proto_path())]
        paths = [str(path.resolve()) for path in files]
        command = [str(self._programs.python), "-m", "grpc_tools.protoc", *places, *options, *paths]
        try:
            # In a folder without modules, because `python -m` imports them from there first.
            run_program(command, "python", seconds=COMPILE_SECONDS, cwd=self._scratch)
        except ProgramError as error:
            raise CommandError(f"could not generate Python: {error.output}") from error
        except ContractError as error:
            raise CommandError(f"could not generate Python: {error}") from error

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

    def reject_skew(self, root: Path, ours: Mapping[str, FileDescriptorProto]) -> None:
        """Raise CommandError for a copy of this package's protos from another release.

        Code generated from it could not be imported together with smg_proto: the file names clash.
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
        theirs = {f.name: f for f in self.compiled([root], [root / name for name in changed]).file}
        for name in changed:
            if _plain(theirs[name]) != _plain(ours[name]):
                raise CommandError(
                    f"{root / name}: differs from smg-proto {__version__}{_release(root)}; update "
                    f"the copy with `smg-proto export`, remove it, or install its release"
                )


def _release(root: Path) -> str:
    manifest = read_manifest(root)
    return f" (exported from {manifest.version})" if manifest else ""


def _plain(file: FileDescriptorProto) -> FileDescriptorProto:
    """A file without comments."""
    plain = FileDescriptorProto()
    plain.CopyFrom(file)
    plain.ClearField("source_code_info")
    return plain


def _reject_copies(files: Iterable[Path], ours: Mapping[str, FileDescriptorProto]) -> None:
    """Raise CommandError for a file of this package's packages, which is usually a copy."""
    packages = {str(file.package): name for name, file in ours.items()}
    for path in files:
        declared = _PACKAGE.search(path.read_bytes())
        package = re.sub(r"\s", "", declared[1].decode()) if declared else ""
        if package in packages:
            folder = packages[package].rpartition("/")[0]
            raise CommandError(
                f"{path}: declares package {package}, which belongs to smg_proto; "
                f'remove the file and import "{folder}/{path.name}"'
            )


_PACKAGE = re.compile(rb"^\s*package\s+([\w.\s]+?)\s*;", re.MULTILINE)


# --- imports -------------------------------------------------------------------------------------


@cache
def modules() -> Mapping[str, str]:
    """Maps the modules that protoc imports, such as smg.v1.chat_pb2, to those of smg_proto."""
    ours = {str(file.name) for file in descriptor_set().file}
    by_plain_name: dict[str, str] = {}
    for module in _generated_modules(smg_proto.__name__, list(smg_proto.__path__)):
        name = str(import_module(module).DESCRIPTOR.name)
        if name in ours:
            by_plain_name[plain_module(name)] = module
    return by_plain_name


def _generated_modules(package: str, folders: list[str]) -> Iterator[str]:
    for info in iter_modules(folders, f"{package}."):
        if info.name.endswith("_pb2"):
            yield info.name
        elif info.ispkg and info.name in ("smg_proto.v1", "smg_proto.openengine"):
            yield from _generated_modules(info.name, list(import_module(info.name).__path__))


def _with_imports(name: str, text: str) -> str:
    return stub(text, modules()) if name.endswith(".pyi") else moved(text, modules())
