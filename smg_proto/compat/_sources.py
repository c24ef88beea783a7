"""Reads contracts from folders, archives, released packages and git revisions."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from smg_proto.compat import _download
from smg_proto.compat import _limits as limits
from smg_proto.compat._compile import Find, advice, compile_tree
from smg_proto.compat._contract import Contract
from smg_proto.compat._files import ContractError, parse, read_file
from smg_proto.compat._modules import FindDescriptor, complete, from_modules
from smg_proto.compat._tree import (
    Tree,
    excluded,
    from_folder,
    from_git,
    from_tar,
    from_zip,
    read_member,
    zip_members,
)

_DESCRIPTORS = "smg_proto/descriptors.binpb"  # in this project's wheels and revisions


class Sources:
    """One source, with the options of load()."""

    def __init__(
        self,
        spec: str,
        include: Sequence[str],
        exclude: Sequence[str],
        foreign: Sequence[str] | None,
        keep_going: bool,
        find: FindDescriptor | None = None,
    ) -> None:
        self.spec, self.include, self.exclude = spec, include, exclude
        self.foreign, self.keep_going = foreign, keep_going
        self.find: FindDescriptor = find or _described(include)  # what generated modules import

    def contract(self) -> Contract:
        match self.spec.partition(":"):
            case "pypi", ":", requirement:
                return self._package(_download.wheel(requirement))
            case "crate", ":", requirement:
                return self._package(_download.crate(requirement))
            case "git", ":", words:
                return self._revision(words)
            case _:
                path = Path(self.spec)
        if path.is_dir():
            return self._compiled(from_folder(path, self.spec, self.exclude))
        return self._package(path)

    def _package(self, path: Path) -> Contract:
        """A wheel: its descriptors, its modules or its protos; a crate: its protos."""
        if path.suffix == ".crate":
            return self._compiled(crate_tree(path, self.spec, self.exclude))
        with _zip(path, self.spec) as wheel:
            members = zip_members(wheel, self.spec)
            if member := members.get(_DESCRIPTORS):
                data = read_member(wheel, member, limits.MAX_DESCRIPTORS_BYTES, self.spec)
                files = parse(data, f"{self.spec}: {_DESCRIPTORS}")
                return Contract(files, self.spec, foreign=self.foreign)
            if generated := from_modules(wheel, self.spec, self.exclude):
                return self.described(generated)
            tree = from_zip(wheel, self.spec, self.exclude)
            if tree.protos:
                return self._compiled(tree)
            if renamed := from_modules(wheel, self.spec, self.exclude, ".py"):
                return self.described(renamed)
        raise ContractError(f"{self.spec}: the wheel has neither protos nor generated modules")

    def described(self, files: Mapping[str, FileDescriptorProto]) -> Contract:
        """From descriptors, which may import those of something included."""
        own = {name: file for name, file in files.items() if not excluded(name, self.exclude)}
        if not own:
            raise ContractError(f"{self.spec}: every file is excluded")

        def find(name: str) -> FileDescriptorProto | None:
            return files.get(name) or self.find(name)

        def missing(file: str, imported: str) -> ContractError:
            why = f"{file} imports {imported}, which is not included"
            return ContractError(f"{self.spec}: {why}; {advice(imported)}")

        whole, skipped = complete(own, find, missing, self.keep_going)
        names = frozenset(own)
        return Contract(whole, self.spec, own=names, foreign=self.foreign, skipped=skipped)

    def _revision(self, words: str) -> Contract:
        revision, _, folder = words.partition(":")
        tree = from_git(revision, self.spec, {_DESCRIPTORS}, self.exclude)
        if _DESCRIPTORS in tree.files and not folder:
            data = tree.files[_DESCRIPTORS]
            files = parse(data, f"{self.spec}: {_DESCRIPTORS}")
            return Contract(files, self.spec, foreign=self.foreign)
        part = tree.below(folder)
        if not part.protos:
            where = f"the folder {folder} of " if folder else ""
            raise ContractError(f"{self.spec}: no .proto files in {where}that revision")
        return self._compiled(part, tree)

    def _compiled(self, tree: Tree, revision: Tree | None = None) -> Contract:
        finders = included(self.include, revision), elsewhere(revision or tree)
        compiled = compile_tree(tree, *finders, keep_going=self.keep_going)
        return Contract(
            compiled.files,
            self.spec,
            own=compiled.own,
            foreign=self.foreign,
            shown=compiled.shown,
            skipped=compiled.skipped,
        )


def included(include: Sequence[str], revision: Tree | None = None) -> Find:
    """Finds imports in the folders and packages to include.

    revision: the git revision that is read, where folders are looked up first.
    """
    packages = {spec: _in_package(spec) for spec in include if _is_package(spec)}

    def find(name: str) -> tuple[bytes, str] | None:
        if not name or ".." in PurePosixPath(name).parts or name.startswith("/"):
            return None
        for spec in include:
            if spec in packages:
                if file := packages[spec](name):
                    return file
                continue
            inside = f"{spec.strip('/')}/{name}"
            if revision and inside in revision.files:
                return revision.files[inside], revision.shown + inside
            path = Path(spec, name)
            if path.is_file():
                return read_file(path, limits.MAX_PROTO_BYTES, str(path)), str(path)
        return None

    return find


def _described(include: Sequence[str]) -> FindDescriptor:
    """Finds descriptors in what to include: each is read once, when something is missing."""
    rest, found = iter(include), dict[str, FileDescriptorProto]()

    def find(name: str) -> FileDescriptorProto | None:
        while name not in found and (spec := next(rest, None)):
            source = Sources(spec, include, (), None, keep_going=True, find=find)
            for file in source.contract().files:
                found.setdefault(file.name, file)
        return found.get(name)

    return find


def elsewhere(tree: Tree) -> Find:
    """Finds imports anywhere in the tree, such as in third_party/ beside proto/."""
    by_name: dict[str, list[str]] = {}
    for path in tree.protos:
        by_name.setdefault(path.rpartition("/")[2], []).append(path)

    def find(name: str) -> tuple[bytes, str] | None:
        same_name = by_name.get(name.rpartition("/")[2], ())
        paths = [path for path in same_name if f"/{path}".endswith(f"/{name}")]
        if len({tree.files[path] for path in paths}) != 1:
            return None
        return tree.files[paths[0]], tree.shown + paths[0]

    return find


def _is_package(spec: str) -> bool:
    return spec.startswith(("pypi:", "crate:", "git:")) or Path(spec).is_file()


def _in_package(spec: str) -> Find:
    """Finds imports among the protos of a package or revision, in any folder."""
    kind, _, words = spec.partition(":")
    if kind == "git":
        revision, _, folder = words.partition(":")
        tree = from_git(revision, spec).below(folder)
    elif kind == "crate" or spec.endswith(".crate"):
        tree = crate_tree(_download.crate(words) if kind == "crate" else Path(spec), spec)
    else:
        with _zip(_download.wheel(words) if kind == "pypi" else Path(spec), spec) as wheel:
            tree = from_zip(wheel, spec)
    return elsewhere(tree)


def crate_tree(path: Path, origin: str, exclude: Sequence[str] = ()) -> Tree:
    try:
        with path.open("rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
            return from_tar(io.BufferedReader(unpacked), origin, exclude)
    except (OSError, EOFError, zlib.error) as error:
        raise ContractError(f"{origin}: not a readable archive: {error}") from error


def _zip(path: Path, origin: str) -> zipfile.ZipFile:
    try:
        if path.stat().st_size > limits.MAX_ARCHIVE_BYTES:
            bound = limits.size(limits.MAX_ARCHIVE_BYTES)
            raise ContractError(f"{origin}: larger than {bound}")
        return zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ContractError(f"{origin}: not a readable wheel: {error}") from error
