"""Clients that send what they should not: named, counted, logged in one line, and no one else's."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import grpc
import pytest
from aiohttp import web
from support import async_eventually

from frontdoor import raw_http2
from frontdoor.calls import REQUESTS, STREAMS, call, failure, stub
from frontdoor.replay import EXCHANGES, Upstream, sse
from smg_proto import smg_pb2 as smg
from smg_proto.errors import from_rpc_error
from smg_proto.frontdoor import FrontDoor, Options
from smg_proto.frontdoor._calls import HEADERS_IN

Code = grpc.StatusCode
CHAT = EXCHANGES["chat"]["response"]["body"]
FIRST = sse(EXCHANGES["chat_stream_usage"]["response"]["events"][1])


@asynccontextmanager
async def door_before(upstream: Upstream, **options: Any) -> AsyncIterator[FrontDoor]:
    settings = Options(upstream=upstream.url, listen="127.0.0.1:0", wait=None, **options)
    upstream.probe = True
    async with FrontDoor(settings) as door:
        yield door


def channel_to(door: FrontDoor) -> grpc.aio.Channel:
    options = [("grpc.enable_http_proxy", 0)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{door.port}", options=options)


def counted(door: FrontDoor) -> dict[str, int]:
    """The RPCs that have ended, by method and code."""
    prefix = "smg_proto_requests_total"
    lines = [line for line in door.metrics.text().splitlines() if line.startswith(prefix)]
    pairs = (line.removeprefix(prefix).rpartition(" ") for line in lines)
    return {labels: int(number) for labels, _, number in pairs}


def ended(method: str, code: Code) -> str:
    return f'{{method="{method}",code="{code.name}"}}'


def our_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All that is in the log, but what gRPC and asyncio tell of themselves for debugging."""
    return [r.getMessage() for r in caplog.records if r.levelno > logging.DEBUG]


# --- Requests that are none ---

METHODS = [*REQUESTS, *STREAMS]


@pytest.mark.parametrize("name", METHODS)
async def test_invalid_messages_are_rejected_counted_and_logged_in_one_line(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    service, _, method = name.partition(".")
    async with door_before(upstream) as door, channel_to(door) as channel:
        make = channel.unary_stream if name in STREAMS else channel.unary_unary
        ask: Any = make(f"/smg.v1.{service}/{method}")
        caplog.clear()
        with caplog.at_level(logging.INFO), pytest.raises(grpc.aio.AioRpcError) as caught:
            if name in STREAMS:
                [event async for event in ask(b"\x0aprivate text")]
            else:
                await ask(b"\x0aprivate text")
        found = from_rpc_error(caught.value)
        assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, "INVALID_REQUEST")
        (violation,) = found.field_violations
        assert violation.field.startswith("smg.v1.")
        assert violation.description == "cannot be parsed"
        key = ended(name, Code.INVALID_ARGUMENT)
        await async_eventually(lambda: counted(door) == {key: 1}, "it is counted")
        (line,) = our_lines(caplog)
        assert f"method={name} code=INVALID_ARGUMENT" in line
        assert "private" not in caplog.text
    assert not upstream.sent


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"a\0b", b"\x1b[31m", b"a\tb", b"\xff"])
@pytest.mark.parametrize("key", [b"x-request-id", b"authorization"])
async def test_invalid_metadata_is_rejected_counted_and_not_sent(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, key: bytes, value: bytes
) -> None:
    upstream.answer(200, CHAT)
    message = REQUESTS["ChatService.Chat"].SerializeToString()
    path = "/smg.v1.ChatService/Chat"
    async with door_before(upstream) as door:
        with caplog.at_level(logging.INFO):
            await asyncio.wait_for(raw_http2.call(door.port, path, message, [(key, value)]), 60)
            assert counted(door) == {ended("ChatService.Chat", Code.INVALID_ARGUMENT): 1}
            assert not upstream.sent
            (line,) = [line for line in our_lines(caplog) if "smg.v1" in line or "rpc" in line]
            assert "method=ChatService.Chat code=INVALID_ARGUMENT" in line
        await asyncio.wait_for(raw_http2.call(door.port, path, message, [(key, b"fine")]), 60)
        assert len(upstream.sent) == 1


