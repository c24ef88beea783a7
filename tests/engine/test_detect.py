"""Which contract a server speaks, and the error if it speaks none."""

import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from engine.kit import Client, fails, hangs, serving
from smg_proto._probe import READS, UNKNOWN_RPC
from smg_proto.engine import (
    AccessError,
    DeadlineError,
    EngineError,
    NoContractError,
    ParameterError,
    Tried,
    UnavailableError,
    connect,
)
from smg_proto.engine._contracts import CONTRACTS, load
from smg_proto.testing import run_vllm_engine

V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
V1ALPHA = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
IDS = {"token_ids": [1]}


def lists(*services: str) -> Any:
    reply = reflection_pb2.ServerReflectionResponse()
    reply.list_services_response.SetInParent()
    for name in services:
        reply.list_services_response.service.add(name=name)
    return [reply]


def test_every_engine_contract_is_known() -> None:
    assert len(CONTRACTS) == 8
    for name, entry in CONTRACTS.items():
        contract = load(name)
        assert (contract.name, contract.service) == (name, entry.services[0])
        service, rpc = entry.probe.strip("/").split("/")
        assert service in entry.services and rpc in READS


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("path", [V1, V1ALPHA], ids=["v1", "v1alpha"])
def test_the_contract_is_detected_by_reflection(client: Client, name: str, path: str) -> None:
    services = ["grpc.health.v1.Health", *CONTRACTS[name].services]
    with serving({path: lists(*services)}) as server:
        assert client.attribute(server.target, "contract") == name
    assert CONTRACTS[name].probe not in server.called


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_contract_is_detected_by_read_only_calls(client: Client, name: str) -> None:
    with serving({CONTRACTS[name].probe: [b""]}) as server:
        assert client.attribute(server.target, "contract") == name
        assert client.attribute(server.target, "also") == ()


def test_a_reply_without_a_message_shows_its_contract_too(client: Client) -> None:
    with serving({CONTRACTS["trtllm"].probe: []}) as server:
        assert client.attribute(server.target, "contract") == "trtllm"


def test_an_rpc_that_fails_shows_its_contract(client: Client) -> None:
    with serving({CONTRACTS["trtllm"].probe: fails(grpc.StatusCode.INTERNAL)}) as server:
        assert client.attribute(server.target, "contract") == "trtllm"


def test_the_contract_of_the_fake_engine_is_detected(client: Client) -> None:
    with run_vllm_engine() as address:
        assert client.attribute(address, "contract") == "vllm.grpc.engine"


def test_the_error_without_a_contract_lists_what_was_tried(client: Client) -> None:
    with serving({V1ALPHA: lists("shop.v1.Orders")}) as server:
        with pytest.raises(NoContractError) as caught:
            client.attribute(server.target, "contract")
        error = caught.value
        replies = {one.rpc: one.answer for one in error.tried}
        # INTERNAL if the server resets the stream before it has read the request.
        assert replies.pop(V1) in ("UNIMPLEMENTED", "INTERNAL")
        assert replies.pop(V1ALPHA) == "shop.v1.Orders"
        assert replies == {entry.probe: "UNIMPLEMENTED" for entry in CONTRACTS.values()}
        assert [one.contract for one in error.tried[2:]] == list(CONTRACTS)
        assert str(error).startswith(f"{server.target}: no known engine contract; tried:")
        for one in error.tried:
            assert f"\n  {one.rpc}: {one.answer}" in str(error)


def test_the_newer_of_two_contracts_is_chosen_and_both_are_logged(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    both = ["vllm.grpc.engine", "vllm"]
    by_calls: Any = {CONTRACTS[name].probe: [b""] for name in both}
    by_reflection: Any = {V1: lists("vllm.grpc.engine.VllmEngine", "vllm.Inference")}
    for handlers in (by_calls, by_reflection):
        with serving(handlers) as server, caplog.at_level(logging.WARNING, "smg_proto.engine"):
            assert client.attribute(server.target, "contract") == "vllm"
            assert client.attribute(server.target, "also") == ("vllm.grpc.engine",)
            messages = [r.getMessage() for r in caplog.records if r.name.startswith("smg_proto")]
            (line, _) = messages
            target = server.target
            expected = f"several contracts found target={target} chosen=vllm also=vllm.grpc.engine"
            assert line == expected
            caplog.clear()
            chosen = client.attribute(target, "contract", contract="vllm.grpc.engine")
            assert chosen == "vllm.grpc.engine"
            assert not [r for r in caplog.records if r.name.startswith("smg_proto")]


def test_no_contract_is_guessed_if_the_server_accepts_every_method(client: Client) -> None:
    with serving(default=[b""]) as server:
        with pytest.raises(NoContractError, match="accepts every method; pass contract=") as caught:
            client.attribute(server.target, "contract")
        assert caught.value.tried[-1].rpc == UNKNOWN_RPC
        assert client.attribute(server.target, "contract", contract="trtllm") == "trtllm"


def test_a_contract_that_is_passed_is_not_detected(client: Client) -> None:
    with serving() as server:
        assert client.attribute(server.target, "contract", contract="vllm") == "vllm"
        assert server.called == []
    with pytest.raises(ParameterError, match=r"contract: must be one of vllm, openengine\.v1, "):
        connect("localhost:1", contract="vllm.grpc")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("UNAUTHENTICATED", AccessError),
        ("PERMISSION_DENIED", AccessError),
        ("UNAVAILABLE", UnavailableError),
    ],
)
def test_a_server_that_accepts_no_call(client: Client, code: str, kind: type[EngineError]) -> None:
    with serving(default=fails(grpc.StatusCode[code], "key sesame")) as server:
        with pytest.raises(kind) as caught:
            client.attribute(server.target, "contract")
        assert (caught.value.code, caught.value.details) == (code, "key sesame")
        assert "sesame" not in str(caught.value)


