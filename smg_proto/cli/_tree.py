"""A folder of files that this command owns: written as a whole, with a manifest of their digests.

A folder is made beside its destination and put in its place by renaming, so that a run that fails
or is killed leaves what was there. Files that somebody else put into the folder stay in it.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smg_proto import __version__, proto_path
from smg_proto.cli import CommandError

MANIFEST = "smg-proto.json"


def licence() -> dict[str, bytes]:
    """The licence, which goes with every copy."""
    return {"LICENSE": (proto_path().parent / "LICENSE").read_bytes()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """What wrote the folder, and what it wrote."""

    command: str  # "export", "generate go"
    version: str  # of this package
    packages: Sequence[str]
    files: Mapping[str, str]  # path to sha256

    def modified(self, folder: Path) -> list[str]:
        """The files that are there, but not as they were written."""
        there = {name: folder / name for name in self.files if (folder / name).exists()}
        return [name for name, path in there.items() if not _is(path, self.files[name])]

    def missing(self, folder: Path) -> list[str]:
        return [name for name in self.files if not (folder / name).exists()]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none."""
    path = folder / MANIFEST
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
        files = {str(name): str(digest) for name, digest in value["files"].items()}
        if outside := [n for n in files if Path(n).is_absolute() or ".." in Path(n).parts]:
            raise CommandError(f"{path}: names a file outside of its folder: {outside[0]!r}")
        return Manifest(value["command"], value["version"], [*map(str, value["packages"])], files)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise CommandError(
            f"{path}: not a manifest of smg-proto; restore it, or remove the folder"
        ) from error
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error


def write(
    destination: Path,
    files: Mapping[str, bytes],
    *,
    command: str,
    packages: Sequence[str],
    force: bool,
) -> bool:
    """Make the folder hold these files; False if it does so already.

    Refuses, unless forced, to replace what it did not write or what was modified since.
    """
    folder = destination.resolve()
    digests = {name: sha256(data) for name, data in sorted(files.items())}
    manifest = Manifest(command, __version__, packages, digests)
    try:
        _recover(folder)
        old = read_manifest(folder)
        _refuse(folder, destination, old, manifest, force)
        if old and old == manifest and not old.modified(folder) and not old.missing(folder):
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder.parent))
        try:
            for path, data in files.items():
                _put(scratch / "new" / path, data)
            shown = json.dumps(asdict(manifest), indent=2)
            _put(scratch / "new" / MANIFEST, f"{shown}\n".encode())
            if folder.exists():
                folder.rename(scratch / "old")
            (scratch / "new").rename(folder)
        finally:
            _settle(folder, scratch)
    except OSError as error:
        where = error.filename or destination
        raise CommandError(f"{where}: {error.strerror or error}") from error
    return True


def _refuse(folder: Path, shown: Path, old: Manifest | None, new: Manifest, force: bool) -> None:
    """Raise CommandError where writing would take something away from somebody."""
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"{shown}: not a directory; choose another destination")
    if folder == Path.cwd() or folder in Path.cwd().parents:
        raise CommandError(f"{shown}: holds the current directory; run this from outside of it")
    if force or not folder.exists() or not any(folder.iterdir()):
        return
    if old is None:
        raise CommandError(
            f"{shown}: not empty, and not written by smg-proto; choose an empty or new directory, "
            "or add to this one with --force"
        )
    if old.command != new.command:
        raise CommandError(
            f"{shown}: written by `smg-proto {old.command}`; choose another directory, "
            "or replace it with --force"
        )
    mine = [name for name in new.files if name not in old.files and (folder / name).exists()]
    if changed := sorted([*old.modified(folder), *mine]):
        raise CommandError(
            f"{shown}: changed by hand: {', '.join(changed)}; move the changes elsewhere, "
            "or overwrite them with --force"
        )


def _recover(folder: Path) -> None:
    """Clear away what a killed run left beside the folder."""
    if folder.parent.is_dir():
        for scratch in folder.parent.glob(f"{_prefix(folder)}*"):
            _settle(folder, scratch)


def _settle(folder: Path, scratch: Path) -> None:
    """End a run: bring back the old folder where no new one is, else what others had put there."""
    old = scratch / "old"
    if old.exists() and not folder.exists():
        old.rename(folder)
    elif old.exists():
        manifest = read_manifest(old)
        for name in [*(manifest.files if manifest else ()), MANIFEST]:
            (old / name).unlink(missing_ok=True)
        _move_in(old, folder)
    shutil.rmtree(scratch)


def _move_in(source: Path, target: Path) -> None:
    """Move the files below source to their places in target, but for those taken already."""
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and place.is_dir():
            _move_in(entry, place)
        elif not place.exists() and _has_files(entry):
            entry.rename(place)


def _prefix(folder: Path) -> str:
    return f".{folder.name}.smg-proto-"


def _has_files(entry: Path) -> bool:
    """Whether this is more than folders that became empty."""
    return entry.is_symlink() or not entry.is_dir() or any(map(_has_files, entry.iterdir()))


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path.read_bytes()) == digest


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def read_tree(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder: its path in it, its bytes."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()
