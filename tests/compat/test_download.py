"""Released packages are downloaded by the registries' own clients, once."""

import sys
import tarfile
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from smg_proto.cli import main
from smg_proto.compat import ContractError, _download, load
from smg_proto.compat._programs import ProgramError

PROTO = 'syntax = "proto3";\npackage {};\nmessage Order {{ string {} = 1; }}\n'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMG_PROTO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "wheels"
    folder.mkdir(parents=True)
    return folder


def write_wheel(path: Path, package: str = "shop") -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("shop.proto", PROTO.format(package, "id"))


def installed(name: str) -> str:
    return f"/bin/{name}"


def missing(name: str) -> None:
    return None


class Client:
    """In place of a registry's client: records how it is called, and does what it is told."""

    def __init__(self) -> None:
        self.commands: list[Sequence[str]] = []
        self.output = ""  # of a failure
        self.files: list[str] = []

    def run(self, command: Sequence[str], origin: str, *, seconds: float, cwd: Path) -> bytes:
        assert list(cwd.iterdir()) == []
        self.commands.append(command)
        assert (origin, seconds) == ("crate" if "info" in command else "pypi", 300)
        if self.output:
            raise ProgramError(f"it failed: {self.output}", self.output)
        for name in self.files:
            write_wheel(Path(command[command.index("-d") + 1], name))
        return b""


