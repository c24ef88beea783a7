"""smg_proto.connect and the functions that wait."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from certificates import Authority

import smg_proto
from smg_proto import (
    connect,
    connect_aio,
    smg_pb2,
    smg_pb2_grpc,
    wait_ready,
    wait_ready_aio,
    wait_response,
    wait_response_aio,
)
from smg_proto._channel import Address
from smg_proto.errors import SmgError

ASK = smg_pb2.ChatRequest(model="m")


class Server(
    smg_pb2_grpc.ChatServiceServicer,
    smg_pb2_grpc.WorkerServiceServicer,
    smg_pb2_grpc.ResponseServiceServicer,
):
    """Keeps the metadata of each call, and answers as it is told to."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str | bytes]] = []
        self.answers: list[Any] = []
        self.requested = 0
        self.ids: set[str] = set()

    def _answer(self, context: grpc.ServicerContext, id: str = "") -> Any:
        self.ids.add(id)
        self.metadata.append(dict(context.invocation_metadata()))
        self.requested += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "as told")
        if isinstance(answer, threading.Event):
            answer.wait(30)
        return answer

    def Chat(
        self, request: smg_pb2.ChatRequest, context: grpc.ServicerContext
    ) -> smg_pb2.ChatResponse:
        return self._answer(context)  # type: ignore[no-any-return]

    def StreamChat(
        self, request: smg_pb2.ChatRequest, context: grpc.ServicerContext
    ) -> Iterator[smg_pb2.ChatEvent]:
        yield smg_pb2.ChatEvent(end=self._answer(context))

    def GetWorker(
        self, request: smg_pb2.GetWorkerRequest, context: grpc.ServicerContext
    ) -> smg_pb2.Worker:
        return self._answer(context, request.id)  # type: ignore[no-any-return]

    def GetResponse(
        self, request: smg_pb2.GetResponseRequest, context: grpc.ServicerContext
    ) -> smg_pb2.Response:
        return self._answer(context, request.id)  # type: ignore[no-any-return]


@contextmanager
def running(servicer: Server, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    smg_pb2_grpc.add_ChatServiceServicer_to_server(servicer, server)
    smg_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server)
    smg_pb2_grpc.add_ResponseServiceServicer_to_server(servicer, server)
    where = "127.0.0.1:0"
    port = (
        server.add_secure_port(where, credentials)
        if credentials
        else server.add_insecure_port(where)
    )
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.fixture
def servicer() -> Server:
    servicer = Server()
    servicer.answers = [smg_pb2.ChatResponse(id="x")]
    return servicer


@pytest.fixture
def target(servicer: Server) -> Iterator[str]:
    with running(servicer) as address:
        yield address


# --- What goes with each call ---


def test_every_kind_of_call_sends_key_and_metadata(servicer: Server, target: str) -> None:
    keys = iter("abcd")
    more: list[tuple[str, str | bytes]] = [("x-tenant", "t"), ("x-bin", b"\0")]
    with connect(target, key=lambda: next(keys), metadata=iter(more)) as channel:
        stub = smg_pb2_grpc.ChatServiceStub(channel)
        assert stub.Chat(ASK, timeout=30).id == "x"
        assert [event.end.id for event in stub.StreamChat(ASK, metadata=(("x-own", "o"),))] == ["x"]
        assert stub.Chat.with_call(ASK, 30)[0].id == "x"
        assert stub.Chat.future(ASK).result(30).id == "x"
    sent = [found["authorization"] for found in servicer.metadata]
    assert sent == [f"Bearer {key}" for key in "abcd"]
    assert all(found["x-tenant"] == "t" for found in servicer.metadata)
    assert [found.get("x-own") for found in servicer.metadata] == [None, "o", None, None]


async def test_the_same_with_asyncio(servicer: Server, target: str) -> None:
    numbers = iter(range(9))
    async with connect_aio(
        target, key="k", metadata=lambda: [("x-number", str(next(numbers)))]
    ) as channel:
        stub: smg_pb2_grpc.ChatServiceAsyncStub = smg_pb2_grpc.ChatServiceStub(channel)
        assert (await stub.Chat(ASK)).id == "x"
        call = stub.StreamChat(ASK, timeout=30)
        assert isinstance(call, grpc.aio.UnaryStreamCall)
        assert [event.end.id async for event in call] == ["x"]
    assert [found["x-number"] for found in servicer.metadata] == ["0", "1"]
    assert {found["authorization"] for found in servicer.metadata} == {"Bearer k"}


