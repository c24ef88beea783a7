"""What lists, keys, watches, partial batches, sounds and sessions do when all is not well."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from aiohttp import WSMsgType, web

from frontdoor.calls import REQUESTS, call, failure, stub
from frontdoor.replay import EXCHANGES, Upstream
from smg_proto import smg_pb2 as smg
from smg_proto.frontdoor import _admin

Code = grpc.StatusCode
RESPONSE = EXCHANGES["response"]["response"]["body"]
WORKERS = EXCHANGES["workers"]["response"]["body"]


# --- What is refused, by name, before anything is sent ---


def chat(**fields: Any) -> smg.ChatRequest:
    request = smg.ChatRequest()
    request.CopyFrom(REQUESTS["ChatService.Chat"])
    request.MergeFrom(smg.ChatRequest(**fields))
    return request


def schema(text: str) -> smg.OutputFormat:
    return smg.OutputFormat(json_schema=smg.JsonSchema(schema_json=text))


BOTH = smg.ChatMessage(role=smg.ROLE_USER, content="a", parts=[smg.ContentPart(text="b")])
REFUSED: dict[str, tuple[str, Any]] = {
    "messages[1].parts": ("ChatService.Chat", chat(messages=[BOTH])),
    "output_format.json_schema.schema_json": (
        "ChatService.Chat",
        chat(output_format=schema("")),
    ),
    "extra_body_json (temperature)": (
        "ChatService.Chat",
        chat(extra_body_json='{"temperature": 1}'),
    ),
    "extra_body_json": ("ChatService.Chat", chat(extra_body_json="[1]")),
    "page_size": ("WorkerService.ListWorkers", smg.ListWorkersRequest(page_size=-1)),
    "api_key": ("WorkerService.UpdateWorker", smg.UpdateWorkerRequest(id="a", remove_labels=["x"])),
    "idempotency_key": (
        "WorkerService.CreateWorker",
        smg.CreateWorkerRequest(spec=smg.WorkerSpec(url="grpc://a:1"), idempotency_key="k" * 257),
    ),
}


@pytest.mark.parametrize("field", REFUSED)
async def test_an_invalid_request_is_rejected_by_name(
    field: str, upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    name, request = REFUSED[field]
    upstream.answer(200, {"workers": []})
    error = await failure(channel, name, request)
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "INVALID_REQUEST")
    (violation,) = error.field_violations
    assert violation.field == field.partition(" ")[0]
    assert "(" not in field or field.partition("(")[2].strip(")") in violation.description
    assert [sent for sent in upstream.sent if sent.method != "GET"] == []


@pytest.mark.parametrize("token", ["x", "-1", "99", "1" * 30, "\u0661"])
async def test_a_page_token_of_another_list_is_rejected(
    token: str, upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.answer(200, WORKERS)
    request = smg.ListWorkersRequest(page_token=token)
    error = await failure(channel, "WorkerService.ListWorkers", request)
    assert [violation.field for violation in error.field_violations] == ["page_token"]


@pytest.mark.parametrize("name", ["AudioService.Transcribe", "AudioService.StreamTranscribe"])
async def test_audio_that_is_too_large_is_named(
    name: str, upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.answer(413, {"error": {"message": "too large"}})
    error = await failure(channel, name)
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")
    assert [violation.field for violation in error.field_violations] == ["audio"]


# --- Idempotency keys ---


async def test_a_repeated_request_gets_the_first_reply(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    create = stub(channel, "ResponseService.CreateResponse")
    upstream.answer(200, {**RESPONSE, "id": "resp_a"})
    upstream.answer(200, {**RESPONSE, "id": "resp_b"})

    def request(key: str) -> smg.CreateResponseRequest:
        return smg.CreateResponseRequest(model="m", input="a", idempotency_key=key)

    first, again = await asyncio.gather(create(request("k")), create(request("k")))
    assert first.id == again.id == "resp_a"
    assert len(upstream.sent) == 1
    # Another key, another caller and no key are other requests.
    assert (await create(request("other"))).id == "resp_b"
    await create(request("k"), metadata=[("authorization", "Bearer x")])
    await create(request(""))
    assert len(upstream.sent) == 4


async def test_a_failure_is_not_remembered(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    request = smg.CreateResponseRequest(model="m", input="a", idempotency_key="k")
    upstream.answer(503, {"error": {"message": "later"}})
    upstream.answer(200, RESPONSE)
    error = await failure(channel, "ResponseService.CreateResponse", request)
    assert error.code is Code.UNAVAILABLE
    assert (await call(channel, "ResponseService.CreateResponse", request)).id == RESPONSE["id"]


# --- Batches ---


@pytest.mark.parametrize("rpc", ["Embed", "Classify"])
async def test_failed_inputs_are_reported_with_the_other_results(
    rpc: str, upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    kind = "embedding" if rpc == "Embed" else "classify"
    good = EXCHANGES[kind]["response"]["body"]

    async def answer(_: web.Request) -> web.Response:
        if upstream.sent[-1].body["input"].startswith("bad"):
            return web.json_response({"error": {"message": "no"}}, status=400)
        return web.json_response(good)

    upstream.say(answer)
    request = type(REQUESTS[f"EmbeddingService.{rpc}"])(model="m", allow_partial=True)
    for text in ("a", "bad", "b"):
        request.inputs.add(text=text)
    reply = await call(channel, f"EmbeddingService.{rpc}", request)
    results = reply.embeddings if rpc == "Embed" else reply.results
    assert [result.error.reason for result in results] == ["", "INVALID_REQUEST", ""]
    assert [result.HasField("error") for result in results] == [False, True, False]
    assert reply.usage.prompt_tokens == 2 * good["usage"]["prompt_tokens"]

    for only in (["bad"], ["bad", "bad too"]):
        del request.inputs[:]
        for text in only:
            request.inputs.add(text=text)
        error = await failure(channel, f"EmbeddingService.{rpc}", request)
        assert error.code is Code.INVALID_ARGUMENT
    request.allow_partial = False
    request.inputs.add(text="a")
    assert (await failure(channel, f"EmbeddingService.{rpc}", request)).message == "no"


# --- Watches ---


async def test_workers_are_watched(
    upstream: Upstream, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_admin, "_WATCH_SECONDS", 0.01)
    (one,) = WORKERS["workers"]
    for workers in (
        [one],
        [{**one, "load": 7}],  # no news
        [{**one, "status": "not_ready"}, {**one, "id": "w2", "url": "grpc://other:1"}],
        [{**one, "status": "not_ready"}],
    ):
        upstream.answer(200, {"workers": workers})
    watch = stub(channel, "WorkerService.WatchWorkers")(smg.WatchWorkersRequest())
    found: list[Any] = []
    async for event in watch:
        found.append(event)
        if event.HasField("removed_id"):
            break
    watch.cancel()
    kinds = [event.WhichOneof("event") for event in found]
    assert kinds == ["worker", "ready", "worker", "worker", "removed_id"]
    assert found[0].worker.state == smg.WORKER_STATE_READY
    assert found[2].worker.state == smg.WORKER_STATE_NOT_READY
    assert found[3].worker.id == found[4].removed_id == "w2"


async def test_a_watch_is_unavailable_when_the_gateway_stops(
    upstream: Upstream, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_admin, "_WATCH_SECONDS", 0.01)
    upstream.answer(200, WORKERS)
    upstream.answer(503, {"error": {"message": "gone"}})
    watch = stub(channel, "WorkerService.WatchWorkers")(smg.WatchWorkersRequest())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in watch:
            pass
    assert caught.value.code() is Code.UNAVAILABLE


# --- Sessions ---

CONNECT = smg.RealtimeClientEvent(connect=smg.RealtimeConnect(model="m"))


def event(text: str) -> smg.RealtimeClientEvent:
    return smg.RealtimeClientEvent(event_json=text)


SESSIONS: dict[str, tuple[list[Any], str]] = {
    "no connect": ([event('{"type":"a"}')], "connect"),
    "no model": ([smg.RealtimeClientEvent(connect=smg.RealtimeConnect())], "connect.model"),
    "two connects": ([CONNECT, CONNECT], "event[1].connect"),
    "no JSON": ([CONNECT, event("{")], "event[1].event_json"),
    "no type": ([CONNECT, event("{}")], "event[1].event_json"),
    "nothing": ([CONNECT, smg.RealtimeClientEvent()], "event[1]"),
}


@pytest.mark.parametrize("name", SESSIONS)
async def test_an_invalid_event_ends_the_session_and_is_named(
    name: str, upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    events, field = SESSIONS[name]
    upstream.converse()
    error = await failure(channel, "RealtimeService.Converse", events)
    assert error.code is Code.INVALID_ARGUMENT
    assert [violation.field for violation in error.field_violations] == [field]


async def session(upstream: Upstream, channel: grpc.aio.Channel, ending: Any) -> Any:
    """How a session ends that the gateway ends in this way, after one event."""

    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "session.created"})
        await ending(request, socket)
        return socket

    upstream.say(handler)
    return await failure(channel, "RealtimeService.Converse", [CONNECT])


async def test_a_session_that_breaks_is_truncated(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    async def closes(_: web.Request, socket: web.WebSocketResponse) -> None:
        await socket.close(code=1011)

    async def breaks(request: web.Request, _: web.WebSocketResponse) -> None:
        assert request.transport
        request.transport.abort()

    for ending in (closes, breaks):
        upstream.forget()
        error = await session(upstream, channel, ending)
        assert (error.code, error.reason) == (Code.UNAVAILABLE, "STREAM_TRUNCATED")


async def test_an_invalid_event_of_the_gateway_fails_the_session(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    async def binary(_: web.Request, socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(b"\0")

    def sends(text: str) -> Any:
        async def send(_: web.Request, socket: web.WebSocketResponse) -> None:
            await socket.send_str(text)

        return send

    for ending in (binary, *map(sends, ("garbage", "[]", '{"x": 1}', '{"type": 1}'))):
        upstream.forget()
        error = await session(upstream, channel, ending)
        assert (error.code, error.reason) == (Code.INTERNAL, "WORKER_ERROR")


@pytest.mark.parametrize(("status", "reason"), [(401, "UNAUTHENTICATED"), (404, "ROUTE_NOT_FOUND")])
async def test_a_rejected_session_has_the_reason(
    status: int, reason: str, upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.answer(status, {"error": {"message": "no"}})
    error = await failure(channel, "RealtimeService.Converse", [CONNECT])
    assert error.reason == reason


async def test_a_client_that_cancels_ends_the_session(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    closed = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "session.created"})
        frame = await socket.receive()
        assert frame.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING)
        closed.set()
        return socket

    async def output() -> AsyncIterator[Any]:
        yield CONNECT
        await asyncio.Event().wait()

    upstream.say(handler)
    talk = stub(channel, "RealtimeService.Converse")(output())
    assert (await talk.read()).type == "session.created"
    talk.cancel()
    await asyncio.wait_for(closed.wait(), 30)
