"""The tools that people use on a gRPC server, against ours, by reflection alone."""

import json
import subprocess
from collections.abc import Iterator

import pytest
from programs import GHZ, GRPCURL, go_tool
from support import run

from smg_proto.testing import run_gateway

pytestmark = [pytest.mark.languages, pytest.mark.timeout(900)]
REQUEST = json.dumps({"model": "demo-model", "prompt": "One contract", "maxTokens": 4})


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with run_gateway() as running:
        yield str(running)


def grpcurl(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(go_tool(GRPCURL)), "-plaintext", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def output(*words: str) -> str:
    done = grpcurl(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_grpcurl_lists_and_describes_with_comments(address: str) -> None:
    assert "smg.v1.ChatService" in output(address, "list").split()
    assert "smg.v1.CompletionService.Complete" in output(
        address, "list", "smg.v1.CompletionService"
    )
    for symbol in (
        "smg.v1.CompletionService",
        "smg.v1.CompletionService.Complete",
        "smg.v1.CompletionRequest",
        "smg.v1.Role",
        "google.rpc.ErrorInfo",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ):
        assert symbol.rpartition(".")[2] in output(address, "describe", symbol)
    assert "//" in output(address, "describe", "smg.v1.CompletionService.Complete")


def test_grpcurl_calls_and_reads_json_names_and_typed_details(address: str) -> None:
    reply = json.loads(output("-d", REQUEST, address, "smg.v1.CompletionService/Complete"))
    assert (reply["finishReason"], reply["completionTokens"]) == ("length", 4)
    events = output("-d", REQUEST, address, "smg.v1.CompletionService.StreamComplete")
    assert '"delta"' in events and '"end"' in events
    failed = grpcurl("-d", '{"model": "none", "prompt": "a"}', "-format-error", address,
                     "smg.v1.CompletionService/Complete")  # fmt: skip
    assert failed.returncode
    assert "MODEL_NOT_FOUND" in failed.stderr and "not recognized" not in failed.stderr
    assert "SERVING" in output(address, "grpc.health.v1.Health/Check")


@pytest.mark.parametrize(
    "call", ["smg.v1.CompletionService.Complete", "smg.v1.CompletionService/Complete"]
)
def test_ghz_runs_by_reflection(address: str, call: str) -> None:
    command = [str(go_tool(GHZ)), "--insecure", "--call", call, "-d", REQUEST, "-n", "20"]
    report = json.loads(run(*command, "-O", "json", address))
    assert report["statusCodeDistribution"] == {"OK": 20}


@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
def test_buf_curl_calls_by_either_version_of_reflection(address: str, version: str) -> None:
    url = f"http://{address}/smg.v1.CompletionService/Complete"
    flags = ["--protocol", "grpc", "--http2-prior-knowledge", "--reflect-protocol", version]
    reply = json.loads(run("buf", "curl", *flags, "-d", REQUEST, url))
    assert reply["finishReason"] == "length"
