"""MessageService: POST /v1/messages and /v1/messages/count_tokens."""

from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import from_error_body
from smg_proto._http.fields import (
    Cursor,
    Names,
    Row,
    Rows,
    Table,
    Variants,
    count,
    json_text,
    nested,
    same,
    text_only,
    wrapped,
)
from smg_proto._http.mapping.common import (
    MESSAGE_TOOL,
    counts,
    message_choice,
    message_image,
    unsent,
)
from smg_proto._http.mapping.streams import FAILED, StreamReader, object_of
from smg_proto._http.shapes import JsonObject, dig
from smg_proto._http.sse import ServerSentEvent

# --- Blocks ---

_TEXT_OR_IMAGE: dict[str, tuple[str, Rows]] = {
    "text": ("text", {"text": "text"}),
    "image": ("image", {"image": Row("source", message_image)}),
}
_REASONING = Table(
    smg.Reasoning,
    {"text": "thinking", "signature": "signature"},
    always={"thinking": "", "signature": ""},
)
_TOOL_CALL = Table(
    smg.ToolCall,
    same("id", "name") | {"arguments": json_text("input")},
    required=["id", "name"],
    always={"input": {}},
)
_TOOL_RESULT = Table(
    smg.ToolResult,
    {
        "call_id": "tool_use_id",
        "text": text_only("content"),
        "parts": wrapped(
            "content", smg.ContentParts, "parts", Variants(smg.ContentPart, _TEXT_OR_IMAGE)
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
        "reasoning": ("thinking", {"reasoning": nested("", _REASONING)}),
        "tool_call": ("tool_use", {"tool_call": nested("", _TOOL_CALL)}),
        "tool_result": ("tool_result", {"tool_result": nested("", _TOOL_RESULT)}),
    },
)
_TURN = Table(
    smg.Turn,
    {
        "role": Names({smg.ROLE_USER: "user", smg.ROLE_ASSISTANT: "assistant"}).at("role"),
        "blocks": nested("content", BLOCK),
    },
    required=["role"],
    always={"content": ()},
)

# --- Requests ---


def effort(value: Any, cursor: Cursor) -> JsonObject:
    """How much to think: off, or a kind of thinking and an effort."""
    if value == "none":
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": value}}


def parallel(value: Any, cursor: Cursor) -> JsonObject:
    """A member of the tool choice, which then has to be there."""
    return {"tool_choice": {"type": "auto", "disable_parallel_tool_use": not value}}


_COUNTED = same("model", "system") | {
    "turns": nested("messages", _TURN),
    "tools": nested("tools", MESSAGE_TOOL),
    "tool_choice": Row("tool_choice", message_choice),
    "reasoning_effort": Row("", effort),
}
REQUEST = Table(
    smg.CreateMessageRequest,
    _COUNTED
    | same("max_tokens", "temperature", "top_p", "top_k")
    | {
        "stop": Row("stop_sequences"),
        "parallel_tool_calls": Row("", parallel),
        "user": Row("metadata.user_id"),
    },
    required=["model", "turns", "max_tokens"],
)
COUNT_REQUEST = Table(
    smg.CreateMessageRequest,
    {name: Row("", unsent) for name in REQUEST.rows} | _COUNTED,
    required=["model", "turns"],
)
COUNT_REPLY = Table(
    smg.CountMessageTokensResponse,
    counts(prompt_tokens="input_tokens"),
    expected=["input_tokens"],
)

# --- Replies ---


def total(data: Any) -> int:
    """Tokens in and out."""
    return count(data.get("input_tokens") or 0) + count(data.get("output_tokens") or 0)


def stop_sequence(data: Any) -> Any:
    return smg.MatchedStop(text=data)


_USAGE = Table(
    smg.Usage,
    counts(
        prompt_tokens="input_tokens",
        completion_tokens="output_tokens",
        cached_tokens="cache_read_input_tokens",
        reasoning_tokens="output_tokens_details.thinking_tokens",
    )
    | {"total_tokens": Row("", read=total)},
)
_HEAD = same("id", "model")
_FINISH = {
    "finish_reason": Row("stop_reason"),
    "matched_stop": Row("stop_sequence", read=stop_sequence),
}
REPLY = Table(
    smg.Message,
    _HEAD | _FINISH | {"blocks": nested("content", BLOCK), "usage": nested("usage", _USAGE)},
    expected=["content"],
)
_START = Table(smg.Message, _HEAD)
_END = Table(
    smg.Message,
    {name: row.under("delta") for name, row in _FINISH.items()}
    | {"usage": nested("usage", _USAGE)},
)
# Which member of which kind of delta brings which field.
_DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "reasoning"),
    "input_json_delta": ("partial_json", "arguments"),
    "signature_delta": ("signature", "signature"),
}


class MessageEvents(StreamReader[smg.MessageEvent]):
    """The stream of a message."""

    def __init__(self) -> None:
        super().__init__()
        self._end = smg.Message()
        self._skipped: set[int] = set()

    def _text_delta(self, place: int, field: str, text: str) -> smg.MessageEvent:
        event = smg.MessageEvent()
        event.delta.index = place
        setattr(event.delta, field, text)
        return event

    def _event(self, event: ServerSentEvent) -> None:
        data = object_of(event)
        match data.get("type"):
            case "content_block_delta":
                member, field = _DELTAS.get(dig(data, "delta.type"), ("", ""))
                index = count(data["index"])
                if field and index not in self._skipped and (text := data["delta"].get(member)):
                    self._emit_text(index, field, text)
            case "content_block_start":
                index = count(data["index"])
                block: smg.Block | None = BLOCK.read(data["content_block"])
                if block is None:
                    self._skipped.add(index)
                    return
                if block.HasField("tool_call"):
                    block.tool_call.ClearField("arguments")  # they come with deltas
                self._emit(smg.MessageEvent(block_start=smg.BlockStart(index=index, block=block)))
            case "message_start":
                _START.read_into(self._end, data["message"])
                self._emit(smg.MessageEvent(start=self._end))
            case "message_delta":
                _END.read_into(self._end, data)
            case "message_stop":
                if self._end.finish_reason:
                    self._emit(smg.MessageEvent(end=self._end))
                    self.done = True
            case "error":
                raise from_error_body(data, FAILED)
            case _:
                pass
