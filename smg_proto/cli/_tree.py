"""Writes a folder that a command owns, with a manifest of the files' digests.

The new folder is created beside the destination and swapped with the old one, so that a run that
fails or is killed leaves either the old or the new folder. Files of others in the folder are kept.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from smg_proto import __version__, proto_path
from smg_proto.cli import CommandError
from smg_proto.cli._swap import exchange, is_own_folder, locked
from smg_proto.compat import ContractError
from smg_proto.compat._files import read_file

MANIFEST = "smg-proto.json"
_MAX_MANIFEST_BYTES = 16 * 2**20


def licence() -> dict[str, bytes]:
    """The licence, which is part of every copy."""
    return {"LICENSE": (proto_path().parent / "LICENSE").read_bytes()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The command that wrote a folder, and the files that it wrote."""

    command: str  # "export", "generate go"
    version: str  # of this package
    packages: Sequence[str]
    files: Mapping[str, str]  # path to sha256

    def modified(self, folder: Path) -> list[str]:
        """The files that exist but have changed. A link in the path counts as a change."""
        present = {name: folder / name for name in self.files if os.path.lexists(folder / name)}
        return [
            name
            for name, path in present.items()
            if _behind_link(folder, name) or not _has_digest(path, self.files[name])
        ]

    def missing(self, folder: Path) -> list[str]:
        return [name for name in self.files if not os.path.lexists(folder / name)]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if there is none."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    try:
        value: dict[str, Any] = json.loads(read_file(path, _MAX_MANIFEST_BYTES, str(path)))
        files = {str(name): str(digest) for name, digest in value["files"].items()}
        if outside := [name for name in files if not _inside(name)]:
            raise CommandError(f"{path}: invalid manifest: {outside[0]!r} is outside the folder")
        return Manifest(value["command"], value["version"], [*map(str, value["packages"])], files)
    except ContractError as error:
        raise CommandError(str(error)) from error
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise CommandError(f"{path}: invalid manifest; restore it, or remove the folder") from error


def write(
    destination: Path,
    files: Mapping[str, bytes],
    *,
    command: str,
    packages: Sequence[str],
    force: bool,
) -> bool:
    """Write these files to the folder; False if it already holds them.

    CommandError if this would replace files of others or modified ones, unless forced.
    """
    if destination.is_symlink():
        where = destination.resolve()
        raise CommandError(f"{destination}: a link to {where}; give that folder itself")
    folder = destination.resolve()
    digests = {name: sha256(data) for name, data in sorted(files.items())}
    manifest = Manifest(command, __version__, packages, digests)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent):
            _clean_up(folder)
            old = read_manifest(folder)
            _check_replaceable(folder, destination, old, manifest, force)
            if old and old == manifest and not old.modified(folder) and not old.missing(folder):
                return False
            _replace(folder, old, manifest, files)
    except OSError as error:
        where = error.filename or destination
        raise CommandError(f"{where}: {error.strerror or error}") from error
    return True


def _replace(
    folder: Path, old: Manifest | None, manifest: Manifest, files: Mapping[str, bytes]
) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder.parent))
    new = scratch / "new"
    try:
        for path, data in files.items():
            put(new / path, data)
        shown = json.dumps(asdict(manifest), indent=2)
        put(new / MANIFEST, f"{shown}\n".encode())
        if not folder.exists():
            new.rename(folder)
            return
        _keep_others(folder, new, {MANIFEST, *(old.files if old else ())})
        shutil.copymode(folder, new)
        if not exchange(new, folder):
            # Two steps: if this is killed between them, the next run restores the old folder.
            folder.rename(scratch / "old")
            new.rename(folder)
    finally:
        _restore(folder, scratch)
        shutil.rmtree(scratch, ignore_errors=True)


def _keep_others(source: Path, target: Path, ours: set[str], below: str = "") -> None:
    """Link or copy the files of others into the new folder, unless a new file has the same name."""
    for entry in sorted(os.scandir(source / below), key=lambda entry: entry.name):
        path = f"{below}/{entry.name}" if below else entry.name
        place = target / path
        if entry.is_dir(follow_symlinks=False):
            if place.is_dir() or not os.path.lexists(place):
                _keep_others(source, target, ours, path)
        elif path not in ours and not os.path.lexists(place):
            with suppress(FileExistsError, NotADirectoryError):
                place.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(entry.path, place, follow_symlinks=False)
                except (OSError, NotImplementedError):  # no hard links on this file system
                    shutil.copy2(entry.path, place, follow_symlinks=False)


def _check_replaceable(
    folder: Path, shown: Path, old: Manifest | None, new: Manifest, force: bool
) -> None:
    """Raise CommandError if writing would overwrite files of others."""
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"{shown}: not a directory; choose another destination")
    if folder == Path.cwd() or folder in Path.cwd().parents:
        raise CommandError(f"{shown}: contains the current directory; run this from outside of it")
    if force or not folder.exists() or not any(folder.iterdir()):
        return
    if old is None:
        raise CommandError(
            f"{shown}: not empty and not written by smg-proto; choose an empty or new directory, "
            "or add to this one with --force"
        )
    if old.command != new.command:
        raise CommandError(
            f"{shown}: written by `smg-proto {old.command}`; choose another directory, "
            "or replace it with --force"
        )
    added = [n for n in new.files if n not in old.files and os.path.lexists(folder / n)]
    if changed := sorted([*old.modified(folder), *added]):
        raise CommandError(
            f"{shown}: changed by hand: {', '.join(changed)}; move the changes elsewhere, "
            "or overwrite them with --force"
        )


# --- after a run that was killed -----------------------------------------------------------------


def _clean_up(folder: Path) -> None:
    """Remove what a killed run left beside the folder, and nothing of others."""
    with os.scandir(folder.parent) as entries:
        leftovers = [Path(entry) for entry in entries if entry.name.startswith(_prefix(folder))]
    for scratch in leftovers:
        if is_own_folder(scratch):
            _restore(folder, scratch)
            shutil.rmtree(scratch, ignore_errors=True)


def _restore(folder: Path, scratch: Path) -> None:
    """Restore the old folder if there is no new one."""
    old = scratch / "old"
    if is_own_folder(old) and not os.path.lexists(folder):
        old.rename(folder)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.smg-proto-"


# --- files ---------------------------------------------------------------------------------------


def _inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts and "\0" not in name


def _behind_link(folder: Path, name: str) -> bool:
    parents = [folder / parent for parent in PurePosixPath(name).parents if parent.parts]
    return any(parent.is_symlink() for parent in parents)


def _has_digest(path: Path, digest: str) -> bool:
    if not path.is_file():
        return False
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            sha.update(chunk)
    return sha.hexdigest() == digest


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def read_tree(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder, as its path in the folder and its bytes."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()
