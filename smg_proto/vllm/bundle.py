"""The tokenizer files that a server sends, checked against the hash it sends with them."""

import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from smg_proto import common_pb2
from smg_proto.vllm.errors import VLLMGrpcDataLossError

_MAX_UNPACKED = 1 << 30  # the largest tokenizers have some 50 MB


@dataclass(frozen=True)
class TokenizerBundle:
    """A ZIP archive with tokenizer.json and its neighbours."""

    data: bytes = field(repr=False)
    sha256: str

    @cached_property
    def files(self) -> dict[str, bytes]:
        """The files by name."""
        try:
            with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
                entries = [entry for entry in archive.infolist() if not entry.is_dir()]
                if sum(entry.file_size for entry in entries) > _MAX_UNPACKED:
                    raise _damaged("unpacks to more than 1 GiB")
                return {_safe(entry.filename): archive.read(entry) for entry in entries}
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise _damaged(f"is no readable ZIP archive: {error}") from None

    def extract(self, directory: str | Path) -> Path:
        """Write the files below a directory, which is made if need be."""
        root = Path(directory)
        for name, content in self.files.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return root


class BundleBuilder:
    """Puts the chunks together."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._parts: list[bytes] = []
        self._told = ""

    def add(self, chunk: common_pb2.GetTokenizerChunk) -> None:
        self._hash.update(chunk.data)
        self._parts.append(chunk.data)
        self._told = chunk.sha256 or self._told

    def build(self) -> TokenizerBundle:
        if not self._told:
            raise _damaged("is incomplete: it ended without its hash")
        actual = self._hash.hexdigest()
        if actual != self._told.lower():
            raise _damaged(f"has the hash {actual}, and the server announced {self._told}")
        return TokenizerBundle(b"".join(self._parts), actual)


def _damaged(problem: str) -> VLLMGrpcDataLossError:
    return VLLMGrpcDataLossError(f"the tokenizer bundle {problem}", code="DATA_LOSS")


def _safe(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise _damaged(f"holds a file that would be written outside: {name!r}")
    return name
