"""smg_proto.streams: what events add up to, and what is no stream."""

import copy
import pickle
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc
import pytest

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc
from smg_proto.streams import AsyncStream, Stream, StreamError, collect, collect_aio
from smg_proto.testing import Answer, Call, FakeGateway

HELLO = pb.ChatRequest(
    model="demo-model", messages=[pb.ChatMessage(role=pb.ROLE_USER, content="Hello")], seed=1
)


def chat(*events: pb.ChatDelta | pb.ChatChoice, choices: int = 1) -> list[pb.ChatEvent]:
    """A stream of these, between start and end."""
    made = [
        pb.ChatEvent(delta=event)
        if isinstance(event, pb.ChatDelta)
        else pb.ChatEvent(choice_end=event)
        for event in events
    ]
    ends = [pb.ChatChoice(index=index, finish_reason="stop") for index in range(choices)]
    end = pb.ChatResponse(id="c", choices=ends, usage=pb.Usage(total_tokens=3))
    return [
        pb.ChatEvent(start=pb.ChatResponse(id="c", model="m")),
        *made,
        pb.ChatEvent(end=end),
    ]


def response(*events: pb.ResponseEvent) -> list[pb.ResponseEvent]:
    start = pb.Response(id="r", status=pb.RESPONSE_STATUS_IN_PROGRESS)
    end = pb.Response(id="r", status=pb.RESPONSE_STATUS_CANCELLED)
    return [pb.ResponseEvent(start=start), *events, pb.ResponseEvent(end=end)]


def message(*events: pb.MessageEvent) -> list[pb.MessageEvent]:
    end = pb.MessageResponse(id="m", finish_reason="stop")
    return [
        pb.MessageEvent(start=pb.MessageResponse(id="m", model="demo-model")),
        *events,
        pb.MessageEvent(end=end),
    ]


def begin(index: int, **block: Any) -> pb.MessageEvent:
    return pb.MessageEvent(block_start=pb.BlockStart(index=index, block=pb.MessageBlock(**block)))


def more(index: int, **delta: Any) -> pb.MessageEvent:
    return pb.MessageEvent(delta=pb.MessageDelta(index=index, **delta))


def over(index: int) -> pb.MessageEvent:
    return pb.MessageEvent(block_end=pb.BlockEnd(index=index))


# --- Replies ---


def test_choices_that_interleave_and_one_that_nobody_ends() -> None:
    reply = collect(
        chat(
            pb.ChatDelta(index=2, content="c"),
            pb.ChatDelta(index=0, content="a"),
            pb.ChatDelta(index=2, content="C", token_ids=[7]),
            pb.ChatChoice(index=2, finish_reason="length"),
            pb.ChatDelta(index=0, reasoning_content="hm", refusal="no"),
            choices=1,
        )
    )
    assert (reply.id, reply.model, reply.usage.total_tokens) == ("c", "m", 3)
    first, third = reply.choices
    assert (first.index, first.finish_reason, first.message.content) == (0, "stop", "a")
    assert (first.message.reasoning_content, first.message.refusal) == ("hm", "no")
    assert (third.index, third.finish_reason, third.message.content) == (2, "length", "cC")
    assert [*third.token_ids] == [7]
    assert first.message.role == third.message.role == pb.ROLE_ASSISTANT


def test_pieces_of_calls_join_by_their_index() -> None:
    def piece(**fields: Any) -> pb.ChatDelta:
        return pb.ChatDelta(tool_calls=[pb.ToolCallDelta(**fields)])

    (choice,) = collect(
        chat(
            piece(index=1, id="b", name="second"),
            piece(index=0, id="a", name="first", arguments="{"),
            piece(index=1, arguments='{"x":'),
            piece(index=0, arguments="}", complete=True),
            piece(index=1, arguments="1}"),
        )
    ).choices
    calls = [(call.id, call.name, call.arguments) for call in choice.message.tool_calls]
    assert calls == [("a", "first", "{}"), ("b", "second", '{"x":1}')]


def test_what_no_delta_can_carry_comes_with_the_end() -> None:
    events = chat(pb.ChatDelta(content="listen"))
    events[-1].end.choices[0].message.audio.data = b"sound"
    (choice,) = collect(events).choices
    assert (choice.message.content, choice.message.audio.data) == ("listen", b"sound")