def test_detection_continues_if_reflection_is_not_allowed(client: Client) -> None:
    closed = fails(grpc.StatusCode.PERMISSION_DENIED)
    handlers: Any = {V1: closed, V1ALPHA: closed, CONTRACTS["trtllm"].probe: [b""]}
    with serving(handlers) as server:
        assert client.attribute(server.target, "contract") == "trtllm"


def test_no_server(client: Client) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=f"^{target}: no server") as caught:
            client.attribute(target, "contract")
        assert caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize("path", [V1, CONTRACTS["vllm"].probe])
def test_a_server_that_does_not_reply(client: Client, path: str) -> None:
    with serving({path: hangs}) as server, pytest.raises(DeadlineError):
        client.attribute(server.target, "contract", timeout=0.2)


def test_the_first_list_of_services_counts(client: Client) -> None:
    """A server may keep the stream open, and lists only what is asked for."""

    def handle(request: bytes, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from lists("vllm.Inference")
        yield from hangs(request, context)

    with serving({V1: handle}) as server:
        assert client.attribute(server.target, "contract") == "vllm"
        sent = reflection_pb2.ServerReflectionRequest.FromString(server.requests[V1])
        assert sent == reflection_pb2.ServerReflectionRequest(list_services="*")


def test_a_server_of_another_protocol(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def reply() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=reply, daemon=True)
        thread.start()
        target = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises((UnavailableError, DeadlineError)):
            client.attribute(target, "contract", timeout=3)


@pytest.mark.parametrize(
    "reply",
    [
        [b"\xff\xff\xff"],
        [],
        [reflection_pb2.ServerReflectionResponse()],
        lists("a" * 100_000, "x\n\x1b[31m", *(f"s{number}" for number in range(5000))),
    ],
    ids=["no message", "nothing", "no list", "a hostile list"],
)
def test_detection_continues_after_invalid_reflection_replies(client: Client, reply: Any) -> None:
    probe = CONTRACTS["mlx.grpc.engine"].probe
    with serving({V1: reply, V1ALPHA: reply, probe: [b""]}) as server:
        assert client.attribute(server.target, "contract") == "mlx.grpc.engine"
    with serving({V1: reply, V1ALPHA: reply}) as server:
        with pytest.raises(NoContractError) as caught:
            client.attribute(server.target, "contract")
        assert len(str(caught.value)) < 4000
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "answer", "asks_older"),
    [
        ([b"\xff\xff\xff"], "no list of services", True),
        ([], "no list of services", True),
        ([reflection_pb2.ServerReflectionResponse()], "no list of services", True),
        (fails(grpc.StatusCode.PERMISSION_DENIED), "PERMISSION_DENIED", True),
        (lists(), "no services", False),
        (
            lists("a" * 101, "x\n", *(f"s{number}" for number in range(30))),
            ", ".join(["a" * 100, *(f"s{number}" for number in range(19))]),
            False,
        ),
    ],
)
def test_the_older_reflection_is_asked_if_the_newer_lists_nothing(
    client: Client, reply: Any, answer: str, asks_older: bool
) -> None:
    handlers = {V1: reply, V1ALPHA: lists("shop.v1.Orders")}
    with serving(handlers) as server, pytest.raises(NoContractError) as caught:
        client.attribute(server.target, "contract")
    first, second, *_ = caught.value.tried
    assert first == Tried("reflection", V1, answer)
    assert (second == Tried("reflection", V1ALPHA, "shop.v1.Orders")) is asks_older


def test_every_call_of_the_detection_sends_the_metadata(client: Client) -> None:
    with serving({CONTRACTS["vllm"].probe: [b""]}) as server:
        options = {"token": "sesame", "metadata": {"Tenant": "a"}}
        client.attribute(server.target, "contract", **options)
        assert {V1, UNKNOWN_RPC, CONTRACTS["vllm"].probe} <= {*server.called}
        for seen in server.metadata:
            assert (seen["authorization"], seen["tenant"]) == ("Bearer sesame", "a")


def test_a_server_is_reached_by_other_names(client: Client) -> None:
    with serving({CONTRACTS["vllm"].probe: [b""]}) as server:
        port = server.target.rpartition(":")[2]
        for target in (f"localhost:{port}", f"dns:127.0.0.1:{port}", f"ipv4:127.0.0.1:{port}"):
            assert client.attribute(target, "contract") == "vllm"
