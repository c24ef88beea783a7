"""Whatever the published client packages know of a reply is in the reply of smg.v1.

Their models are filled in with marks, one for each text and number; each mark has to come out.
"""

import base64
import types
import typing
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from frontdoor.calls import call
from frontdoor.replay import Upstream, sse

pydantic = pytest.importorskip("pydantic")


@pytest.fixture(autouse=True)
def packages() -> None:
    """The published packages. To import them takes seconds: not before a test needs them."""
    pytest.importorskip("openai")
    pytest.importorskip("anthropic")


def kinds(annotation: Any) -> list[Any]:
    """The types that a union is of."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return kinds(typing.get_args(annotation)[0])
    if hasattr(annotation, "__value__"):  # an alias
        return kinds(annotation.__value__)
    if origin in (typing.Union, types.UnionType):
        members = [kind for each in typing.get_args(annotation) for kind in kinds(each)]
        return [kind for kind in members if kind is not type(None)]
    return [annotation]


class Marks:
    """Values of types: each text and each number once."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given  # what a member has to be, by its path
        self.made: dict[str, str] = {}  # the path of each mark
        self._models: list[Any] = []

    def of(self, annotation: Any, path: str) -> Any:
        annotation = kinds(annotation)[0]
        if path in self.given:
            return self.given[path]
        origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Literal:
            return inner[0]
        if origin in (list, typing.Iterable):
            return [self.of(kind, path) for kind in kinds(inner[0]) if kind not in self._models]
        if origin is dict:
            return {"key": self.of(inner[1], f"{path}.key")}
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            return self.model(annotation, path)
        number = 100_000 + len(self.made)
        if annotation is bool:
            return True
        if annotation in (int, float):
            self.made[str(number)] = path
            return number
        self.made[f"mark{number}"] = path
        return f"mark{number}"

    def model(self, model: Any, path: str) -> dict[str, Any]:
        self._models.append(model)
        try:
            return {
                field.alias or name: self.of(field.annotation, f"{path}.{name}".lstrip("."))
                for name, field in model.model_fields.items()
                if kinds(field.annotation) and kinds(field.annotation)[0] not in self._models
            }
        finally:
            self._models.pop()


def lost(marks: Marks, reply: Any, known: dict[str, str]) -> list[str]:
    """The paths of marks that are not in a reply, but those that need not be."""
    result = "".join(map(json_format.MessageToJson, reply if isinstance(reply, list) else [reply]))
    gone = {path for mark, path in marks.made.items() if mark not in result}
    return sorted(path for path in gone if not any(path.startswith(each) for each in known))


SUMMED = "part of the sum that prompt_tokens is"
IN_SECONDS = "a time, as a timestamp"
REPEATED = "a setting of the request, which the route repeats"
SETTINGS = dict.fromkeys(
    [
        *("instructions", "tools", "tool_choice", "max_output_tokens", "max_tool_calls"),
        *("temperature", "top_p", "top_logprobs", "reasoning", "text", "user"),
    ],
    REPEATED,
) | {"created_at": IN_SECONDS, "completed_at": IN_SECONDS}


