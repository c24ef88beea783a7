"""Reads proto files and buf's configuration from a folder, an archive or a git revision.

Everything stays in memory. No link is followed out of the tree, and every name is checked.
"""

import fnmatch
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from smg_proto.compat import _limits as limits
from smg_proto.compat._files import ContractError, read_file
from smg_proto.compat._limits import size
from smg_proto.compat._programs import ProgramError, program, run

CONFIGURATIONS = ("buf.yaml", "buf.work.yaml", "buf.lock")
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BAD_LINK = "the link does not lead to a file of the tree; exclude it"


@dataclass
class Tree:
    """Files by their path below the top. `shown` is the prefix of paths in messages."""

    origin: str
    shown: str = ""
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    _bytes: int = 0

    @property
    def protos(self) -> list[str]:
        return sorted(path for path in self.files if path.endswith(".proto"))

    def add(self, path: str, data: bytes) -> None:
        """Add a file after checking its name and size."""
        check_name(path, self.origin)
        if len(data) > limits.MAX_PROTO_BYTES:
            raise ContractError(
                f"{self.origin}: {path} is larger than {size(limits.MAX_PROTO_BYTES)}"
            )
        self._bytes += len(data)
        if self._bytes > limits.MAX_PROTOS_BYTES:
            raise ContractError(
                f"{self.origin}: more than {size(limits.MAX_PROTOS_BYTES)} of protos; exclude some"
            )
        if len(self.files) >= limits.MAX_PROTO_FILES:
            raise ContractError(
                f"{self.origin}: more than {limits.MAX_PROTO_FILES} proto files; exclude some"
            )
        self.files[path] = data

    def below(self, folder: str) -> "Tree":
        """The part of the tree in a folder."""
        prefix = f"{folder.strip('/')}/" if folder.strip("/.") else ""
        part = Tree(self.origin, self.shown + prefix)
        part.files = {
            path[len(prefix) :]: data
            for path, data in self.files.items()
            if path.startswith(prefix)
        }
        return part


def check_name(path: str, origin: str) -> None:
    """Reject a name that a compiler could misread or that leaves the tree."""
    parts = PurePosixPath(path).parts
    problem = ""
    if path.startswith(("-", "@")):
        problem = "a compiler would take it for an option"
    elif path.startswith("/") or ".." in parts or "\\" in path or ":" in path.split("/")[0]:
        problem = "it leads out of the tree"
    elif not path.isprintable():
        problem = "it has control characters"
    if problem:
        raise ContractError(
            f"{origin}: invalid file name {path!r}: {problem}; rename or exclude it"
        )


def is_relevant(path: str, exclude: Collection[str] = ()) -> bool:
    """Whether the file is a proto or buf's configuration, and in no hidden folder."""
    name = path.rpartition("/")[2]
    if not (name.endswith(".proto") or name in CONFIGURATIONS):
        return False
    if any(part.startswith(".") and part != ".." for part in path.split("/")[:-1]):
        return False
    return not excluded(path, exclude)


def excluded(path: str, patterns: Collection[str]) -> bool:
    """Whether the path, or a folder above it, matches one of these patterns."""
    steps = [path, *map(str, PurePosixPath(path).parents)][:-1]
    return any(
        fnmatch.fnmatchcase(step, pattern.rstrip("/")) for pattern in patterns for step in steps
    )


# --- folders -------------------------------------------------------------------------------------


def from_folder(folder: Path, origin: str, exclude: Collection[str] = ()) -> Tree:
    shown = os.path.normpath(folder)
    tree = Tree(origin, "" if shown == "." else f"{shown}/")
    for path, place in _walk(folder, origin):
        if not is_relevant(path, exclude):
            continue
        mode = place.lstat().st_mode
        if stat.S_ISLNK(mode):
            target = place.resolve()
            if not target.is_relative_to(folder.resolve()) or not target.is_file():
                raise ContractError(f"{origin}: {path}: {_BAD_LINK}")
        elif not stat.S_ISREG(mode):
            raise ContractError(f"{origin}: {path}: not a regular file; exclude it")
        tree.add(path, read_file(place, limits.MAX_PROTO_BYTES, f"{origin}: {path}"))
    return tree