def test_every_header_is_checked() -> None:
    from smg_proto.errors import SmgError
    from smg_proto.frontdoor._calls import Call

    class Context:
        def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
            self._metadata = metadata

        def invocation_metadata(self) -> Any:
            return self._metadata

    anything: Any = None
    for name in HEADERS_IN:
        for value in ("a\nb", "a\rb", "a\0b", "\x1b", "\x7f", "caf\xe9", "\ud800", b"bytes"):
            with pytest.raises(SmgError) as caught:
                Call(anything, anything, Context((name, value)), limits=anything, once=anything)
            assert caught.value.code is Code.INVALID_ARGUMENT
            assert [v.field for v in caught.value.field_violations] == [f"metadata.{name}"]
    # It goes nowhere.
    Call(anything, anything, Context(("x-other", "a\nb")), limits=anything, once=anything)


# --- Ids ---

BY_ID: dict[str, Any] = {
    "ResponseService.GetResponse": lambda id: smg.GetResponseRequest(id=id),
    "ResponseService.CancelResponse": lambda id: smg.CancelResponseRequest(id=id),
    "ResponseService.DeleteResponse": lambda id: smg.DeleteResponseRequest(id=id),
    "ResponseService.ListResponseInputItems": lambda id: smg.ListResponseInputItemsRequest(id=id),
    "ModelService.GetModel": lambda id: smg.GetModelRequest(id=id),
    "WorkerService.GetWorker": lambda id: smg.GetWorkerRequest(id=id),
    "WorkerService.DeleteWorker": lambda id: smg.DeleteWorkerRequest(id=id),
    "WorkerService.UpdateWorker": lambda id: smg.UpdateWorkerRequest(id=id, priority=1),
}
IDS = ["a/../../b", "a/b", "a?b=c", "a#b", "%2e%2e", "a b", "a\r\nb", "a\0b", "//host", "é", "a;b"]


@pytest.mark.parametrize("name", BY_ID)
async def test_an_id_is_one_segment_of_the_path(
    upstream: Upstream, channel: grpc.aio.Channel, name: str
) -> None:
    for id in IDS:
        upstream.forget()
        upstream.answer(404, {"error": {"message": "no", "code": "not_found"}})
        assert (await failure(channel, name, BY_ID[name](id))).code is Code.NOT_FOUND
        path, _, query = upstream.sent[0].path.partition("?")
        segments = path.removeprefix("/v1").removesuffix("/cancel").removesuffix("/input_items")
        _, _, last = segments.lstrip("/").partition("/")
        assert "/" not in last and unquote(last) == id
        assert query in ("", "order=asc")


@pytest.mark.parametrize("name", BY_ID)
@pytest.mark.parametrize("id", ["", ".", ".."])
async def test_an_id_that_is_not_a_segment_is_rejected(
    upstream: Upstream, channel: grpc.aio.Channel, name: str, id: str
) -> None:
    found = await failure(channel, name, BY_ID[name](id))
    assert (found.code, [v.field for v in found.field_violations]) == (
        Code.INVALID_ARGUMENT,
        ["id"],
    )
    assert not upstream.sent