def test_the_current_trace_is_sent(
    servicer: Server, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inject(carrier: dict[str, str]) -> None:
        carrier["traceparent"] = "00-1-2-01"

    monkeypatch.setitem(sys.modules, "opentelemetry.propagate", SimpleNamespace(inject=inject))
    with connect(target) as channel:
        smg_pb2_grpc.ChatServiceStub(channel).Chat(ASK)
    assert servicer.metadata[0]["traceparent"] == "00-1-2-01"


def test_a_call_that_was_not_started_is_retried(servicer: Server, target: str) -> None:
    servicer.answers = [grpc.StatusCode.UNAVAILABLE, smg_pb2.ChatResponse(id="again")]
    with connect(target) as channel:
        assert smg_pb2_grpc.ChatServiceStub(channel).Chat(ASK).id == "again"
    assert servicer.requested == 2


def test_messages_of_any_size(servicer: Server, target: str) -> None:
    servicer.answers = [smg_pb2.ChatResponse(id="x" * (5 << 20))]
    with connect(target) as channel:
        assert len(smg_pb2_grpc.ChatServiceStub(channel).Chat(ASK).id) == 5 << 20
    limit = [("grpc.max_receive_message_length", 1 << 20)]
    with connect(target, options=limit) as channel, pytest.raises(grpc.RpcError) as caught:
        smg_pb2_grpc.ChatServiceStub(channel).Chat(ASK)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_tls(servicer: Server, tmp_path: Path) -> None:
    authority = Authority()
    identity = authority.issue("server")
    credentials = grpc.ssl_server_credentials([(identity.key, identity.certificate)])
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority.certificate)
    with running(servicer, credentials) as address:
        for tls in (roots, authority.certificate, grpc.ssl_channel_credentials(roots.read_bytes())):
            with connect(address, key="k", tls=tls) as channel:
                assert smg_pb2_grpc.ChatServiceStub(channel).Chat(ASK).id == "x"
        async with connect_aio(address, tls=roots) as channel:
            assert (await smg_pb2_grpc.ChatServiceStub(channel).Chat(ASK)).id == "x"
        with connect(address, tls=True) as channel, pytest.raises(grpc.RpcError):
            smg_pb2_grpc.ChatServiceStub(channel).Chat(ASK, timeout=30)


# --- What is refused ---


@pytest.mark.parametrize("make", [connect, connect_aio])
@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ({"target": ""}, "target: '' is not a gRPC target; use HOST:PORT"),
        ({"target": "http://a:1"}, "target: 'http://a:1' is not a gRPC target"),
        ({"target": "a\n:1"}, "target: "),
        ({"target": "example.org:50051", "key": "k"}, "key: would be sent in clear text"),
        ({"target": "localhost.example.org:1", "key": "k"}, "key: would be sent in clear text"),
        ({"target": "ipv4:127.0.0.1:1,10.0.0.1:1", "key": "k"}, "key: would be sent in clear"),
        ({"target": "localhost:1", "key": ""}, "key: must be printable ASCII and not empty"),
        ({"target": "localhost:1", "key": "a\nb"}, "key: must be printable ASCII"),
        ({"target": "localhost:1", "tls": b"no"}, "tls: is not a certificate in PEM format"),
        ({"target": "localhost:1", "options": [("a", 1.5)]}, "options.a: must be a string or a"),
        ({"target": "localhost:1", "options": ["a"]}, "options: must be a mapping or a list of"),
    ],
)
async def test_invalid_arguments_are_rejected(
    make: Callable[..., Any], arguments: dict[str, Any], output: str
) -> None:
    with pytest.raises(ValueError) as caught:
        make(**arguments)
    assert str(caught.value).startswith(output)


def test_a_key_is_sent_in_clear_text_only_if_allowed() -> None:
    connect("example.org:50051", key="k", clear_text=True).close()
    connect("example.org:443", key="k").close()
    connect("dns:///localhost:1", key="k").close()
    connect("[::1]:1", key="k").close()
    connect("unix:/tmp/x", key="k").close()


def test_an_invalid_key_from_a_function_is_rejected_at_the_call(target: str) -> None:
    with connect(target, key=lambda: "") as channel, pytest.raises(ValueError, match="key: must"):
        smg_pb2_grpc.ChatServiceStub(channel).Chat(ASK)


# --- Waiting ---

PENDING = smg_pb2.Worker(id="w", state=smg_pb2.WORKER_STATE_PENDING)
READY = smg_pb2.Worker(id="w", state=smg_pb2.WORKER_STATE_READY)
FAILED = smg_pb2.Worker(
    id="w",
    state=smg_pb2.WORKER_STATE_FAILED,
    error=smg_pb2.Failure(reason="WORKER_UNAVAILABLE", message="nobody listens"),
)
QUEUED = smg_pb2.Response(id="r", status=smg_pb2.RESPONSE_STATUS_QUEUED)
ENDED = smg_pb2.Response(id="r", status=smg_pb2.RESPONSE_STATUS_INCOMPLETE)


