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
from frontdoor.replay import Upstream

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
pydantic = pytest.importorskip("pydantic")


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
    told = json_format.MessageToJson(reply)
    gone = {path for mark, path in marks.made.items() if mark not in told}
    return sorted(path for path in gone if not any(path.startswith(each) for each in known))


SUMMED = "part of the sum that prompt_tokens is"
IN_SECONDS = "a time, as a timestamp"
REPEATED = "a setting of the request, which the route repeats"


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
    known = {"created_at": IN_SECONDS, "completed_at": IN_SECONDS}
    known |= dict.fromkeys(["instructions", "tools", "tool_choice", "max_output_tokens"], REPEATED)
    known |= dict.fromkeys(["max_tool_calls", "temperature", "top_p", "top_logprobs"], REPEATED)
    known |= dict.fromkeys(["reasoning", "text", "user"], REPEATED)
    assert lost(marks, reply, known) == []


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
