"""What is built, and the ways to install it."""

import json
import os
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from support import (
    ROOT,
    build_wheel,
    checkout,
    make_environment,
    run,
    tracked,
    wheel_metadata,
)

import smg_proto

pytestmark = pytest.mark.packaging

PROBE = """
import json, smg_grpc_proto, smg_proto
from smg_proto import vllm_engine_pb2
print(json.dumps({
    "version": smg_proto.__version__,
    "at": smg_proto.__file__,
    "protos": len(list(smg_proto.proto_path().rglob("*.proto"))),
    "files": len(smg_proto.descriptor_set().file),
    "same": smg_grpc_proto.vllm_engine_pb2 is vllm_engine_pb2,
}))
"""


# What pyproject.toml's [build-system] asks for.
BACKEND = ["hatchling", "hatch-fancy-pypi-readme"]


def build_sdist(out: Path, source: Path) -> Path:
    run("uv", "build", "-q", "--sdist", "--out-dir", out, source)
    (sdist,) = out.glob("*.tar.gz")
    return sdist


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sdist(tmp_path_factory.mktemp("sdist"), source)


def files_of_wheel(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_has_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    packages = {name: (ROOT / name).read_bytes() for name in tracked("smg_proto", "smg_grpc_proto")}
    # What stands beside the packages in a checkout and inside smg_proto in a wheel.
    inside = tracked("proto", "templates", "LICENSE")
    protos = {f"smg_proto/{name}": (ROOT / name).read_bytes() for name in inside}
    assert any(name.endswith(".proto") for name in protos)
    assert {"smg_proto/py.typed", "smg_grpc_proto/py.typed"} < packages.keys()
    assert {"smg_proto/descriptors.binpb", "smg_proto/vllm_engine_pb2.pyi"} < packages.keys()
    files = files_of_wheel(wheel)
    wanted, found = packages | protos, {k for k in files if ".dist-info/" not in k}
    assert found == wanted.keys()
    assert [name for name in found if files[name] != wanted[name]] == []


def test_wheel_is_for_every_platform(wheel: Path) -> None:
    files = files_of_wheel(wheel)
    (tags,) = (text.decode() for name, text in files.items() if name.endswith("/WHEEL"))
    assert "Root-Is-Purelib: true" in tags and "Tag: py3-none-any" in tags
    assert any(name.endswith("/licenses/LICENSE") for name in files)


def test_metadata_is_as_intended(wheel: Path) -> None:
    metadata = wheel_metadata(wheel)
    assert (metadata["Name"], metadata["Version"]) == ("smg-grpc-proto", smg_proto.__version__)
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    required = metadata.get_all("Requires-Dist", [])
    base = [line for line in required if "extra ==" not in line]
    assert sorted(base) == ["grpcio>=1.62.3", "protobuf<9,>=4.25.8"]
    extras = set(metadata.get_all("Provides-Extra", []))
    assert extras >= {"types", "client", "decode", "serve"} and "dev" not in extras
    exact = [line for line in required if "==" in line.partition(";")[0]]
    assert exact == [], "a user cannot live with an exact pin"


def test_the_index_page_leads_to_the_files_of_this_version(wheel: Path) -> None:
    metadata = wheel_metadata(wheel)
    urls = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    assert urls.keys() == {"Repository", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert metadata["Author"] and "@" not in metadata["Author"]
    payload = metadata.get_payload(decode=True)
    assert isinstance(payload, bytes)
    page = payload.decode()
    files = f"{urls['Repository']}/blob/v{smg_proto.__version__}/"
    links = re.findall(r"\]\(([^)]+)\)", page)
    own = [link.removeprefix(files) for link in links if link.startswith(files)]
    assert len(own) >= 10 and all((ROOT / re.split("[?#]", link)[0]).exists() for link in own)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert page.replace(files, "").strip() == readme.strip()


def test_base_install_requires_only_grpcio_and_protobuf(wheel: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env", [wheel])
    listed = json.loads(run("uv", "pip", "list", "--format=json", "--python", python))
    assert {entry["name"] for entry in listed} == {
        "smg-grpc-proto",
        "grpcio",
        "protobuf",
        "typing-extensions",  # grpcio's own
    }
    output = run(python.parent / "smg-proto", "--version", cwd=tmp_path)
    assert output == f"smg-proto {smg_proto.__version__}\n"


def test_sdist_has_what_the_wheel_is_made_from(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path)
    assert set(tracked("proto", "smg_proto", "smg_grpc_proto", "tests", "scripts")) <= names
    assert not any(name.startswith((".venv", ".cache", ".git/")) for name in names)
    (unpacked,) = tmp_path.iterdir()
    assert files_of_wheel(build_wheel(tmp_path / "out", unpacked)) == files_of_wheel(wheel)


def test_builds_are_reproducible(source: Path, wheel: Path, sdist: Path, tmp_path: Path) -> None:
    other = checkout(tmp_path / "elsewhere")
    for path in other.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            os.utime(path, (1_000_000_000, 1_000_000_000))
            path.chmod(0o600 if not os.access(path, os.X_OK) else 0o700)
    assert build_wheel(tmp_path / "out", other).read_bytes() == wheel.read_bytes()
    assert build_sdist(tmp_path / "out2", other).read_bytes() == sdist.read_bytes()


@pytest.mark.parametrize("way", ["folder", "git", "editable"])
def test_pip_installs(way: str, source: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env", ["pip", "grpcio", "protobuf"])
    what = {
        "folder": [str(source)],
        "git": [f"smg-grpc-proto @ git+{source.as_uri()}"],
        "editable": ["--editable", str(source)],
    }[way]
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *what)
    output = json.loads(run(python, "-c", PROBE, cwd=tmp_path))
    assert output["version"] == smg_proto.__version__ and output["same"]
    assert Path(output["at"]).is_relative_to(source if way == "editable" else tmp_path)
    assert output["protos"] == len([name for name in tracked("proto") if name.endswith(".proto")])
    assert output["files"] == len(smg_proto.descriptor_set().file)


def test_sdist_becomes_a_wheel_without_a_network(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env", ["pip", *BACKEND])
    alone = ["--no-deps", "--no-index", "--no-build-isolation", f"--wheel-dir={tmp_path / 'out'}"]
    nowhere = "http://127.0.0.1:9"
    pip = ["-m", "pip", "wheel", "-q", *alone]
    run(python, *pip, sdist, http_proxy=nowhere, https_proxy=nowhere)
    (built,) = (tmp_path / "out").glob("*.whl")
    assert files_of_wheel(built) == files_of_wheel(wheel)


def test_installing_compiles_nothing(sdist: Path, tmp_path: Path) -> None:
    # No compiler, no protoc, no plugin within reach; what is installed is what was committed.
    python = make_environment(tmp_path / "env", ["pip", *BACKEND, "grpcio", "protobuf"])
    pip = [str(python), "-m", "pip", "install", "-q", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, str(sdist)], env={"PATH": str(python.parent)}, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    code = "import smg_proto; print(smg_proto.__path__[0])"
    installed = Path(run(python, "-c", code, cwd=tmp_path).strip())
    generated = [name for name in tracked("smg_proto") if "_pb2" in name]
    assert generated
    for name in generated:
        assert (installed.parent / name).read_bytes() == (ROOT / name).read_bytes()
