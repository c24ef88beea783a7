"""ChatService: POST /v1/chat/completions."""

from collections.abc import Iterator
from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import (
    JSON_OBJECT,
    SECONDS,
    TEXT,
    At,
    ByteNumbers,
    Row,
    Table,
    Variants,
    Wrapped,
    read_reply,
    same,
)
from smg_proto._http.mapping.common import (
    CHAT_CHOICE,
    CHAT_FORMAT,
    CHAT_TOOL,
    MATCHED_STOP,
    ROLE,
    SAMPLING_ROWS,
    USAGE,
    Film,
    Picture,
    Sound,
    WriteOnly,
)
from smg_proto._http.mapping.streams import Chunks
from smg_proto._http.shapes import JsonObject


class ImageUrl(Picture):
    """An image in an object of its own."""

    def write(self, value: Any, at: At) -> Any:
        return {"image_url": super().write(value, at)}

    def read(self, data: Any) -> Any:
        return super().read(data.get("image_url") or {})


PART = Variants(
    smg.ContentPart,
    {
        "text": ("text", {"text": "text"}),
        "image": ("image_url", {"image": Row("", ImageUrl("url"))}),
        "audio": ("input_audio", {"audio": Row("", Sound())}),
        "video": ("video_url", {"video": Row("video_url", Film())}),
    },
)
TOOL_CALL = Table(
    smg.ToolCall,
    {"id": "id", "name": "function.name", "arguments": "function.arguments"},
    always={"type": "function"},
)


class ChatMessage(Table[smg.ChatMessage]):
    """A message. Without content it has none at all, or the empty text."""

    def write(self, value: Any, at: At) -> JsonObject:
        out = super().write(value, at)
        if not value.WhichOneof("body"):
            out["content"] = None if value.role == smg.ROLE_ASSISTANT else ""
        return out


MESSAGE = ChatMessage(
    smg.ChatMessage,
    same("reasoning_content", "tool_call_id", "name")
    | {
        "role": Row("role", ROLE),
        "content": Row("content", TEXT),
        "parts": Row("content", Wrapped(smg.ContentParts, "parts", PART)),
        "tool_calls": Row("tool_calls", TOOL_CALL),
    },
    required=["role"],
)


class Logprobs(WriteOnly):
    """A number of alternatives: a flag and the number."""

    def write(self, value: Any, at: At) -> Any:
        return {"logprobs": True, "top_logprobs": value}


REQUEST = Table(
    smg.ChatRequest,
    same(
        "model",
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "parallel_tool_calls",
        "reasoning_effort",
        "user",
        "n",
        "separate_reasoning",
        "continue_final_message",
    )
    | {
        "messages": Row("messages", MESSAGE),
        "max_tokens": Row("max_completion_tokens"),
        "tools": Row("tools", CHAT_TOOL),
        "tool_choice": Row("tool_choice", CHAT_CHOICE),
        "output_format": Row("", CHAT_FORMAT),
        "logprobs": Row("", Logprobs()),
        "sampling": Row("", Table(smg.SamplingParams, SAMPLING_ROWS)),
        "chat_template_kwargs_json": Row("chat_template_kwargs", JSON_OBJECT),
    },
    required=["model", "messages"],
)

_TOP = same("token", "logprob") | {"bytes": Row("bytes", ByteNumbers())}
LOGPROB = Table(
    smg.TokenLogprob, _TOP | {"top": Row("top_logprobs", Table(smg.TokenLogprob, _TOP))}
)
_FINISH = same("index", "finish_reason") | {"matched_stop": Row("matched_stop", MATCHED_STOP)}
_CHOICE = Table(
    smg.ChatChoice,
    _FINISH | {"message": Row("message", MESSAGE), "logprobs": Row("logprobs.content", LOGPROB)},
)
_HEAD = same("id", "model") | {"create_time": Row("created", SECONDS)}
_START = Table(smg.ChatResponse, _HEAD)
_END_OF_CHOICE = Table(smg.ChatChoice, _FINISH)
REPLY = Table(
    smg.ChatResponse,
    _HEAD | {"choices": Row("choices", _CHOICE), "usage": Row("usage", USAGE)},
)
_DELTA = Table(
    smg.ChatDelta,
    {
        "index": "index",
        "content": "delta.content",
        "reasoning_content": "delta.reasoning_content",
        "tool_calls": Row(
            "delta.tool_calls",
            Table(
                smg.ToolCallDelta,
                {
                    "index": "index",
                    "id": "id",
                    "name": "function.name",
                    "arguments": "function.arguments",
                },
            ),
        ),
        "logprobs": Row("logprobs.content", LOGPROB),
    },
)


class ChatChunks(Chunks[smg.ChatEvent]):
    """The stream of a chat."""

    def __init__(self) -> None:
        super().__init__()
        self._end = smg.ChatResponse()
        self._open: set[int] = set()

    def event(self, name: str, data: JsonObject) -> Iterator[smg.ChatEvent]:
        if not self._end.id:
            start = read_reply(_START, data, "a chunk")
            self._end.MergeFrom(start)
            yield smg.ChatEvent(start=start)
        for choice in data.get("choices") or ():
            delta = read_reply(_DELTA, choice, "a chunk")
            self._open.add(delta.index)
            if delta.content or delta.reasoning_content or delta.tool_calls or delta.logprobs:
                yield smg.ChatEvent(delta=delta)
            if choice.get("finish_reason"):
                self._end.choices.append(read_reply(_END_OF_CHOICE, choice, "a chunk"))
        if data.get("usage"):
            self._end.usage.CopyFrom(read_reply(USAGE, data["usage"], "a chunk"))

    def complete(self) -> bool:
        return bool(self._open) and self._open == {choice.index for choice in self._end.choices}

    def end(self) -> smg.ChatEvent:
        self._end.choices.sort(key=lambda choice: choice.index)
        return smg.ChatEvent(end=self._end)
