"""The experimental contracts that engines publish themselves, and that proto/ mirrors.

A mirror has the same descriptors as the published text, under file names that match the package.
Its comments and its options for other languages are this project's. Releases are frozen as
NAME-VERSION.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from _tools import last_line, run

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet


class Unreachable(Exception):
    """A published text is not available here. The message says why."""


@dataclass(frozen=True)
class Upstream:
    """One contract, its frozen releases, and the crate with its text."""

    name: str
    package: str
    releases: tuple[str, ...]  # oldest first
    crate: str
    crate_version: str = ""  # if it differs from the release's version
    folder: str = "."  # of the protos in the crate
    names: Mapping[str, str] = field(default_factory=dict[str, str])  # published file to proto/'s
    # Whether others generate their Python code with buf, which embeds the JSON names; protoc does
    # not.
    json_names: bool = False

    @property
    def frozen(self) -> list[str]:
        """The names of the frozen releases, oldest first."""
        return [f"{self.name}-{version}" for version in self.releases]

    def published(self, version: str) -> "FileDescriptorSet":
        """The descriptors of a release, without comments, from the text in its crate."""
        from google.protobuf.descriptor_pb2 import FileDescriptorSet

        protos = _crate(self.crate, self.crate_version or version) / self.folder
        with tempfile.TemporaryDirectory() as scratch:
            image = Path(scratch, "image.binpb")
            options = ["--exclude-source-info", "--as-file-descriptor-set", "-o", str(image)]
            done = run("buf", "build", str(protos), *options, cwd=Path(scratch))
            if done.returncode:
                raise Unreachable(f"buf rejected {protos}: {last_line(done.stderr)}")
            return FileDescriptorSet.FromString(image.read_bytes())


UPSTREAMS = (
    Upstream(
        "vllm-proto",
        "vllm",
        ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0"),
        crate="vllm-proto",
        names={
            "inference.proto": "vllm/inference.proto",
            "control.proto": "vllm/control.proto",
        },
    ),
    Upstream(
        "sglang",
        "sglang.runtime.v1",
        ("0.5.21",),
        crate="dynamo-sglang-sidecar",
        crate_version="1.6.1",
        folder="proto",
        names={"sglang.proto": "sglang/runtime/v1/sglang.proto"},
    ),
    Upstream(
        "openengine",
        "openengine.v1",
        ("0.1.0",),
        crate="dynamo-trtllm-sidecar",
        crate_version="1.6.1",
        folder="proto",
        json_names=True,
    ),
)
EXPERIMENTAL = frozenset(upstream.package for upstream in UPSTREAMS)


def mirrored(file: PurePath) -> Upstream | None:
    """The contract that a file of proto/ mirrors, if any. Its folder is its package."""
    package = ".".join(file.parent.parts)
    return next((upstream for upstream in UPSTREAMS if upstream.package == package), None)


def plain(file: "FileDescriptorProto") -> "FileDescriptorProto":
    """A mirror as it was published, for Python modules to embed.

    Code that others generate from the published text registers descriptors under the same file
    names. One process can import both only if they are equal, so this drops the options for other
    languages, which mean nothing to Python.
    """
    published = type(file).FromString(file.SerializeToString())
    published.ClearField("options")
    return published


def promised(files: "FileDescriptorSet") -> "FileDescriptorSet":
    """A descriptor set without these contracts: what this project's promise covers."""
    return type(files)(file=[file for file in files.file if file.package not in EXPERIMENTAL])


def _crate(name: str, version: str) -> Path:
    """The unpacked crate. cargo downloads, verifies and caches it."""
    for folder in _unpacked(name, version):
        return folder
    if not shutil.which("cargo"):
        raise Unreachable("cargo is not on PATH, but the published text is in a crate")
    with tempfile.TemporaryDirectory() as empty:  # so that no Cargo.toml has an effect
        command = ["cargo", "info", "--quiet", f"{name}@{version}"]
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True)
    for folder in _unpacked(name, version):
        return folder
    reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    raise Unreachable(f"cargo info {name}@{version}: {reason}")


def _unpacked(name: str, version: str) -> Iterator[Path]:
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    yield from home.glob(f"registry/src/*/{name}-{version}")