def test_completions_have_choices_only_if_several_were_asked_for() -> None:
    def events(*choices: pb.CompletionChoice) -> list[pb.CompletionEvent]:
        end = pb.CompletionResponse(finish_reason="stop", choices=choices)
        pieces = [(0, "a"), (1, "b"), (0, "A")] if choices else [(0, "a"), (0, "A")]
        deltas = [pb.CompletionDelta(index=i, text=t, token_ids=[i]) for i, t in pieces]
        return [
            pb.CompletionEvent(start=pb.CompletionResponse(id="t")),
            *(pb.CompletionEvent(delta=delta) for delta in deltas),
            pb.CompletionEvent(end=end),
        ]

    one = collect(events())
    assert (one.text, [*one.token_ids], len(one.choices)) == ("aA", [0, 0], 0)
    both = collect(events(pb.CompletionChoice(index=0), pb.CompletionChoice(index=1)))
    assert both.text == "aA"
    assert [(choice.index, choice.text) for choice in both.choices] == [(0, "aA"), (1, "b")]


def test_blocks_that_interleave() -> None:
    reply = collect(
        message(
            begin(0, reasoning=pb.Reasoning()),
            begin(2, tool_call=pb.ToolCall(id="t", name="f")),
            more(0, reasoning="Six "),
            more(2, arguments='{"a"'),
            more(0, reasoning="times."),
            more(0, signature="signed"),
            over(0),
            more(2, arguments=":1}"),
            over(2),
            begin(1, text=""),
            more(1, text="It is "),
            more(1, annotation=pb.Annotation(type="url", url="u")),
            more(1, text="42."),
            over(1),
        )
    )
    thought, text, call = reply.blocks
    assert (thought.reasoning.text, thought.reasoning.signature) == ("Six times.", "signed")
    assert (text.text, text.annotations[0].url) == ("It is 42.", "u")
    assert (call.tool_call.name, call.tool_call.arguments) == ("f", '{"a":1}')
    assert reply.model == "demo-model"


def test_opaque_blocks_and_unknown_kinds_come_through() -> None:
    strange = pb.MessageBlock.FromString(b"\xf2\x7f\x03new")  # field 2046, of a later release
    events = message(
        begin(0, opaque=pb.Opaque(type="x", json="{}")),
        pb.MessageEvent(),
        pb.MessageEvent(block_start=pb.BlockStart(index=1, block=strange)),
        pb.MessageEvent(delta=pb.MessageDelta.FromString(b"\x08\x01\xf2\x7f\x01n")),
    )
    first, second = collect(events).blocks
    assert first.opaque.type == "x"
    assert second.SerializeToString() == strange.SerializeToString()


def test_a_cancelled_response_has_what_its_items_had() -> None:
    def delta(index: int, content_index: int = 0, **fields: Any) -> pb.ResponseEvent:
        fields = {"output_index": index, "content_index": content_index, **fields}
        return pb.ResponseEvent(delta=pb.ResponseDelta(**fields))

    def item(name: str, index: int, **fields: Any) -> pb.ResponseEvent:
        event = pb.ResponseEvent()
        at = event.item_end if name == "item_end" else event.item_start
        at.output_index = index
        at.item.CopyFrom(pb.ResponseItem(**fields))
        return event

    far = 2**31 - 1  # a position that no server means costs nothing
    reply = collect(
        response(
            item("item_start", 0, reasoning=pb.Reasoning()),
            delta(0, reasoning="hm"),
            delta(0, 1, reasoning_summary="short"),
            item("item_end", 1, id="whole", tool_call=pb.ToolCall(name="f", output="4")),
            item("item_start", 2, id="cut", message=pb.ItemMessage(role=pb.ROLE_ASSISTANT)),
            delta(2, text="It "),
            delta(2, text="is"),
            delta(2, far, refusal="no"),
            delta(2, annotation=pb.Annotation(url="u")),
            item("item_start", 3, tool_call=pb.ToolCall(name="g")),
            delta(3, arguments="{"),
        )
    )
    thought, whole, cut, call = reply.output
    assert reply.status == pb.RESPONSE_STATUS_CANCELLED
    assert (thought.reasoning.text, [*thought.reasoning.summary]) == ("hm", ["short"])
    assert (whole.id, whole.tool_call.output) == ("whole", "4")
    text, refusal = cut.message.parts
    assert (text.text, text.annotations[0].url, refusal.refusal) == ("It is", "u", "no")
    assert (call.tool_call.name, call.tool_call.arguments) == ("g", "{")