@pytest.fixture
def client(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(_download, "run", client.run)
    monkeypatch.setattr(_download, "find_spec", installed)
    return client


class Cargo:
    def __init__(self, home: Path) -> None:
        self.registry = home / "registry" / "cache"

    def keeps(self, name: str, field: str, registry: str = "index") -> Path:
        path = self.registry / registry / f"{name}.crate"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w:gz") as crate:
            text = PROTO.format("shop", field).encode()
            member = tarfile.TarInfo(f"{name}/shop.proto")
            member.size = len(text)
            crate.addfile(member, BytesIO(text))
        return path


@pytest.fixture
def cargo(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cargo:
    monkeypatch.setenv("CARGO_HOME", str(tmp_path / "cargo"))
    monkeypatch.setattr(_download, "program", installed)
    return Cargo(tmp_path / "cargo")


# --- PyPI ----------------------------------------------------------------------------------------


def test_a_wheel_is_downloaded_into_the_cache(client: Client, cache: Path) -> None:
    client.files = ["shop-1.0-py3-none-any.whl", "shop-1.0-py2-none-any.whl"]
    assert load("pypi:shop==1.0").packages == {"shop"}
    assert [path.name for path in cache.iterdir()] == ["shop-1.0-py2-none-any.whl"]
    (command,) = client.commands
    at = command.index("-d")
    assert [*command[:at], *command[at + 2 :]] == [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--disable-pip-version-check", "-q", "shop==1.0"),
    ]
    client.files = []
    assert load("pypi:shop==1.0").packages == {"shop"}
    assert len(client.commands) == 1


@pytest.mark.parametrize(
    ("output", "files", "problem"),
    [
        ("", [], "the index has no wheel of it"),
        ("WARNING: x\nERROR: No match (from versions: 1, 2)\nmore", [], "No match"),
        ("ERROR: Not for shop==1.0 (from versions: 1, 2)\nmore", [], "Not for shop==1.0"),
        ("no space left", [], "no space left"),
    ],
)
def test_what_pip_says_is_told(
    output: str, files: list[str], problem: str, client: Client, cache: Path
) -> None:
    client.output, client.files = output, files
    with pytest.raises(ContractError) as raised:
        load("pypi:shop==1.0")
    assert str(raised.value) == f"pypi:shop==1.0: {problem}"
    assert list(cache.iterdir()) == []


def test_without_pip_uv_runs_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.files = ["shop-1.0-py3-none-any.whl"]
    monkeypatch.setattr(_download, "find_spec", missing)
    monkeypatch.setattr(_download, "program", installed)
    assert load("pypi:shop==1.0").packages == {"shop"}
    assert client.commands[0][:5] == ["/bin/uv", "tool", "run", "pip", "download"]
    monkeypatch.setattr(_download, "program", missing)
    with pytest.raises(ContractError, match=r"^pypi: neither pip nor uv is installed; install one"):
        load("pypi:shop==2.0")


@pytest.mark.parametrize(
    "requirement", ["shop", "shop>=1", "-r==1", "a b==1", "shop==", "shop==1 --pre", "é==1"]
)
def test_only_one_version_can_be_downloaded(requirement: str, client: Client) -> None:
    with pytest.raises(ContractError) as raised:
        load(f"pypi:{requirement}")
    assert str(raised.value) == f"pypi:{requirement}: not NAME==VERSION; use pypi:NAME==VERSION"
    assert client.commands == []


def test_names_of_wheels_are_compared_as_registries_do(cache: Path) -> None:
    for name, package in (("Shop.Api-1.0", "a"), ("shop_api-1.0.1", "b")):
        write_wheel(cache / f"{name}-py3-none-any.whl", package)
    assert load("pypi:shop-api==1.0").packages == {"a"}


# --- crates.io ------------------------------------------------------------------------------------


def test_names_of_crates_are_compared_as_registries_do(cargo: Cargo, cache: Path) -> None:
    for name in ("shop_api-1.0.0", "shop_api-1.0.01", "shop-1.0.0", "tool-2.0.0+linux"):
        cargo.keeps(name, f"{name[:4]}{len(name)}")
    for _ in range(2):  # also from the cache
        found = load("crate:shop-api@1.0.0").messages["shop.Order"]
        assert [field.name for field in found.fields.values()] == ["shop14"]
    assert "shop.Order" in load("crate:tool@2.0.0").messages
    assert "shop.Order" in load("crate:tool@2.0.0+linux").messages
    assert sorted(path.name for path in cache.iterdir()) == [
        "shop_api-1.0.0.crate", "tool-2.0.0+linux.crate",
    ]  # fmt: skip


def test_a_crate_is_copied_from_the_registry_that_has_it(
    cargo: Cargo, client: Client, cache: Path
) -> None:
    (cargo.registry / "an-empty-one").mkdir(parents=True)
    cargo.keeps("other-1.0.0", "no")
    cargo.keeps("shop-1.0.0", "yes", "the-last-one")
    assert "shop.Order" in load("crate:shop@1.0.0").messages
    assert client.commands == [["/bin/cargo", "info", "--quiet", "shop@1.0.0"]]
    assert [path.name for path in cache.iterdir()] == ["shop-1.0.0.crate"]


def test_what_cargo_says_is_told(
    cargo: Cargo, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> str:
        with pytest.raises(ContractError) as raised:
            load("crate:shop@1.0.0")
        return str(raised.value)

    assert refused() == "crate:shop@1.0.0: cargo kept no archive; update Rust"
    client.output = "warning: x\nerror: could not find it\nhelp: y"
    assert refused() == "crate:shop@1.0.0: could not find it"
    client.output = "no space left"
    assert refused() == "crate:shop@1.0.0: no space left"
    monkeypatch.setattr(_download, "program", missing)
    assert refused() == "crate:shop@1.0.0: cargo is not installed; install Rust"


@pytest.mark.parametrize("requirement", ["shop", "shop@", "shop@v1", "-x@1", "shop@1 --x", "é@1"])
def test_only_one_version_of_a_crate_can_be_read(requirement: str, client: Client) -> None:
    with pytest.raises(ContractError) as raised:
        load(f"crate:{requirement}")
    assert str(raised.value) == f"crate:{requirement}: not NAME@VERSION; use crate:NAME@VERSION"
    assert client.commands == []


# --- the cache -----------------------------------------------------------------------------------


def test_the_cache_is_in_the_home_folder_unless_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("SMG_PROTO_CACHE", "")
    assert _download.cache() == tmp_path / ".cache" / "smg-grpc-proto" / "wheels"
    monkeypatch.setenv("SMG_PROTO_CACHE", "/elsewhere")
    assert _download.cache() == Path("/elsewhere/wheels")


def test_a_download_that_cannot_be_stored_leaves_nothing(
    client: Client, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(cache))

    client.files = ["shop-1.0-py3-none-any.whl"]
    monkeypatch.setattr("shutil.copyfile", full)
    assert main(["diff", "pypi:shop==1.0", "self"]) == 2
    assert capsys.readouterr().err == f"smg-proto diff: {cache}: No space left on device\n"
    assert list(cache.iterdir()) == []


# --- the real registry ---------------------------------------------------------------------------


@pytest.mark.packaging
def test_a_published_version_is_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMG_PROTO_CACHE", str(tmp_path))
    assert "vllm.grpc.engine" in load("pypi:smg-grpc-proto==0.4.10").packages
    assert [path.suffix for path in (tmp_path / "wheels").iterdir()] == [".whl"]
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert "vllm.grpc.engine" in load("pypi:smg_grpc.Proto==0.4.10").packages


@pytest.mark.packaging
def test_a_version_that_was_never_published_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMG_PROTO_CACHE", str(tmp_path))
    assert main(["diff", "pypi:smg-grpc-proto==0.0.1", "self"]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert "smg-grpc-proto==0.0.1" in output.err
    assert list(tmp_path.rglob("*")) == []
