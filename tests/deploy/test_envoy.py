"""deploy/envoy.yaml: accepted by Envoy, and a way to several front doors."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from certificates import Authority
from programs import envoy
from support import ROOT, free_port

from smg_proto import smg_pb2, smg_pb2_grpc
from smg_proto.testing import FakeGateway, run_gateway

pytestmark = pytest.mark.deploy
CONFIG = ROOT / "deploy" / "envoy.yaml"


def config(folder: Path, port: int, doors: list[str]) -> tuple[Path, bytes]:
    """The file for this machine: its ports and certificate, and nothing else, are replaced."""
    authority = Authority()
    issued = authority.issue("localhost")
    (folder / "tls.crt").write_bytes(issued.certificate)
    (folder / "tls.key").write_bytes(issued.key)
    text = CONFIG.read_text(encoding="utf-8").replace("/etc/envoy/", f"{folder}/")
    replaced = {"address: 0.0.0.0, port_value: 443": f"address: 127.0.0.1, port_value: {port}"}
    for number, door in enumerate(doors, start=1):
        host, _, door_port = door.partition(":")
        old = f"address: front-door-{number}, port_value: 50051"
        replaced[old] = f"address: {host}, port_value: {door_port}"
    for old, new in replaced.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "envoy.yaml"
    file.write_text(text, encoding="utf-8")
    return file, authority.certificate


def test_envoy_accepts_the_configuration(tmp_path: Path) -> None:
    file, _ = config(tmp_path, 1, ["127.0.0.1:1", "127.0.0.1:2"])
    command = [str(envoy()), "--mode", "validate", "-c", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@contextmanager
def running(file: Path) -> Iterator[None]:
    command = [envoy(), "-c", file, "--use-dynamic-base-id", "--concurrency", "1"]
    with (file.parent / "envoy.log").open("wb") as log:
        process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_calls_reach_every_front_door(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        doors = [stack.enter_context(run_gateway(FakeGateway(token_delay=0.01))) for _ in range(2)]
        file, ca = config(tmp_path, port, [str(door) for door in doors])
        stack.enter_context(running(file))
        credentials = grpc.ssl_channel_credentials(ca)
        channel = stack.enter_context(grpc.secure_channel(f"127.0.0.1:{port}", credentials))
        stub = smg_pb2_grpc.CompletionServiceStub(channel)
        request = smg_pb2.CompletionRequest(model="demo-model", prompt="One", max_tokens=8)
        for _ in range(20):
            events = list(stub.StreamComplete(request, timeout=60, wait_for_ready=True))
            assert events[-1].HasField("end")
        calls = [
            sum(seen.rpc == "StreamComplete" for seen in door.servicer.record.received)
            for door in doors
        ]
        assert sum(calls) == 20 and min(calls) > 0
        with pytest.raises(grpc.RpcError) as caught:
            wrong = smg_pb2.CompletionRequest(model="none", prompt="One")
            stub.Complete(wrong, timeout=60)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
