"""ChatService: POST /v1/chat/completions."""

import base64
from typing import Any, ClassVar, cast

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import (
    Cursor,
    Known,
    Row,
    Table,
    Variants,
    bytes_of_numbers,
    count,
    json_text,
    nested,
    parts,
    same,
    text_only,
    timestamp,
)
from smg_proto._http.mapping.common import (
    CHAT_FORMAT,
    CHAT_TOOL,
    KNOWN_USAGE,
    ROLE,
    SAMPLING_ROWS,
    USAGE,
    chat_audio,
    chat_choice,
    chat_image,
    chat_video,
    finish_reason,
    matched_stop,
    read_annotation,
    read_chat_image,
    unsent,
)
from smg_proto._http.mapping.streams import ChunkReader, Place
from smg_proto._http.shapes import JsonObject, as_list, as_object

# --- Messages ---

PART = Variants(
    smg.ContentPart,
    {
        "text": ("text", {"text": "text"}),
        "image": ("image_url", {"image": Row("", chat_image, read_chat_image)}),
        "audio": ("input_audio", {"audio": Row("", chat_audio)}),
        "video": ("video_url", {"video": Row("video_url", chat_video)}),
        "refusal": ("refusal", {"refusal": "refusal"}),
    },
)


def read_audio(data: Any) -> Any:
    """Audio that the model generated. The route does not report its media type."""
    audio = as_object(data.get("audio"))
    return smg.Media(data=base64.b64decode(audio["data"])) if audio.get("data") else None


def read_annotations(data: Any) -> Any:
    return map(read_annotation, as_list(data.get("annotations") or []))


# Engines send empty arguments for a function without parameters; the gateway requires JSON.
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
        "parts": parts("content", PART),
        "tool_calls": nested("tool_calls", TOOL_CALL),
        "refusal": Row("refusal"),
        # Only in replies: messages of a request leave them out.
        "annotations": Row("", unsent, read_annotations, whole=True),
        "audio": Row("", unsent, read_audio),
    },
    required=["role"],
    either=[("content", "parts")],
)
_KNOWN_MESSAGE: Known = {
    **dict.fromkeys(["role", "content", "reasoning_content", "refusal", "annotations", "name"]),
    "audio": {"data": None},
    "tool_calls": (
        {
            **dict.fromkeys(["id", "type", "index"]),
            "function": dict.fromkeys(["name", "arguments"]),
        },
    ),
}


def chat_message(value: Any, cursor: Cursor) -> JsonObject:
    """A message. If it has no content, the member is null (assistant) or an empty text."""
    out = _MESSAGE.write(value, cursor)
    if not (value.content or value.parts):
        out["content"] = None if value.role == smg.ROLE_ASSISTANT else ""
    return out


# --- The request ---


def logprobs(value: Any, cursor: Cursor) -> JsonObject:
    """The number of alternatives, as a flag and the number."""
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
        "metadata",
        "return_token_ids",
    )
    | {
        "messages": Row("messages", chat_message),
        "max_tokens": Row("max_completion_tokens"),
        "tools": nested("tools", CHAT_TOOL),
        "tool_choice": Row("tool_choice", chat_choice),
        "output_format": nested("", CHAT_FORMAT),
        "logprobs": Row("", logprobs, members=("logprobs", "top_logprobs")),
        "reasoning_budget_tokens": Row("thinking_token_budget"),
        "sampling": nested("", Table(smg.SamplingParams, SAMPLING_ROWS)),
        "chat_template_kwargs_json": json_text("chat_template_kwargs"),
    },
    required=["model", "messages"],
)

# --- Replies ---