async def test_chats(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    from openai.types.chat import ChatCompletion

    sound = base64.b64encode(b"sound").decode()
    marks = Marks(
        {
            "choices.message.audio.data": sound,
            "choices.logprobs.content.bytes": [1],
            "choices.logprobs.content.top_logprobs.bytes": [1],
            "choices.logprobs.refusal.bytes": [1],
            "choices.logprobs.refusal.top_logprobs.bytes": [1],
        }
    )
    upstream.answer(200, marks.model(ChatCompletion, ""))
    reply = await call(channel, "ChatService.Chat")
    assert reply.choices[0].message.audio.data == b"sound"
    assert lost(marks, reply, {"created": IN_SECONDS}) == []


async def test_messages(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    from anthropic.types import Message

    marks = Marks({})
    upstream.answer(200, marks.model(Message, ""))
    reply = await call(channel, "MessageService.CreateMessage")
    assert lost(marks, reply, {"usage.input_tokens": SUMMED}) == []


async def test_responses(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    from openai.types.responses import Response

    marks = Marks({"status": "completed", "error": None, "incomplete_details": None})
    body = marks.model(Response, "")
    upstream.answer(200, body)
    reply = await call(channel, "ResponseService.CreateResponse")
    assert len(reply.output) == len(body["output"]) >= 20
    assert lost(marks, reply, SETTINGS) == []


async def test_items_one_by_one(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    from openai.types.responses import ResponseOutputItem

    for model in kinds(ResponseOutputItem):
        upstream.forget()
        marks = Marks({})
        item = marks.model(model, "")
        upstream.answer(200, {"id": "r", "status": "completed", "output": [item]})
        reply = await call(channel, "ResponseService.CreateResponse")
        assert lost(marks, reply, {}) == [], model.__name__
        if reply.output[0].HasField("opaque"):
            assert reply.output[0].opaque.type == item["type"]


# --- Streams ---


async def test_completions(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    from openai.types import Completion

    marks = Marks({})
    upstream.answer(200, marks.model(Completion, ""))
    reply = await call(channel, "CompletionService.Complete")
    places = {"choices.logprobs.text_offset": "a place in the text", "created": IN_SECONDS}
    places["choices.index"] = "of the only text"
    assert lost(marks, reply, places) == []


async def test_chunks_of_a_chat(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    from openai.types.chat import ChatCompletionChunk

    paths = ("content", "content.top_logprobs", "refusal", "refusal.top_logprobs")
    marks = Marks({f"choices.logprobs.{path}.bytes": [1] for path in paths})
    marks.given["choices.delta.audio.data"] = base64.b64encode(b"sound").decode()
    chunk = marks.model(ChatCompletionChunk, "")
    upstream.stream(sse([None, chunk]), sse([None, "[DONE]"]))
    events = await call(channel, "ChatService.StreamChat")
    assert lost(marks, events, {"created": IN_SECONDS}) == []
    assert events[-1].end.choices[0].message.audio.data == b"sound"


async def test_blocks_of_a_stream_one_by_one(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    from anthropic.types import Message, RawContentBlockStartEvent, RawMessageDeltaEvent

    blocks = kinds(RawContentBlockStartEvent.model_fields["content_block"].annotation)
    assert len(blocks) >= 10
    for model in blocks:
        upstream.forget()
        marks = Marks({})
        start = marks.model(Message, "message") | {"content": [], "stop_reason": None}
        block = marks.model(model, "block")
        end = marks.model(RawMessageDeltaEvent, "end")
        printed: list[dict[str, Any]] = [
            {"type": "message_start", "message": start | {"usage": {}}},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_stop", "index": 0},
            end,
            {"type": "message_stop"},
        ]
        upstream.stream(*(sse([event["type"], event]) for event in printed))
        events = await call(channel, "MessageService.StreamMessage")
        first = {"message": "said again at the end", "end.usage.input_tokens": SUMMED}
        if model.__name__ == "ToolUseBlock":
            first["block.input"] = "comes with deltas"
        assert lost(marks, events, first) == [], model.__name__


async def test_deltas_of_blocks_one_by_one(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    from anthropic.types import RawContentBlockDelta

    blocks = {
        "InputJSONDelta": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        "ThinkingDelta": {"type": "thinking", "thinking": "", "signature": ""},
        "SignatureDelta": {"type": "thinking", "thinking": "", "signature": ""},
    }
    for model in kinds(RawContentBlockDelta):
        upstream.forget()
        marks = Marks({})
        block = blocks.get(model.__name__, {"type": "text", "text": ""})
        printed: list[dict[str, Any]] = [
            {"type": "message_start", "message": {"id": "m", "model": "x", "usage": {}}},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": marks.model(model, "")},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
            {"type": "message_stop"},
        ]
        upstream.stream(*(sse([event["type"], event]) for event in printed))
        events = await call(channel, "MessageService.StreamMessage")
        assert lost(marks, events, {}) == [], model.__name__


# Events of a response that say again what others have said or will say, and those that fail it.
SAID_AGAIN = (".done", ".added", ".in_progress", ".completed", ".failed", ".queued")
NAMES = {
    "item_id": "its item has this id",
    "annotation_index": "the place in the list of annotations",
    "obfuscation": "padding",
    "logprobs": "are in the whole response, at the end",
}


async def test_events_of_a_response_one_by_one(
    upstream: Upstream, channel: grpc.aio.Channel
) -> None:
    from openai.types.responses import ResponseStreamEvent

    tried = 0
    for model in kinds(ResponseStreamEvent):
        upstream.forget()
        marks = Marks({"output_index": 0, "content_index": 0, "summary_index": 0})
        event = marks.model(model, "")
        kind = event["type"].replace(".annotation.added", ".annotation")
        if "response" in event or kind == "error" or kind.endswith(SAID_AGAIN):
            continue
        tried += 1
        item = {"type": "message", "id": "m", "role": "assistant", "content": []}
        response = {"id": "r", "model": "m", "status": "completed", "output": [item]}
        printed: list[dict[str, Any]] = [
            {"type": "response.created", "response": response | {"status": "in_progress"}},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            event,
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": response},
        ]
        upstream.stream(*(sse([one["type"], one]) for one in printed))
        events = await call(channel, "ResponseService.StreamResponse")
        assert lost(marks, events, NAMES) == [], model.__name__
    assert tried >= 15


async def test_the_last_event_of_a_response(upstream: Upstream, channel: grpc.aio.Channel) -> None:
    from openai.types.responses import Response

    marks = Marks({"status": "completed", "error": None, "incomplete_details": None})
    response = marks.model(Response, "")
    items = response["output"]
    printed: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
        *(
            {"type": "response.output_item.done", "output_index": index, "item": item}
            for index, item in enumerate(items)
        ),
        {"type": "response.completed", "response": response},
    ]
    upstream.stream(*(sse([one["type"], one]) for one in printed))
    events = await call(channel, "ResponseService.StreamResponse")
    assert lost(marks, events, SETTINGS) == []