async def test_an_item_s_id_is_rejected_by_its_name(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    for name in ("GetConversationItem", "DeleteConversationItem"):
        request = getattr(smg, f"{name}Request")(id="c", item_id="..")
        found = await failure(channel, f"ConversationService.{name}", request)
        assert [v.field for v in found.field_violations] == ["item_id"]
    assert not upstream.sent


# --- Clients that leave ---


async def flood(request: web.Request) -> web.StreamResponse:
    """More than any buffer holds."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    piece = FIRST.replace(b'"content": "', b'"content": "' + b"x" * 100_000)
    assert len(piece) > 100_000
    while True:
        await response.write(piece)


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_slow_reader_that_cancels_is_not_an_internal_error(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    upstream.say(flood)
    code = Code.CANCELLED if how == "cancel" else Code.DEADLINE_EXCEEDED
    async with door_before(upstream) as door, channel_to(door) as channel:
        with caplog.at_level(logging.INFO):
            calls = [
                stub(channel, "ChatService.StreamChat")(
                    STREAMS["ChatService.StreamChat"], timeout=5 if how == "deadline" else None
                )
                for _ in range(4)
            ]
            for ask in calls:
                await ask.read()
            await asyncio.sleep(0.5)  # the front door waits until they read on
            for ask in calls:
                if how == "cancel":
                    ask.cancel()
            key = ended("ChatService.StreamChat", code)
            await async_eventually(lambda: counted(door) == {key: 4}, f"all are {code.name}")
        assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
    await async_eventually(lambda: upstream.dropped == 4, "nothing goes on upstream")


@pytest.mark.parametrize("name", ["ChatService.Chat", "ChatService.StreamChat"])
@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_cancelled_call_is_counted_with_its_status(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, name: str, how: str
) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    upstream.say(never)
    code = Code.CANCELLED if how == "cancel" else Code.DEADLINE_EXCEEDED
    async with door_before(upstream) as door, channel_to(door) as channel:
        with caplog.at_level(logging.INFO):
            request = (REQUESTS | STREAMS)[name]
            ask = stub(channel, name)(request, timeout=1 if how == "deadline" else None)
            await async_eventually(lambda: upstream.sent, "it has arrived")
            if how == "cancel":
                ask.cancel()
            assert await ask.code() is code
            await async_eventually(lambda: counted(door) == {ended(name, code): 1}, "it is counted")
        assert f"method={name} code={code.name} " in caplog.text


# --- One client and the other ---


async def test_cookies_of_the_gateway_are_not_stored(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.answer(200, CHAT, set_cookie="session=of-client-a; Path=/")
    await call(channel, "ChatService.Chat")
    await call(channel, "ChatService.Chat")
    assert not any("Cookie" in sent.headers for sent in upstream.sent)


async def test_keys_and_headers_of_one_call_are_not_in_the_next(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.answer(200, CHAT)
    ask = stub(channel, "ChatService.Chat")
    names = [name for name in HEADERS_IN if name != "traceparent"]
    await ask(REQUESTS["ChatService.Chat"], metadata=[(name, "of client a") for name in names])
    await ask(REQUESTS["ChatService.Chat"])
    first, second = ({key.lower() for key in sent.headers} for sent in upstream.sent)
    assert {*names} <= first
    assert not {*names} & second


async def test_proxies_of_the_environment_are_not_used(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client sends goes to the gateway that was named, and nowhere else."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    upstream.answer(200, CHAT)
    async with door_before(upstream) as door, channel_to(door) as channel:
        assert (await call(channel, "ChatService.Chat")).choices


async def test_health_is_not_serving_before_the_drain(upstream: Upstream) -> None:
    """So that balancers send nothing new, while what is in flight may end."""
    from grpc_health.v1 import health_pb2

    events = [sse(event) for event in EXCHANGES["chat_stream_usage"]["response"]["events"]]
    go_on = asyncio.Event()

    async def held(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(events[0])
        await go_on.wait()
        await response.write(b"".join(events[1:]))
        return response

    async with door_before(upstream) as door, channel_to(door) as channel:
        upstream.say(held)
        ask = stub(channel, "ChatService.StreamChat")(STREAMS["ChatService.StreamChat"])
        await ask.read()
        watch: Any = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest(service="smg.v1.ChatService"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(door.stop(60))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not stopping.done()
        go_on.set()
        last: Any = None
        while (event := await ask.read()) is not grpc.aio.EOF:
            last = event
        assert last.HasField("end")
        await stopping
