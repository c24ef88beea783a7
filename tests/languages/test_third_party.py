"""Clients that others make, unmodified, against `smg-proto demo`: unary, stream, details of errors.

The clients of connect-node and tonic are in clients/, and run in test_languages.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import ROOT, make_environment, need, run
from test_languages import calls_gateway_and_engine
from toolchains import TOOLCHAINS, Command

import smg_proto
from smg_proto import smg_pb2, smg_pb2_grpc
from smg_proto.cli import main

pytestmark = [pytest.mark.languages, pytest.mark.timeout(900)]

HERE = Path(__file__).parent / "third_party"
HOME = ROOT / ".cache" / "languages" / "third_party"
SERVICE = "smg.v1.CompletionService"
REQUEST: dict[str, Any] = {"model": "demo-model", "prompt": "One contract", "max_tokens": 8}
WRONG = {"model": "nope", "prompt": "x"}
ERROR = "NOT_FOUND MODEL_NOT_FOUND"
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"
GHZ = "github.com/bojand/ghz/cmd/ghz@v0.93.0"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-m", "smg_proto", "demo", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--token-delay", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            found = re.search(r"listening on (\S+),", process.stdout.readline())
            assert found
            yield found[1]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def text(address: str) -> str:
    """What every client should get, as Python gets it."""
    with grpc.insecure_channel(address) as channel:
        stub = smg_pb2_grpc.CompletionServiceStub(channel)
        output = stub.Complete(smg_pb2.CompletionRequest(**REQUEST)).text
    assert output
    return str(output)


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vendored") / "smg"
    assert main(["export", str(folder), "--only", "smg.v1"]) == 0
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.proto"))


# --- programs in Go ------------------------------------------------------------------------------


def installed(package: str) -> Path:
    need("go")
    path = HOME / "bin" / package.rpartition("/")[2].partition("@")[0]
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        run("go", "install", package, cwd=HOME, GOBIN=str(path.parent))
    return path


def objects(printed: str) -> list[dict[str, dict[str, str]]]:
    """JSON objects, one after the other."""
    found: list[dict[str, dict[str, str]]] = []
    while printed := printed.strip():
        value, end = json.JSONDecoder().raw_decode(printed)
        found.append(value)
        printed = printed[end:]
    return found


def streamed(printed: str) -> str:
    return "".join(event.get("delta", {}).get("text", "") for event in objects(printed))


@pytest.mark.parametrize("source", ["reflection", "descriptor set", "protos"])
def test_grpcurl(source: str, address: str, text: str, protos: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.binpb"
    assert main(["export", "--descriptor-set", str(image)]) == 0
    options: dict[str, Command] = {
        "reflection": [],
        "descriptor set": ["-protoset", image],
        "protos": ["-import-path", protos, "-proto", "smg/v1/completion.proto"],
    }
    command: Command = [installed(GRPCURL), "-plaintext", *options[source], "-d"]
    sent = json.dumps(REQUEST)
    assert json.loads(run(*command, sent, address, f"{SERVICE}/Complete"))["text"] == text
    assert streamed(run(*command, sent, address, f"{SERVICE}/StreamComplete")) == text
    wrong = [*command, json.dumps(WRONG), address, f"{SERVICE}/Complete"]
    done = subprocess.run(wrong, capture_output=True, text=True)
    assert "Code: NotFound" in done.stderr
    if source != "protos":  # which have no google.rpc
        assert '"reason": "MODEL_NOT_FOUND"' in done.stderr


def test_ghz(address: str) -> None:
    ghz: Command = [installed(GHZ), "--insecure", "-n", "4", "-c", "1", "-O", "json"]
    for call, sent, status in (
        ("Complete", REQUEST, "OK"),
        ("StreamComplete", REQUEST, "OK"),
        ("Complete", WRONG, "NotFound"),
    ):
        words = ["--call", f"{SERVICE}.{call}", "-d", json.dumps(sent), address]
        report = json.loads(run(*ghz, *words, cwd=ROOT))
        assert report["statusCodeDistribution"] == {status: 4}


def test_buf_curl(address: str, text: str) -> None:
    curl: Command = ["buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d"]
    url, sent = f"http://{address}/{SERVICE}", json.dumps(REQUEST)
    assert json.loads(run(*curl, sent, f"{url}/Complete"))["text"] == text
    assert streamed(run(*curl, sent, f"{url}/StreamComplete")) == text
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*map(str, curl), json.dumps(WRONG), f"{url}/Complete"],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
    )
    error = json.loads(done.stderr)
    assert error["code"] == "not_found"
    assert [detail["type"] for detail in error["details"]] == ["google.rpc.ErrorInfo"]


def test_go_with_own_import_paths(protos: Path) -> None:
    """M flags give each file the Go package that a team wants, over the unmodified protos."""
    toolchain = TOOLCHAINS["go"]("go")
    toolchain.home.mkdir(parents=True, exist_ok=True)
    toolchain.install()
    folder = HOME / "go"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    assert main(["export", str(folder / "proto"), "--only", "smg.v1", "--only", ENGINE]) == 0
    packages = {
        str(file.name): file.options.go_package.replace("github.com/smg-grpc-proto/go", MAPPED)
        for file in smg_proto.descriptor_set().file
    }
    mapped = [f"M{name}={packages[name]}" for name in files(folder / "proto")]
    plugins = [
        {"local": f"protoc-gen-{name}", "out": ".", "opt": ["module=example.com/acme", *mapped]}
        for name in ("go", "go-grpc")
    ]
    template = json.dumps({"version": "v2", "plugins": plugins})
    toolchain.run("buf", "generate", "proto", "--template", template, cwd=folder)
    source = (ROOT / "clients" / "go" / "main.go").read_text(encoding="utf-8")
    source = source.replace("github.com/smg-grpc-proto/go/", f"{MAPPED}/")
    (folder / "main.go").write_text(source, encoding="utf-8")
    shutil.copy(ROOT / "clients" / "go" / "go.sum", folder)
    module = (ROOT / "clients" / "go" / "go.mod").read_text(encoding="utf-8")
    module = re.sub(r"^module .*$", "module example.com/acme", module, flags=re.MULTILINE)
    module = re.sub(r"^(\t|replace )github\.com/smg-grpc-proto.*\n", "", module, flags=re.MULTILINE)
    (folder / "go.mod").write_text(module, encoding="utf-8")
    toolchain.run("go", "build", "-mod=mod", "-o", "client", ".", cwd=folder)
    calls_gateway_and_engine([folder / "client"])


ENGINE = "vllm.grpc.engine"
MAPPED = "example.com/acme/gen"


# --- programs in Python and JavaScript -----------------------------------------------------------


@pytest.fixture(scope="module")
def python() -> Path:
    """An environment of these clients, without smg_proto."""
    home = HOME / "python"
    interpreter = home / "bin" / "python"
    if not interpreter.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        wanted = ["grpclib==0.4.9", "betterproto2[grpclib]==0.10.0", "grpc-requests==0.1.21"]
        tools = ["betterproto2-compiler==0.10.1", "grpcio-tools", "ruff"]
        make_environment(home, [*wanted, *tools, "googleapis-common-protos", "grpcio-status"])
    return interpreter


def generate(python: Path, protos: Path, out: Path, plugin: str, *options: str) -> None:
    out.mkdir(parents=True)
    programs = python.parent
    name = f"protoc-gen-{plugin}"
    words = [f"--plugin={name}={programs / name}", f"--{plugin}_out={out}", *options]
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    run(python, "-m", "grpc_tools.protoc", "-I", protos, *words, *files(protos), PATH=path)


def test_grpclib(python: Path, address: str, text: str, protos: Path, tmp_path: Path) -> None:
    out = tmp_path / "gen"
    generate(python, protos, out, "grpclib_python", f"--python_out={out}")
    output = run(python, HERE / "grpclib_client.py", address, PYTHONPATH=str(out))
    assert output.splitlines() == [text, text, ERROR]


def test_betterproto2(python: Path, address: str, text: str, protos: Path, tmp_path: Path) -> None:
    option = "--python_betterproto2_opt=client_generation=async"
    generate(python, protos, tmp_path / "gen" / "acme", "python_betterproto2", option)
    program = HERE / "betterproto2_client.py"
    output = run(python, program, address, PYTHONPATH=str(tmp_path / "gen"))
    assert output.splitlines() == [text, text, ERROR]


def test_grpc_requests(python: Path, address: str, text: str) -> None:
    output = run(python, HERE / "grpc_requests_client.py", address)
    assert output.splitlines() == [text, text, ERROR]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="connectrpc wants Python 3.11")
def test_connectrpc_and_protobuf_py(address: str, text: str, protos: Path, tmp_path: Path) -> None:
    home = HOME / "connectrpc"
    python = home / "bin" / "python"
    if not python.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        wanted = ["connectrpc==0.13.0", "protobuf-py==0.7.0"]
        make_environment(home, [*wanted, "protoc-gen-connectrpc==0.13.0", "protoc-gen-py==0.7.0"])
    plugins = [
        {"local": str(python.parent / f"protoc-gen-{name}"), "out": "gen"}
        for name in ("py", "connectrpc")
    ]
    template = json.dumps({"version": "v2", "plugins": plugins})
    run("buf", "generate", protos, "--template", template, cwd=tmp_path)
    program = HERE / "connectrpc_client.py"
    output = run(python, program, address, PYTHONPATH=str(tmp_path / "gen"))
    assert output.splitlines() == [text, text, ERROR]


def test_grpc_js(address: str, text: str, protos: Path) -> None:
    need("node")
    need("npm")
    folder = HOME / "js"
    shutil.copytree(HERE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py"))
    options = ("--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
    run("npm", "install", *options, cwd=folder)
    output = run("node", "grpc_js_client.cjs", address, protos, cwd=folder)
    assert output.splitlines() == [text, text, ERROR]
