"""Contracts of others, as released in registries, and what is known of their changes."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from support import need, run

from smg_proto.compat import Contract, load
from smg_proto.compat._programs import program

LEVELS = ("FILE", "WIRE_JSON", "WIRE")


@dataclass(frozen=True)
class Step:
    """One release to another, and what smg-proto diff and buf find between them."""

    kind: str  # pypi, crate, npm or go
    package: str
    old: str
    new: str
    verdict: str
    counts: tuple[int, ...]  # data, rpc, presence, json, source
    buf: tuple[int, ...]  # errors at FILE, WIRE_JSON and WIRE
    why: str  # where the two differ
    folder: str = ""  # of the protos, where the package has others as well
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.package} {self.old} to {self.new}"

    def contract(self, version: str, scratch: Path) -> Contract:
        match self.kind:
            case "pypi":
                spec = f"pypi:{self.package}=={version}"
            case "crate":
                need("cargo")
                spec = f"crate:{self.package}@{version}"
            case "npm":
                spec = str(npm(self.package, version, scratch) / self.folder)
            case _:
                spec = str(go_module(self.package, version, scratch) / self.folder)
        include = [
            str(_of_go(one, scratch)) if one.startswith("go:") else one for one in self.include
        ]
        return load(spec, include=include, exclude=self.exclude)


def npm(package: str, version: str, scratch: Path) -> Path:
    """The unpacked package; no script of it runs."""
    folder = scratch / f"{package.replace('/', '-')}-{version}"
    if not folder.exists():
        folder.mkdir(parents=True)
        words = ["pack", f"{package}@{version}", "--ignore-scripts", "--silent"]
        name = run(need("npm"), *words, cwd=folder).strip().splitlines()[-1]
        run("tar", "-xzf", name, cwd=folder)
    return folder / "package"


def _of_go(spec: str, scratch: Path) -> Path:
    package, _, version = spec.removeprefix("go:").partition("@")
    return go_module(package, version, scratch)


def go_module(package: str, version: str, scratch: Path) -> Path:
    """The module in Go's own cache."""
    with tempfile.TemporaryDirectory(dir=scratch) as empty:
        output = run(
            need("go"), "mod", "download", "-json", f"{package}@{version}", cwd=Path(empty)
        )
    return Path(json.loads(output)["Dir"])


def buf_errors(old: Contract, new: Contract, scratch: Path) -> tuple[int, ...]:
    """How many errors buf breaking reports for the files that we compare, and their imports."""
    buf = program("buf") or need("buf")
    images: list[Path] = []
    for name, side in (("old", old), ("new", new)):
        images.append(scratch / f"{name}.binpb")
        images[-1].write_bytes(FileDescriptorSet(file=side.files).SerializeToString())
    found: list[int] = []
    for level in LEVELS:
        config = f'{{"version":"v2","breaking":{{"use":["{level}"]}}}}'
        command = [buf, "breaking", str(images[1]), "--against", str(images[0])]
        command += ["--config", config, "--error-format", "json"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode in (0, 100), done.stderr
        found.append(len(done.stdout.splitlines()))
    return tuple(found)