def _walk(folder: Path, origin: str) -> Iterator[tuple[str, Path]]:
    """Every file below the folder, in order. Links to folders are not followed."""
    seen = 0
    todo: list[tuple[str, int]] = [("", 0)]
    while todo:
        inside, depth = todo.pop()
        try:
            with os.scandir(folder / inside) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            where = f"{folder / inside}"
            raise ContractError(f"{origin}: {where}: {error.strerror or error}") from error
        seen += len(listed)
        if seen > limits.MAX_FOLDER_ENTRIES:
            raise ContractError(
                f"{origin}: more than {limits.MAX_FOLDER_ENTRIES} entries; give a subfolder"
            )
        for entry in listed:
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                if depth >= limits.MAX_FOLDER_DEPTH:
                    raise ContractError(
                        f"{origin}: folders nested more than {limits.MAX_FOLDER_DEPTH} deep: {path}"
                    )
                if not entry.name.startswith("."):
                    todo.append((path, depth + 1))
            else:
                # Names are UTF-8 in any locale, as in git and in archives.
                yield os.fsencode(path).decode(errors="surrogateescape"), folder / path


# --- archives ------------------------------------------------------------------------------------


def zip_members(archive: zipfile.ZipFile, origin: str) -> dict[str, zipfile.ZipInfo]:
    """The files of a ZIP by name."""
    listed = archive.infolist()
    if len(listed) > limits.MAX_ARCHIVE_MEMBERS:
        raise ContractError(f"{origin}: more than {limits.MAX_ARCHIVE_MEMBERS} members")
    members: dict[str, zipfile.ZipInfo] = {}
    for member in listed:
        if member.is_dir():
            continue
        if member.filename in members:
            raise ContractError(f"{origin}: two members are named {member.filename!r}")
        members[member.filename] = member
    return members


def read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int, origin: str
) -> bytes:
    """One member of a ZIP, up to a limit that holds whatever size the ZIP states."""
    origin = f"{origin}: {member.filename}"
    if member.flag_bits & 1:
        raise ContractError(f"{origin} is encrypted")
    if member.compress_type not in _READABLE:  # other methods unpack without a limit
        raise ContractError(f"{origin} is neither stored nor deflated")
    try:
        with archive.open(member) as file:
            data = file.read(limit + 1)
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        reason = str(error) or "it ends early"
        raise ContractError(f"{origin} cannot be unpacked: {reason}") from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ContractError(f"{origin} is damaged: {error}") from error
    if len(data) > limit:
        raise ContractError(f"{origin} is larger than {size(limit)}")
    return data


def from_zip(archive: zipfile.ZipFile, origin: str, exclude: Collection[str] = ()) -> Tree:
    tree = Tree(origin, f"{origin}: ")
    for name, member in sorted(zip_members(archive, origin).items()):
        if is_relevant(name, exclude):
            tree.add(name, read_member(archive, member, limits.MAX_PROTO_BYTES, origin))
    return tree


def from_tar(stream: IO[bytes], origin: str, exclude: Collection[str] = ()) -> Tree:
    """Read a gzipped tar whose members are all in one folder, as in crates and npm packages."""
    tree = Tree(origin, f"{origin}: ")
    bounded: Any = _Bounded(stream, origin)  # tarfile only needs `read`
    try:
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for count, member in enumerate(archive):
                if count >= limits.MAX_ARCHIVE_MEMBERS:
                    raise ContractError(f"{origin}: more than {limits.MAX_ARCHIVE_MEMBERS} members")
                path = member.name.removeprefix("./").partition("/")[2]
                if not path or not is_relevant(path, exclude) or not member.isfile():
                    continue
                if content := archive.extractfile(member):
                    tree.add(path, content.read(limits.MAX_PROTO_BYTES + 1))
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise ContractError(f"{origin}: not a readable archive: {error}") from error
    return tree


