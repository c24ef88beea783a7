"""What travels with a call: metadata, deadlines, cancellation; and what limits it."""

import asyncio
import logging
from contextlib import suppress

import grpc
import pytest
from aiohttp import web
from support import async_eventually

from frontdoor.calls import CONVERSATIONS, REQUESTS, STREAMS, call, failure, stub
from frontdoor.replay import EXCHANGES, Upstream, front_door, sse
from frontdoor.replay import upstream as run_upstream
from smg_proto import smg_pb2 as smg
from smg_proto._http.upstream import Timeouts
from smg_proto.errors import from_rpc_error
from smg_proto.frontdoor._calls import HEADERS_IN

Code = grpc.StatusCode
CHAT = EXCHANGES["chat"]["response"]["body"]
FIRST = sse(EXCHANGES["chat_stream_usage"]["response"]["events"][0])


async def test_only_listed_headers_are_forwarded(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.answer(200, CHAT, x_request_id="r-1", x_smg_routed_worker_id="grpc://w:1")
    sent = {name: f"value of {name}" for name in HEADERS_IN}
    other = {"x-api-key": "no", "cookie": "no", "x-custom": "no"}
    ask = stub(channel, "ChatService.Chat")(
        REQUESTS["ChatService.Chat"], metadata=tuple((sent | other).items())
    )
    reply = await ask
    assert (await ask.initial_metadata())["x-request-id"] == "r-1"
    assert reply.pipeline.worker_url == "grpc://w:1"
    (requested,) = upstream.sent
    arrived = {name.lower(): value for name, value in requested.headers.items()}
    assert {name: arrived[name] for name in sent} == sent
    assert not other.keys() & arrived.keys()


@pytest.mark.parametrize("name", ["ChatService.Chat", "ChatService.StreamChat"])
@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_cancelling_closes_the_request_upstream(
    upstream: Upstream, channel: grpc.aio.Channel, name: str, how: str
) -> None:
    upstream.stream(FIRST, 60.0) if "Stream" in name else upstream.say(_never)
    request = (REQUESTS | STREAMS)[name]
    ask = stub(channel, name)(request, timeout=2 if how == "deadline" else 100)
    if "Stream" in name:
        await ask.read()
    else:
        waiting = asyncio.ensure_future(_result(ask))
        await async_eventually(lambda: upstream.sent, "it has arrived")
    if how == "cancel":
        ask.cancel()
    await async_eventually(lambda: upstream.dropped == 1, "it was closed")
    code = await ask.code()
    assert code is (Code.CANCELLED if how == "cancel" else Code.DEADLINE_EXCEEDED)
    if "Stream" not in name:
        await waiting


async def _never(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def _result(ask: object) -> None:
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await ask  # type: ignore[misc]


async def test_a_slow_reader_stops_the_reading_upstream(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    """It can get ahead of the client by buffers, not by everything."""
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        chunk = EXCHANGES["chat_stream_usage"]["response"]["events"][1][1]
        chunk["choices"][0]["delta"]["content"] = "x" * 10_000
        data = sse([None, chunk])
        while sent < 10_000:  # 100 MB
            await response.write(data)
            sent += 1
        return response

    upstream.say(flood)
    ask = stub(channel, "ChatService.StreamChat")(STREAMS["ChatService.StreamChat"])
    await ask.read()
    seen = -1
    while seen != sent:
        seen = sent
        await asyncio.sleep(0.3)
    assert sent < 5_000
    ask.cancel()
    await async_eventually(lambda: upstream.dropped, "the request upstream is closed")


async def test_calls_beyond_the_limit_are_rejected_with_a_retry_delay() -> None:
    async with run_upstream() as output, front_door(output, max_active=2) as channel:
        output.stream(FIRST, 60.0)
        start = stub(channel, "ChatService.StreamChat")
        held = [start(STREAMS["ChatService.StreamChat"]) for _ in range(2)]
        for ask in held:
            await ask.read()
        found = await failure(channel, "ChatService.Chat")
        assert (found.code, found.reason) == (Code.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert found.retry_after is not None
        held[0].cancel()
        await async_eventually(lambda: output.dropped == 1, "one is gone")
        output.forget()
        output.answer(200, CHAT)
        while True:
            try:
                assert (await call(channel, "ChatService.Chat")).id
                break
            except grpc.aio.AioRpcError as error:  # the front door hears of it a moment later
                assert error.code() is Code.RESOURCE_EXHAUSTED


async def test_a_message_of_64_mib_is_rejected_and_the_next_one_served(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    huge = smg.CompletionRequest(model="m", prompt="x" * (64 << 20))
    found = await failure(channel, "CompletionService.Complete", huge)
    assert found.code is Code.RESOURCE_EXHAUSTED
    assert not upstream.sent
    upstream.replay("completion")
    assert (await call(channel, "CompletionService.Complete")).text


async def test_an_upstream_that_is_too_slow_is_a_timeout() -> None:
    limits = Timeouts(connect=1, request=0.2, idle=0.2)
    async with run_upstream() as output, front_door(output, timeouts=limits) as channel:
        output.say(_never)
        for name in ("ChatService.Chat", "ChatService.StreamChat"):
            found = await failure(channel, name)
            assert (found.code, found.reason) == (Code.DEADLINE_EXCEEDED, "WORKER_TIMEOUT")
        output.forget()
        output.stream(FIRST, 60.0)
        found = await failure(channel, "ChatService.StreamChat")
        assert (found.code, found.reason) == (Code.DEADLINE_EXCEEDED, "WORKER_TIMEOUT")


@pytest.mark.parametrize(
    "http, code, reason",
    [
        (400, Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (401, Code.UNAUTHENTICATED, "UNAUTHENTICATED"),
        (403, Code.PERMISSION_DENIED, "PERMISSION_DENIED"),
        (404, Code.NOT_FOUND, "ROUTE_NOT_FOUND"),
        (408, Code.DEADLINE_EXCEEDED, "WORKER_TIMEOUT"),
        (413, Code.INVALID_ARGUMENT, "REQUEST_TOO_LARGE"),
        (418, Code.INTERNAL, "WORKER_ERROR"),
        (422, Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (424, Code.FAILED_PRECONDITION, "MCP_SERVER_UNAVAILABLE"),
        (429, Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
        (500, Code.INTERNAL, "WORKER_ERROR"),
        (501, Code.UNIMPLEMENTED, "UNSUPPORTED_BY_BACKEND"),
        (502, Code.UNAVAILABLE, "WORKER_UNAVAILABLE"),
        (503, Code.UNAVAILABLE, "WORKER_UNAVAILABLE"),
        (504, Code.DEADLINE_EXCEEDED, "WORKER_TIMEOUT"),
        (302, Code.INTERNAL, "WORKER_ERROR"),
    ],
)
async def test_each_http_status_has_its_grpc_status(
    upstream: Upstream, channel: grpc.aio.Channel, http: int, code: Code, reason: str
) -> None:
    upstream.answer(http, "what went wrong", retry_after="7", location="http://127.0.0.1:9/")
    for name in ("ChatService.Chat", "ChatService.StreamChat"):
        found = await failure(channel, name)
        assert (found.code, found.reason) == (code, reason)
        assert found.message == "what went wrong"
        assert found.metadata["http_status"] == str(http)
        assert found.retry_after is not None and found.retry_after.total_seconds() == 7


async def test_an_unreachable_upstream_is_unavailable() -> None:
    async with front_door(Upstream("http://127.0.0.1:1")) as channel:
        for name in (*REQUESTS, *STREAMS, *CONVERSATIONS):
            if name == "GatewayService.GetGatewayInfo":
                continue  # it tells of the front door all the same
            found = await failure(channel, name)
            assert (found.code, found.reason) == (Code.UNAVAILABLE, "GATEWAY_UNAVAILABLE")


@pytest.mark.parametrize("open_log", [False, True])
async def test_content_is_logged_only_if_requested(
    caplog: pytest.LogCaptureFixture, open_log: bool
) -> None:
    said_by_model = CHAT["choices"][0]["message"]["content"]
    request = smg.ChatRequest(
        model="m", messages=[smg.ChatMessage(role=smg.ROLE_USER, content="a private question")]
    )
    async with run_upstream() as output, front_door(output, log_content=open_log) as channel:
        with caplog.at_level(logging.DEBUG):
            output.answer(200, CHAT)
            output.answer(400, {"error": {"message": "bad: a private question", "code": "x"}})
            ask = stub(channel, "ChatService.Chat")
            await ask(request, metadata=(("authorization", "Bearer sesame"),))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(request, metadata=(("authorization", "Bearer sesame"),))
            assert from_rpc_error(caught.value).code is Code.INVALID_ARGUMENT
            line = "method=ChatService.Chat code=INVALID_ARGUMENT reason=INVALID_REQUEST"
            await async_eventually(lambda: line in caplog.text, "the call is in the log")
    assert "method=ChatService.Chat code=OK" in caplog.text
    assert "sesame" not in caplog.text
    assert ("a private question" in caplog.text) is open_log
    assert (said_by_model in caplog.text) is open_log