async def test_waiting_ends_when_it_is_ready(servicer: Server, target: str) -> None:
    with connect(target) as channel:
        servicer.answers = [PENDING, PENDING, READY]
        assert wait_ready(smg_pb2_grpc.WorkerServiceStub(channel), PENDING) == READY
        servicer.answers = [QUEUED, ENDED]
        assert wait_response(smg_pb2_grpc.ResponseServiceStub(channel), "r") == ENDED
    assert servicer.ids == {"w", "r"}
    servicer.ids.clear()
    async with connect_aio(target) as channel:
        servicer.answers = [PENDING, PENDING, READY]
        assert await wait_ready_aio(smg_pb2_grpc.WorkerServiceStub(channel), "w") == READY
        servicer.answers = [QUEUED, ENDED]
        assert await wait_response_aio(smg_pb2_grpc.ResponseServiceStub(channel), QUEUED) == ENDED
    assert servicer.requested == 10 and servicer.ids == {"w", "r"}


async def test_waiting_for_a_failed_or_deleted_object(servicer: Server, target: str) -> None:
    with connect(target) as channel:
        stub = smg_pb2_grpc.WorkerServiceStub(channel)
        servicer.answers = [PENDING, FAILED]
        with pytest.raises(SmgError, match="worker w failed: nobody listens") as caught:
            wait_ready(stub, "w")
        assert (caught.value.code, caught.value.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "WORKER_UNAVAILABLE",
        )
        servicer.answers = [grpc.StatusCode.NOT_FOUND]
        with pytest.raises(SmgError) as caught:
            wait_ready(stub, "w")
        assert caught.value.code == grpc.StatusCode.NOT_FOUND
    async with connect_aio(target) as channel:
        with pytest.raises(SmgError):
            await wait_response_aio(smg_pb2_grpc.ResponseServiceStub(channel), "r")


async def test_waiting_has_a_time_limit(servicer: Server, target: str) -> None:
    servicer.answers = [PENDING]
    began = time.monotonic()
    late = pytest.raises(TimeoutError, match=r"w is not ready after 0\.3 s")
    with connect(target) as channel, late:
        wait_ready(smg_pb2_grpc.WorkerServiceStub(channel), "w", timeout=0.3)
    between = time.monotonic()
    servicer.answers = [QUEUED]
    async with connect_aio(target) as channel:
        with pytest.raises(TimeoutError):
            await wait_response_aio(smg_pb2_grpc.ResponseServiceStub(channel), "r", timeout=0.3)
    assert between - began > 0.1 < time.monotonic() - between  # with pauses
    assert servicer.requested >= 2


async def test_a_server_that_does_not_answer_is_a_timeout_too(
    servicer: Server, target: str
) -> None:
    ends = threading.Event()
    servicer.answers = [ends]
    try:
        with connect(target) as channel, pytest.raises(TimeoutError):
            wait_ready(smg_pb2_grpc.WorkerServiceStub(channel), "w", timeout=0.3)
        async with connect_aio(target) as channel:
            with pytest.raises(TimeoutError):
                await wait_response_aio(smg_pb2_grpc.ResponseServiceStub(channel), "r", timeout=0.3)
    finally:
        ends.set()


def test_a_server_that_is_too_late_is_a_timeout_too(servicer: Server, target: str) -> None:
    servicer.answers = [grpc.StatusCode.DEADLINE_EXCEEDED]
    with connect(target) as channel, pytest.raises(TimeoutError, match="as told"):
        wait_ready(smg_pb2_grpc.WorkerServiceStub(channel), "w")


def test_the_options_of_a_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers close connections of clients that ping more often than every 300 s."""
    seen: dict[str, Any] = {}
    make = grpc.insecure_channel

    def channel(target: str, options: Any) -> grpc.Channel:
        seen.update(options)
        return make(target, options)

    monkeypatch.setattr(grpc, "insecure_channel", channel)
    connect("127.0.0.1:1", options=[("grpc.max_receive_message_length", 9)]).close()
    del seen["grpc.service_config"]
    assert seen == {
        "grpc.primary_user_agent": f"smg-proto/{smg_proto.__version__}",
        "grpc.max_receive_message_length": 9,
        "grpc.keepalive_time_ms": 330_000,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.enable_http_proxy": 0,
    }


def test_an_address_shows_no_secrets() -> None:
    address = Address("host:1", (("a", "b"),), grpc.ssl_channel_credentials())
    assert repr(address) == "Address(target='host:1')" == repr(Address("host:1"))


def test_other_arguments_of_a_call_are_passed_on() -> None:
    """Nothing listens there: the call waits until its deadline only because it is told to."""
    with connect("unix:/nothing/listens/here", options=[("grpc.enable_retries", 0)]) as channel:
        stub = smg_pb2_grpc.ChatServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Chat(ASK, timeout=0.5, wait_for_ready=True)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_package_lists_the_functions() -> None:
    assert {"connect", "wait_ready"} <= {*dir(smg_proto)}
    with pytest.raises(AttributeError, match="did you mean connect"):
        smg_proto.conect  # type: ignore[attr-defined]  # noqa: B018
