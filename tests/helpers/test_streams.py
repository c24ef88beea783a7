"""smg_proto.streams: what events add up to, and what is no stream."""

import copy
import pickle
import re
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest
from stream_vectors import StreamVector, stream_vectors

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc
from smg_proto.streams import AsyncStream, Stream, StreamError, collect, collect_aio
from smg_proto.testing import Answer, Call, FakeGateway

HELLO = pb.ChatRequest(
    model="demo-model", messages=[pb.ChatMessage(role=pb.ROLE_USER, content="Hello")], seed=1
)
VECTORS = stream_vectors()
RIGHT = [vector for vector in VECTORS if not vector.error]
WRONG = [vector for vector in VECTORS if vector.error]
A_CHAT = next(vector for vector in VECTORS if vector.name == "a chat").events


def named(vectors: list[StreamVector]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[vector.name for vector in vectors])


async def aio(events: Iterable[pb.ChatEvent]) -> AsyncIterator[pb.ChatEvent]:
    for event in events:
        yield event


# --- Replies, and what is no stream ---


@named(RIGHT)
async def test_events_add_up_to_the_reply(vector: StreamVector) -> None:
    expected = vector.reply.SerializeToString(deterministic=True)
    assert collect(vector.events).SerializeToString(deterministic=True) == expected
    stream: AsyncStream[Any, Any] = AsyncStream(aio(vector.events))
    assert "".join([text async for text in stream.text_deltas]) == vector.text
    assert stream.reply == vector.reply


@named(WRONG)
async def test_an_invalid_stream_is_rejected_with_the_number_of_the_event(
    vector: StreamVector,
) -> None:
    with pytest.raises(StreamError) as caught:
        collect(vector.events)
    assert str(caught.value) == vector.error
    assert str(copy.copy(caught.value)) == str(pickle.loads(pickle.dumps(caught.value)))
    with pytest.raises(StreamError, match=re.escape(vector.error)):
        await collect_aio(aio(vector.events))


def test_there_is_no_reply_before_the_end() -> None:
    stream = Stream(A_CHAT)
    with pytest.raises(StreamError, match="read the stream to its end"):
        _ = stream.reply
    assert next(iter(stream)).HasField("start")
    with pytest.raises(StreamError, match="event 1: the reply is not complete"):
        _ = stream.reply


async def test_the_text_of_a_stream_that_stops_too_early_ends_with_an_error() -> None:
    *cut, _ = A_CHAT
    stream = Stream(cut)
    with pytest.raises(StreamError, match=f"event {len(cut)}: "):
        assert "".join(stream.text_deltas) == "It is 42."
    late = AsyncStream(aio(cut))
    with pytest.raises(StreamError, match=f"event {len(cut)}: "):
        _ = [text async for text in late.text_deltas]


def test_completions_keep_log_probabilities_and_token_ids() -> None:
    logprobs = [[pb.TokenLogprob(token=word, logprob=-0.5)] for word in ("It", " is")]
    stream = Stream(
        [
            pb.CompletionEvent(start=pb.CompletionResponse(id="c")),
            pb.CompletionEvent(
                delta=pb.CompletionDelta(text="It", logprobs=logprobs[0], token_ids=[7])
            ),
            pb.CompletionEvent(
                delta=pb.CompletionDelta(text=" is", logprobs=logprobs[1], token_ids=[8, 9])
            ),
            pb.CompletionEvent(end=pb.CompletionResponse(finish_reason="length", token_ids=[7])),
        ]
    )
    assert "".join(stream.text_deltas) == "It is"
    assert [each.token for each in stream.reply.logprobs] == ["It", " is"]
    assert stream.reply.token_ids == [7, 8, 9]


# --- Reading ---


def test_a_second_loop_continues_the_stream() -> None:
    stream = Stream(A_CHAT)
    for event in stream:
        if event.delta.content == "It is ":
            break
    assert [*stream.text_deltas] == ["42."]
    assert stream.reply.choices[0].message.content == "It is 42."
    assert [*stream] == []


def test_over_a_server(channel: grpc.Channel, gateway: FakeGateway) -> None:
    gateway.script.add(Answer("Let me see.", calls=[Call("f", '{"a": 1}')]))
    request = copy.deepcopy(HELLO)
    request.tools.add().function.name = "f"
    with Stream(smg_pb2_grpc.ChatServiceStub(channel).StreamChat(request)) as stream:
        assert "".join(stream.text_deltas).strip() == "Let me see."
        (call,) = stream.reply.choices[0].message.tool_calls
        assert (call.name, call.arguments) == ("f", '{"a":1}')


def test_leaving_the_block_cancels_the_call(channel: grpc.Channel, gateway: FakeGateway) -> None:
    gateway.token_delay = 0.2
    call = smg_pb2_grpc.ChatServiceStub(channel).StreamChat(HELLO)
    with Stream(call) as stream:
        next(iter(stream))
    assert call.cancelled()  # type: ignore[attr-defined]


async def test_the_same_with_asyncio(
    running_gateway: tuple[str, grpc.Channel], gateway: FakeGateway
) -> None:
    async with grpc.aio.insecure_channel(running_gateway[0]) as channel:
        stub: smg_pb2_grpc.ChatServiceAsyncStub = smg_pb2_grpc.ChatServiceStub(channel)
        whole = await collect_aio(stub.StreamChat(HELLO))
        async with AsyncStream(stub.StreamChat(HELLO)) as stream:
            text = "".join([piece async for piece in stream.text_deltas])
        assert text == stream.reply.choices[0].message.content
        assert text == whole.choices[0].message.content != ""
        gateway.token_delay = 0.2
        call = stub.StreamChat(HELLO)
        async with AsyncStream(call) as stream:
            async for _ in stream:
                break
        assert await call.code() == grpc.StatusCode.CANCELLED


async def test_a_second_loop_of_asyncio_continues_the_stream() -> None:
    stream = AsyncStream(aio(A_CHAT))
    async for event in stream:
        if event.delta.content:
            break
    assert [text async for text in stream.text_deltas] == ["42."]
