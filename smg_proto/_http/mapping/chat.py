"""ChatService: POST /v1/chat/completions."""

from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import (
    Cursor,
    Row,
    Table,
    Variants,
    bytes_of_numbers,
    count,
    json_text,
    nested,
    same,
    text_only,
    timestamp,
    wrapped,
)
from smg_proto._http.mapping.common import (
    CHAT_FORMAT,
    CHAT_TOOL,
    ROLE,
    SAMPLING_ROWS,
    USAGE,
    chat_audio,
    chat_choice,
    chat_image,
    chat_video,
    matched_stop,
    read_chat_image,
)
from smg_proto._http.mapping.streams import ChunkReader
from smg_proto._http.shapes import JsonObject, as_list

# --- Messages ---

PART = Variants(
    smg.ContentPart,
    {
        "text": ("text", {"text": "text"}),
        "image": ("image_url", {"image": Row("", chat_image, read_chat_image)}),
        "audio": ("input_audio", {"audio": Row("", chat_audio)}),
        "video": ("video_url", {"video": Row("video_url", chat_video)}),
    },
)
# Engines leave the arguments of a function that takes none empty; the gateway demands JSON.
TOOL_CALL = Table(
    smg.ToolCall,
    {"id": "id", "name": "function.name", "arguments": "function.arguments"},
    always={"type": "function", "function": {"arguments": "{}"}},
)
_MESSAGE = Table(
    smg.ChatMessage,
    same("reasoning_content", "tool_call_id", "name")
    | {
        "role": ROLE.at("role"),
        "content": text_only("content"),
        "parts": wrapped("content", smg.ContentParts, "parts", PART),
        "tool_calls": nested("tool_calls", TOOL_CALL),
    },
    required=["role"],
)


def chat_message(value: Any, cursor: Cursor) -> JsonObject:
    """A message. Without content it has none at all, or the empty text."""
    out = _MESSAGE.write(value, cursor)
    if not value.WhichOneof("body"):
        out["content"] = None if value.role == smg.ROLE_ASSISTANT else ""
    return out


# --- The request ---


def logprobs(value: Any, cursor: Cursor) -> JsonObject:
    """A number of alternatives: a flag and the number."""
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
        "messages": Row("messages", chat_message),
        "max_tokens": Row("max_completion_tokens"),
        "tools": nested("tools", CHAT_TOOL),
        "tool_choice": Row("tool_choice", chat_choice),
        "output_format": nested("", CHAT_FORMAT),
        "logprobs": Row("", logprobs),
        "sampling": nested("", Table(smg.SamplingParams, SAMPLING_ROWS)),
        "chat_template_kwargs_json": json_text("chat_template_kwargs"),
    },
    required=["model", "messages"],
)

# --- Replies ---

_TOP = same("token", "logprob") | {"bytes": Row("bytes", read=bytes_of_numbers)}
LOGPROB = Table(
    smg.TokenLogprob, _TOP | {"top": nested("top_logprobs", Table(smg.TokenLogprob, _TOP))}
)
_FINISH = {
    "index": Row("index", read=count),
    "finish_reason": Row("finish_reason"),
    "matched_stop": Row("matched_stop", read=matched_stop),
}
_CHOICE = Table(
    smg.ChatChoice,
    _FINISH
    | {"message": nested("message", _MESSAGE), "logprobs": nested("logprobs.content", LOGPROB)},
)
_HEAD = same("id", "model") | {"create_time": Row("created", read=timestamp)}
REPLY = Table(
    smg.ChatResponse,
    _HEAD | {"choices": nested("choices", _CHOICE), "usage": nested("usage", USAGE)},
    expected=["choices.0.message"],
)
# Of a chunk: what is there once, the end of a choice, and a delta with more than text.
_CHUNK_HEAD = Table(smg.ChatResponse, _HEAD)
_CHUNK_END = Table(smg.ChatChoice, _FINISH)
_CHUNK_DELTA = Table(
    smg.ChatDelta,
    {
        "index": Row("index", read=count),
        "content": Row("delta.content"),
        "reasoning_content": Row("delta.reasoning_content"),
        "tool_calls": nested(
            "delta.tool_calls",
            Table(
                smg.ToolCallDelta,
                {
                    "index": Row("index", read=count),
                    "id": Row("id"),
                    "name": Row("function.name"),
                    "arguments": Row("function.arguments"),
                },
            ),
        ),
        "logprobs": nested("logprobs.content", LOGPROB),
    },
)


class ChatChunks(ChunkReader[smg.ChatEvent]):
    """The stream of a chat."""

    def __init__(self) -> None:
        super().__init__()
        self._end = smg.ChatResponse()
        self._open: set[int] = set()
        self._ended: dict[int, smg.ChatChoice] = {}

    def _text_delta(self, place: int, field: str, text: str) -> smg.ChatEvent:
        event = smg.ChatEvent()
        event.delta.index = place
        setattr(event.delta, field, text)
        return event

    def _chunk(self, data: JsonObject) -> None:
        choices = as_list(data.get("choices") or [])
        if not self._begun and (choices or data.get("id")):
            self._begun = True
            _CHUNK_HEAD.read_into(self._end, data)
            self._emit(smg.ChatEvent(start=self._end))
        for choice in choices:
            self._choice(choice)
        if data.get("usage"):
            self._end.usage.CopyFrom(USAGE.read(data["usage"]))

    def _choice(self, choice: Any) -> None:
        index = count(choice.get("index", 0))
        self._open.add(index)
        delta: Any = choice.get("delta") or {}
        content, reasoning = delta.get("content"), delta.get("reasoning_content")
        if choice.get("logprobs") or delta.get("tool_calls") or (content and reasoning):
            found = _CHUNK_DELTA.read(choice)
            if found.content or found.reasoning_content or found.tool_calls or found.logprobs:
                self._emit(smg.ChatEvent(delta=found))
        elif content:
            self._emit_text(index, "content", content)
        elif reasoning:
            self._emit_text(index, "reasoning_content", reasoning)
        if choice.get("finish_reason"):
            self._ended[index] = _CHUNK_END.read(choice)

    def _complete(self) -> bool:
        return bool(self._open) and self._open == self._ended.keys()

    def _end_event(self) -> smg.ChatEvent:
        self._end.choices.extend(self._ended[index] for index in sorted(self._ended))
        return smg.ChatEvent(end=self._end)
