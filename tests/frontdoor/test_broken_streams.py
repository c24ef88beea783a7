"""A stream that is cut, garbled or failed ends with a status: OK only after its own end."""

import grpc
import pytest

from frontdoor.calls import GENERATED, STREAMS, call, failure, stub
from frontdoor.replay import EXCHANGES, Upstream, sse
from smg_proto import smg_pb2 as smg

Code = grpc.StatusCode
RECORDED = {
    "CompletionService.StreamComplete": "completion_stream_usage",
    "ChatService.StreamChat": "chat_stream_usage",
    "MessageService.StreamMessage": "message_stream",
    "ResponseService.StreamResponse": "response_stream",
}
RESPONSE_ID = "resp_01a1f000-0000-7000-8000-000000000001"


def pieces(method: str) -> list[bytes]:
    return [sse(event) for event in EXCHANGES[RECORDED[method]]["response"]["events"]]


@pytest.mark.parametrize("method", GENERATED)
@pytest.mark.parametrize("how", ["ends early", "is cut off", "has half a line"])
async def test_a_stream_without_its_end_is_truncated(
    upstream: Upstream, channel: grpc.aio.Channel, method: str, how: str
) -> None:
    events = pieces(method)
    match how:
        case "has half a line":
            upstream.stream(*events[:-2], events[-2][:20])
        case _:
            upstream.stream(*events[:-2], cut=how == "is cut off")
    upstream.answer(404, {"error": {"message": "gone", "code": "not_found"}})
    found = await failure(channel, method)
    assert (found.code, found.reason) == (Code.UNAVAILABLE, "STREAM_TRUNCATED")
    if how != "is cut off":  # then what came before may be lost
        to_look_up = method == "ResponseService.StreamResponse"
        assert found.metadata == ({"response_id": RESPONSE_ID} if to_look_up else {})


@pytest.mark.parametrize("method", GENERATED)
async def test_a_stream_cut_anywhere_is_never_ok(
    upstream: Upstream, channel: grpc.aio.Channel, method: str
) -> None:
    events = pieces(method)
    finished = 2 if events[-1] == b"data: [DONE]\n\n" else 1
    for end in range(len(events) - finished + 1):
        upstream.forget()
        upstream.stream(*events[:end])
        upstream.answer(404, {"error": {"message": "gone", "code": "not_found"}})
        assert (await failure(channel, method)).reason == "STREAM_TRUNCATED", end


@pytest.mark.parametrize("method", GENERATED)
@pytest.mark.parametrize("garbage", [b"data: {nonsense\n\n", b"data: [1]\n\n", b"data: \xff\n\n"])
async def test_garbage_is_a_failure(
    upstream: Upstream, channel: grpc.aio.Channel, method: str, garbage: bytes
) -> None:
    events = pieces(method)
    upstream.stream(*events[:2], garbage, *events[2:])
    found = await failure(channel, method)
    assert (found.code, found.reason) == (Code.INTERNAL, "WORKER_ERROR")


@pytest.mark.parametrize("method", GENERATED)
async def test_bytes_may_come_one_by_one(
    upstream: Upstream, channel: grpc.aio.Channel, method: str
) -> None:
    upstream.stream(*pieces(method))
    whole = await call(channel, method)
    upstream.forget()
    raw = b"".join(pieces(method)) + b": a comment that keeps the connection alive\n\n"
    upstream.stream(*(raw[place : place + 7] for place in range(0, len(raw), 7)))
    broken = await call(channel, method)
    assert broken[0] == whole[0]
    for events in (whole, broken):
        events[-1].end.ClearField("pipeline")
    assert broken[-1] == whole[-1]


async def test_a_response_that_is_not_a_stream_is_a_failure(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.answer(200, {"choices": []})
    found = await failure(channel, "ChatService.StreamChat")
    assert (found.code, found.reason) == (Code.INTERNAL, "WORKER_ERROR")


@pytest.mark.parametrize(
    "body", ["<html>", "[]", '{"choices": 3}', '{"usage": {"prompt_tokens": "x"}}']
)
async def test_a_response_that_is_not_a_reply_is_a_failure(
    upstream: Upstream, channel: grpc.aio.Channel, body: str
) -> None:
    upstream.answer(200, body, content_type="application/json")
    found = await failure(channel, "ChatService.Chat")
    assert (found.code, found.reason) == (Code.INTERNAL, "WORKER_ERROR")


async def test_deltas_before_a_failure_are_sent(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    failed = {"error": {"message": "Stream error", "type": "stream_error"}}
    events = pieces("ChatService.StreamChat")
    upstream.stream(b"".join([*events[:3], sse([None, failed]), b"data: [DONE]\n\n"]))
    seen: list[smg.ChatEvent] = []
    with pytest.raises(grpc.aio.AioRpcError):
        async for event in stub(channel, "ChatService.StreamChat")(
            STREAMS["ChatService.StreamChat"]
        ):
            seen.append(event)
    assert seen[0].HasField("start")
    assert "".join(event.delta.content for event in seen)


async def test_deltas_that_arrive_together_are_one_message(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    """As happens when the client or the front door is slower than the gateway."""
    upstream.stream(b"".join(pieces("CompletionService.StreamComplete")))
    start, delta, end = await call(channel, "CompletionService.StreamComplete")
    assert start.HasField("start") and end.HasField("end")
    assert delta.delta.text == "one two three four five six seven eight nine ten"


async def test_a_cancelled_response_ends_its_stream(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    upstream.stream(*pieces("ResponseService.StreamResponse")[:4])
    upstream.answer(200, {"id": RESPONSE_ID, "status": "cancelled"})
    events = await call(channel, "ResponseService.StreamResponse")
    assert events[-1].end.status == smg.RESPONSE_STATUS_CANCELLED
    assert upstream.sent[-1].path == f"/v1/responses/{RESPONSE_ID}"
