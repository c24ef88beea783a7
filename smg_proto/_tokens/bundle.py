"""Tokenizer files of servers: checked against their hash, unpacked within limits, and cached on
disk by their hash."""

import hashlib
import io
import os
import sys
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final, Generic, TypeVar

# The largest tokenizers have about 60 MB unpacked.
MAX_PACKED_BYTES: Final = 128 << 20
MAX_UNPACKED_BYTES: Final = 512 << 20
MAX_FILES: Final = 1000
B = TypeVar("B", bound="Bundle")
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others unpack without a limit


class _Damage(Exception):
    """A bundle cannot be used."""


@dataclass(frozen=True)
class Bundle:
    """A ZIP archive with tokenizer.json and other files."""

    data: bytes = field(repr=False)
    sha256: str

    @cached_property
    def files(self) -> dict[str, bytes]:
        """The files by name."""
        try:
            with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
                return _unpack(archive)
        except _Damage as error:
            raise self.damaged(str(error)) from None
        except Exception as error:  # zipfile does not document its exceptions
            raise self.damaged(f"is not a readable ZIP archive: {type(error).__name__}") from None

    @classmethod
    def damaged(cls, problem: str) -> Exception:
        """The error for a damaged bundle."""
        raise NotImplementedError

    def extract(self, directory: str | Path) -> Path:
        """Write the files to a directory, which is created if necessary."""
        root = Path(directory)
        for name, content in self.files.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return root


def _unpack(archive: zipfile.ZipFile) -> dict[str, bytes]:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > MAX_FILES:
        raise _Damage(f"has more than {MAX_FILES} files")
    left, files = MAX_UNPACKED_BYTES, dict[str, bytes]()
    for entry in entries:
        name = _safe(entry.filename)
        if entry.compress_type not in _METHODS or entry.flag_bits & 1:
            raise _Damage("is encrypted, or compressed with another method than deflate")
        with archive.open(entry) as file:
            content = file.read(left + 1)
        left -= len(content)
        if left < 0:
            raise _Damage(f"unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
        files[name] = content
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    if folders & files.keys():
        raise _Damage("has a file and a folder with the same name")
    return files


class BundleBuilder(Generic[B]):
    """Builds a bundle from its chunks."""

    def __init__(self, kind: type[B]) -> None:
        self._kind = kind
        self._hash = hashlib.sha256()
        self._parts: list[bytes] = []
        self._size = 0
        self._announced = ""

    def add(self, chunk: Any) -> None:
        self._size += len(chunk.data)
        if self._size > MAX_PACKED_BYTES:
            raise self._kind.damaged(f"has more than {MAX_PACKED_BYTES >> 20} MiB")
        self._hash.update(chunk.data)
        self._parts.append(chunk.data)
        self._announced = chunk.sha256 or self._announced

    def build(self) -> B:
        if not self._announced:
            raise self._kind.damaged("is incomplete: it ended without its hash")
        actual = self._hash.hexdigest()
        if actual != self._announced.lower():
            raise self._kind.damaged(f"has the hash {actual}, but the server announced another")
        return self._kind(b"".join(self._parts), actual)


def _safe(name: str) -> str:
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name
    if outside or not path.name or not name.isprintable():
        raise _Damage("has a file with an invalid name, or with a path that leads outside")
    if len(name) > 500 or any(len(part.encode()) > 255 for part in path.parts):
        raise _Damage("has a file with a name that is too long")
    return str(path)


# The cache: a folder for each hash, with the bundle and what was derived from it.


def cache_folder(sha256: str) -> Path | None:
    """The cache folder of a bundle, in VLLM_GRPC_CACHE or the system's folder for caches. None if
    VLLM_GRPC_CACHE=off."""
    given = os.environ.get("VLLM_GRPC_CACHE")
    if given and given.lower() == "off":
        return None
    if given:
        root = Path(given)
    elif sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (root if given else root / "smg-proto") / "tokenizers" / sha256


def keep(folder: Path | None, name: str, content: bytes) -> None:
    """Write a file of the cache, completely or not at all. Ignores a cache that is not writable."""
    if folder is None or (folder / name).exists():
        return
    with suppress(OSError, RuntimeError):  # RuntimeError without a home directory
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, fresh = tempfile.mkstemp(prefix=f".{name}-", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(fresh).replace(folder / name)
        finally:
            Path(fresh).unlink(missing_ok=True)


def kept(folder: Path | None, name: str) -> bytes | None:
    """The content of a file of the cache, or None."""
    if folder is not None:
        with suppress(OSError):
            return (folder / name).read_bytes()
    return None