# --- What is no stream ---

START = pb.ChatEvent(start=pb.ChatResponse())
DELTA = pb.ChatEvent(delta=pb.ChatDelta(content="a"))
END = pb.ChatEvent(end=pb.ChatResponse())


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], "event 0: the stream stopped before its end"),
        ([START, DELTA], "event 2: the stream stopped before its end"),
        ([DELTA], "event 1: delta before start"),
        ([END], "event 1: end before start"),
        ([START, START], "event 2: a second start"),
        ([START, END, END], "event 3: end after end"),
        ([START, END, DELTA], "event 3: delta after end"),
    ],
)
def test_events_out_of_order_are_refused_by_number(events: list[pb.ChatEvent], said: str) -> None:
    with pytest.raises(StreamError) as caught:
        collect(events)
    assert str(caught.value) == said
    assert str(copy.copy(caught.value)) == str(pickle.loads(pickle.dumps(caught.value))) == said


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([more(0, text="a")], "event 2: delta of block 0, which has not started"),
        ([over(3)], "event 2: block_end of block 3, which has not started"),
        (
            [begin(0, text=""), over(0), more(0, text="a")],
            "event 4: delta of block 0, which has ended",
        ),
        ([begin(0, text=""), begin(0, text="")], "event 3: block 0 starts twice"),
        (
            [begin(0, tool_call=pb.ToolCall()), more(0, text="a")],
            "event 3: text of block 0, which is tool_call",
        ),
    ],
)
def test_blocks_that_cannot_be_are_refused_by_number(
    events: Sequence[pb.MessageEvent], said: str
) -> None:
    with pytest.raises(StreamError) as caught:
        collect(message(*events))
    assert str(caught.value) == said


def test_items_that_cannot_be_are_refused_by_number() -> None:
    delta = pb.ResponseEvent(delta=pb.ResponseDelta(output_index=4, text="a"))
    start = pb.ResponseEvent(item_start=pb.ItemEvent(output_index=4, item=pb.ResponseItem()))
    end = pb.ResponseEvent(item_end=pb.ItemEvent(output_index=4, item=pb.ResponseItem()))
    for events, said in (
        ([delta], "event 2: delta of item 4, which has not started"),
        ([start, end, delta], "event 4: delta of item 4, which has ended"),
        ([start, start], "event 3: item 4 starts twice"),
    ):
        with pytest.raises(StreamError, match=said):
            collect(response(*events))


def test_there_is_no_reply_before_the_end() -> None:
    stream = Stream(chat(pb.ChatDelta(content="a")))
    with pytest.raises(StreamError, match="read the stream to its end"):
        _ = stream.reply
    assert next(iter(stream)).HasField("start")
    with pytest.raises(StreamError, match="event 1: the reply is not whole yet"):
        _ = stream.reply


# --- Reading ---


def test_a_loop_that_was_left_goes_on_with_the_next_one() -> None:
    stream = Stream(chat(pb.ChatDelta(content="a"), pb.ChatDelta(content="b")))
    for event in stream:
        if event.delta.content == "a":
            break
    assert [*stream.text_deltas] == ["b"]
    assert stream.reply.choices[0].message.content == "ab"
    assert [*stream] == []


def test_text_deltas_are_those_of_the_first_choice() -> None:
    events = chat(
        pb.ChatDelta(index=1, content="x"),
        pb.ChatDelta(reasoning_content="hm"),
        pb.ChatDelta(content="a"),
        choices=2,
    )
    assert [*Stream(events).text_deltas] == ["a"]
    assert [*Stream(message(begin(0, text=""), more(0, text="m"), over(0))).text_deltas] == ["m"]


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


async def test_the_same_grammar_with_asyncio() -> None:
    async def events(items: Iterable[pb.ChatEvent]) -> AsyncIterator[pb.ChatEvent]:
        for item in items:
            yield item

    with pytest.raises(StreamError, match="event 2: the stream stopped before its end"):
        await collect_aio(events([START, DELTA]))
    stream = AsyncStream(events(chat(pb.ChatDelta(content="a"), pb.ChatDelta(content="b"))))
    async for event in stream:
        if event.delta.content:
            break
    assert [text async for text in stream.text_deltas] == ["b"]
