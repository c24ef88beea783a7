"""MessageService: POST /v1/messages and /v1/messages/count_tokens."""

from collections.abc import Iterator
from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import unreadable
from smg_proto._http.fields import (
    JSON_OBJECT,
    TEXT,
    At,
    Enum,
    Not,
    Row,
    Rows,
    Table,
    Variants,
    Wrapped,
    read_reply,
    same,
)
from smg_proto._http.mapping.common import (
    MESSAGE_CHOICE,
    MESSAGE_TOOL,
    MessageImage,
    ReadOnly,
    Unsent,
    WriteOnly,
)
from smg_proto._http.mapping.streams import failure_of, json_of
from smg_proto._http.shapes import JsonObject, dig
from smg_proto._http.sse import ServerSentEvent

_TEXT_OR_IMAGE: dict[str, tuple[str, Rows]] = {
    "text": ("text", {"text": "text"}),
    "image": ("image", {"image": Row("source", MessageImage())}),
}
_REASONING = Table(
    smg.Reasoning,
    {"text": "thinking", "signature": "signature"},
    always={"thinking": "", "signature": ""},
)
_TOOL_CALL = Table(
    smg.ToolCall,
    same("id", "name") | {"arguments": Row("input", JSON_OBJECT)},
    required=["id", "name"],
    always={"input": {}},
)
_TOOL_RESULT = Table(
    smg.ToolResult,
    {
        "call_id": "tool_use_id",
        "text": Row("content", TEXT),
        "parts": Row(
            "content", Wrapped(smg.ContentParts, "parts", Variants(smg.ContentPart, _TEXT_OR_IMAGE))
        ),
        "is_error": "is_error",
    },
    required=["call_id"],
    always={"content": ""},
)
BLOCK = Variants(
    smg.Block,
    _TEXT_OR_IMAGE
    | {
        "reasoning": ("thinking", {"reasoning": Row("", _REASONING)}),
        "tool_call": ("tool_use", {"tool_call": Row("", _TOOL_CALL)}),
        "tool_result": ("tool_result", {"tool_result": Row("", _TOOL_RESULT)}),
    },
)
_TURN = Table(
    smg.Turn,
    {
        "role": Row("role", Enum({smg.ROLE_USER: "user", smg.ROLE_ASSISTANT: "assistant"})),
        "blocks": Row("content", BLOCK),
    },
    required=["role"],
    always={"content": []},
)


class Effort(WriteOnly):
    """How much to think: off, or a kind of thinking and an effort."""

    def write(self, value: Any, at: At) -> Any:
        if value == "none":
            return {"thinking": {"type": "disabled"}}
        return {"thinking": {"type": "adaptive"}, "output_config": {"effort": value}}


class Parallel(Not):
    """A member of the tool choice, which is then there."""

    def write(self, value: Any, at: At) -> Any:
        return {"tool_choice": {"type": "auto", "disable_parallel_tool_use": not value}}


_COUNTED = same("model", "system") | {
    "turns": Row("messages", _TURN),
    "tools": Row("tools", MESSAGE_TOOL),
    "tool_choice": Row("tool_choice", MESSAGE_CHOICE),
    "reasoning_effort": Row("", Effort()),
}
REQUEST = Table(
    smg.CreateMessageRequest,
    _COUNTED
    | same("max_tokens", "temperature", "top_p", "top_k")
    | {
        "stop": Row("stop_sequences"),
        "parallel_tool_calls": Row("", Parallel()),
        "user": Row("metadata.user_id"),
    },
    required=["model", "turns", "max_tokens"],
)


COUNT_REQUEST = Table(
    smg.CreateMessageRequest,
    {name: Row("", Unsent()) for name in REQUEST.rows} | _COUNTED,
    required=["model", "turns"],
)
COUNT_REPLY = Table(smg.CountMessageTokensResponse, {"prompt_tokens": "input_tokens"})


class Sum(ReadOnly):
    """Tokens in and out."""

    def read(self, data: Any) -> Any:
        return (data.get("input_tokens") or 0) + (data.get("output_tokens") or 0)


_USAGE = Table(
    smg.Usage,
    {
        "prompt_tokens": "input_tokens",
        "completion_tokens": "output_tokens",
        "total_tokens": Row("", Sum()),
        "cached_tokens": "cache_read_input_tokens",
        "reasoning_tokens": "output_tokens_details.thinking_tokens",
    },
)


class StopSequence(ReadOnly):
    def read(self, data: Any) -> Any:
        return smg.MatchedStop(text=data)


_HEAD = same("id", "model")
_FINISH = {
    "finish_reason": Row("stop_reason"),
    "matched_stop": Row("stop_sequence", StopSequence()),
}
_START = Table(smg.Message, _HEAD)
_END = Table(
    smg.Message,
    {name: Row(f"delta.{row.path}", row.codec) for name, row in _FINISH.items()}
    | {"usage": Row("usage", _USAGE)},
)
REPLY = Table(
    smg.Message,
    _HEAD | _FINISH | {"blocks": Row("content", BLOCK), "usage": Row("usage", _USAGE)},
)
# Which member of which kind of delta brings which field.
_DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "reasoning"),
    "input_json_delta": ("partial_json", "arguments"),
    "signature_delta": ("signature", "signature"),
}


class MessageEvents:
    """The stream of a message."""

    def __init__(self) -> None:
        self.done: bool = False
        self._end = smg.Message()
        self._skipped: set[int] = set()

    def feed(self, event: ServerSentEvent) -> Iterator[smg.MessageEvent]:
        data = json_of(event)
        try:
            yield from self._event(data)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise unreadable("an event") from error

    def _event(self, data: JsonObject) -> Iterator[smg.MessageEvent]:
        match data.get("type"):
            case "message_start":
                start = read_reply(_START, data["message"], "an event")
                self._end.MergeFrom(start)
                yield smg.MessageEvent(start=start)
            case "content_block_start":
                block = read_reply_block(data["content_block"])
                if block is None:
                    self._skipped.add(data["index"])
                    return
                started = smg.BlockStart(index=data["index"], block=block)
                yield smg.MessageEvent(block_start=started)
            case "content_block_delta":
                member, field = _DELTAS.get(dig(data, "delta.type"), ("", ""))
                if field and data["index"] not in self._skipped and data["delta"].get(member):
                    delta = smg.MessageDelta(index=data["index"])
                    setattr(delta, field, data["delta"][member])
                    yield smg.MessageEvent(delta=delta)
            case "message_delta":
                self._end.MergeFrom(read_reply(_END, data, "an event"))
            case "message_stop":
                if self._end.finish_reason:
                    self.done = True
                    yield smg.MessageEvent(end=self._end)
            case "error":
                raise failure_of(data)
            case _:
                pass


def read_reply_block(data: JsonObject) -> smg.Block | None:
    """A block as it starts: its deltas bring what it holds, a call's arguments too."""
    block: smg.Block | None = BLOCK.read(data)
    if block and block.WhichOneof("block") == "tool_call":
        block.tool_call.ClearField("arguments")
    return block