_TOP = same("token", "logprob", "token_id") | {"bytes": Row("bytes", read=bytes_of_numbers)}
LOGPROB = Table(
    smg.TokenLogprob, _TOP | {"top": nested("top_logprobs", Table(smg.TokenLogprob, _TOP))}
)
_FINISH = {
    "index": Row("index", read=count),
    "finish_reason": Row("finish_reason", read=finish_reason),
    "matched_stop": Row("matched_stop", read=matched_stop),
}
_CHOICE = Table(
    smg.ChatChoice,
    _FINISH
    | {
        "message": nested("message", _MESSAGE),
        "logprobs": nested("logprobs.content", LOGPROB),
        "token_ids": Row("token_ids"),
    },
)
_KNOWN_CHOICE: Known = {
    **dict.fromkeys(["index", "finish_reason", "matched_stop", "stop_reason", "token_ids"]),
    "logprobs": {"content": None},
}
_KNOWN: Known = {
    **dict.fromkeys(["id", "object", "model", "created", "prompt_token_ids"]),
    "usage": KNOWN_USAGE,
}
_HEAD = same("id", "model") | {"create_time": Row("created", read=timestamp)}
REPLY = Table(
    smg.ChatResponse,
    _HEAD
    | {
        "choices": nested("choices", _CHOICE),
        "usage": nested("usage", USAGE),
        "prompt_token_ids": Row("prompt_token_ids"),
    },
    expected=["choices.0.message"],
    known={**_KNOWN, "choices": ({**_KNOWN_CHOICE, "message": _KNOWN_MESSAGE},)},
)
# Parts of a chunk: the head, the end of a choice, and a delta with more than text.
_CHUNK_HEAD = Table(smg.ChatResponse, _HEAD)
_CHUNK_END = Table(smg.ChatChoice, _FINISH)
_CHUNK_DELTA = Table(
    smg.ChatDelta,
    {
        "index": Row("index", read=count),
        "content": Row("delta.content"),
        "reasoning_content": Row("delta.reasoning_content"),
        "refusal": Row("delta.refusal"),
        "annotations": Row("delta.annotations", read=read_annotation),
        "token_ids": Row("token_ids"),
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
    """Reads the stream of a chat."""

    KNOWN: ClassVar[Known] = {**_KNOWN, "choices": ({**_KNOWN_CHOICE, "delta": _KNOWN_MESSAGE},)}

    def __init__(self) -> None:
        super().__init__()
        self._end = smg.ChatResponse()
        self._open: set[int] = set()
        self._call: dict[int, int] = {}  # the incomplete tool call of each choice
        self._ended: dict[int, smg.ChatChoice] = {}
        self._sound: dict[int, bytes] = {}  # of each choice, which no delta can carry

    def _text_delta(self, place: Place, field: str, text: str) -> smg.ChatEvent:
        event = smg.ChatEvent()
        event.delta.index = cast(int, place)
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
        if ids := data.get("prompt_token_ids"):
            self._end.prompt_token_ids[:] = as_list(ids)

    def _choice(self, choice: Any) -> None:
        index = count(choice.get("index", 0))
        self._open.add(index)
        delta: Any = choice.get("delta") or {}
        if sound := read_audio(delta):
            self._sound[index] = self._sound.get(index, b"") + sound.data
        content, reasoning = delta.get("content"), delta.get("reasoning_content")
        calls = delta.get("tool_calls")
        if (
            calls
            or choice.get("logprobs")
            or choice.get("token_ids")
            or delta.get("refusal")
            or delta.get("annotations")
            or (content and reasoning)
        ):
            event = smg.ChatEvent(delta=_CHUNK_DELTA.read(choice))
            for call in event.delta.tool_calls:
                if index in self._call and self._call[index] != call.index:
                    self._end_call(index)
                self._call[index] = call.index
            if len(event.delta.ListFields()) > bool(event.delta.index):
                self._emit(event)
        elif content:
            self._emit_text(index, "content", content)
        elif reasoning:
            self._emit_text(index, "reasoning_content", reasoning)
        if choice.get("finish_reason") and index not in self._ended:
            self._end_call(index)
            self._ended[index] = _CHUNK_END.read(choice)
            if index in self._sound:
                message = self._ended[index].message
                message.role, message.audio.data = smg.ROLE_ASSISTANT, self._sound[index]
            self._emit(smg.ChatEvent(choice_end=self._ended[index]))

    def _end_call(self, index: int) -> None:
        """Emit the end of the incomplete tool call, if there is one."""
        if index in self._call:
            last = smg.ToolCallDelta(index=self._call.pop(index), complete=True)
            self._emit(smg.ChatEvent(delta=smg.ChatDelta(index=index, tool_calls=[last])))

    def _complete(self) -> bool:
        return bool(self._open) and self._open == self._ended.keys()

    def _end_event(self) -> smg.ChatEvent:
        self._end.choices.extend(self._ended[index] for index in sorted(self._ended))
        self._end.extra_json = self._extras.text()
        return smg.ChatEvent(end=self._end)