class _Bounded:
    """A stream that raises ContractError beyond the maximum size of an archive."""

    def __init__(self, stream: IO[bytes], origin: str) -> None:
        self._stream, self._origin, self._left = stream, origin, limits.MAX_UNPACKED_BYTES

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(min(count, self._left + 1) if count >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise ContractError(
                f"{self._origin}: unpacks to more than {size(limits.MAX_UNPACKED_BYTES)}"
            )
        return data


# --- git -----------------------------------------------------------------------------------------

# git runs nothing that the repository configures, and fetches nothing.
_QUIET = {
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "LC_ALL": "C",
}


def from_git(
    revision: str, origin: str, extra: Collection[str] = (), exclude: Collection[str] = ()
) -> Tree:
    """Read a revision of the repository of the current folder. extra: other files to read."""
    if not revision or revision.startswith("-"):
        raise ContractError(f"{origin}: no revision; use git:REVISION or git:REVISION:FOLDER")
    top = _git(origin, "rev-parse", "--show-toplevel").decode(errors="replace").strip()
    within = ("-C", top)
    try:
        named = _git(
            origin, *within, "rev-parse", "--verify", "--quiet", "--end-of-options",
            f"{revision}^{{commit}}",
        )  # fmt: skip
    except ProgramError:
        raise ContractError(f"{origin}: no such revision in {top}") from None
    commit = named.decode().strip().splitlines()[-1]
    listed = _git(origin, *within, "ls-tree", "-r", "-z", "--full-tree", commit)
    blobs: dict[str, tuple[str, str]] = {}
    for line in listed.split(b"\0"):
        info, tab, name = line.partition(b"\t")
        mode, _, blob = info.decode().partition(" ")
        if tab and blob.startswith("blob "):
            blobs[name.decode(errors="surrogateescape")] = mode, blob[5:]
    tree = Tree(origin)
    chosen = [path for path in sorted(blobs) if path in extra or is_relevant(path, exclude)]
    if len(chosen) > limits.MAX_PROTO_FILES:
        raise ContractError(
            f"{origin}: more than {limits.MAX_PROTO_FILES} proto files; exclude some"
        )
    for path, data in _blobs(origin, within, {path: blobs[path][1] for path in chosen}).items():
        if blobs[path][0] == "120000":
            target = os.path.normpath(
                f"{PurePosixPath(path).parent}/{data.decode(errors='replace')}"
            )
            if target not in blobs or blobs[target][0] == "120000":
                raise ContractError(f"{origin}: {path}: {_BAD_LINK}")
            data = next(iter(_blobs(origin, within, {path: blobs[target][1]}).values()))
        if path in extra:
            tree.files[path] = data
        else:
            tree.add(path, data)
    return tree


def _git(
    origin: str, *words: str, stdin: bytes = b"", limit: int = limits.MAX_LISTING_BYTES
) -> bytes:
    git = program("git")
    if not git:
        raise ContractError(f"{origin}: git is not installed; give a directory or a wheel instead")
    command = [git, "-c", "core.fsmonitor=false", *words]
    return run(
        command, origin, seconds=limits.GIT_SECONDS, stdin=stdin, environment=_QUIET, limit=limit
    )


def _blobs(origin: str, within: Collection[str], ids: dict[str, str]) -> dict[str, bytes]:
    """The contents of blobs as stored, without any filter that the repository configures."""
    request = "".join(f"{blob}\n" for blob in ids.values()).encode()
    sizes = _git(origin, *within, "cat-file", "--batch-check=%(objectsize)", stdin=request)
    total = 0
    for path, line in zip(ids, sizes.decode().splitlines(), strict=False):
        if not line.isdigit():
            raise ContractError(f"{origin}: {path} is not in this copy of the repository")
        total += int(line)
    bound = limits.MAX_PROTOS_BYTES + limits.MAX_DESCRIPTORS_BYTES
    if total > bound:
        raise ContractError(f"{origin}: more than {size(bound)} of protos; exclude some")
    output = _git(
        origin, *within, "cat-file", "--batch=%(objectsize)", stdin=request, limit=bound + 2**24
    )
    contents: dict[str, bytes] = {}
    position = 0
    for path in ids:
        end = output.index(b"\n", position)
        length = int(output[position:end])
        contents[path] = output[end + 1 : end + 1 + length]
        position = end + 2 + length
    return contents
