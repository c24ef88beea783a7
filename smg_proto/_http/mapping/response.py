"""ResponseService: POST /v1/responses, and what is stored of it."""

from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import from_error_body, reason_of
from smg_proto._http.fields import (
    Cursor,
    Names,
    Row,
    Rows,
    Table,
    Variants,
    count,
    nested,
    same,
    text_only,
    timestamp,
    wrapped,
)
from smg_proto._http.mapping.common import (
    LISTED_FUNCTION,
    RESPONSE_FORMAT,
    RESPONSE_TOOL,
    RESPONSE_USAGE,
    ROLE,
    read_response_image,
    response_choice,
    response_image,
)
from smg_proto._http.mapping.streams import FAILED, StreamReader, object_of
from smg_proto._http.shapes import JsonObject, as_list, dig
from smg_proto._http.sse import ServerSentEvent

# --- Items ---

_IMAGE: tuple[str, Rows] = (
    "input_image",
    {"image": Row("", response_image, read_response_image)},
)
INPUT_PART = Variants(smg.ContentPart, {"text": ("input_text", {"text": "text"}), "image": _IMAGE})
OUTPUT_TEXT = Table(
    smg.ContentPart, {"text": "text"}, always={"type": "output_text", "annotations": ()}
)
_TEXT_PART = Variants(smg.ContentPart, {"text": ("input_text", {"text": "text"})})


def read_part(data: Any) -> Any:
    """A part of a message, whoever wrote it."""
    return OUTPUT_TEXT.read(data) if data.get("type") == "output_text" else INPUT_PART.read(data)


_INPUT_ROLE = Names({k: v for k, v in ROLE.texts.items() if k != smg.ROLE_TOOL})
_MESSAGE = Table(
    smg.ItemMessage,
    {"role": _INPUT_ROLE.at("role"), "content": Row("content", INPUT_PART.write, read_part)},
    required=["role"],
    always={"content": ()},
)
_MODELS_MESSAGE = Table(
    smg.ItemMessage,
    {"role": ROLE.at("role"), "content": Row("content", OUTPUT_TEXT.write)},
    always={"content": ()},
)


def item_message(value: Any, cursor: Cursor) -> JsonObject:
    """A message: the model's own has another kind of part than the others."""
    table = _MODELS_MESSAGE if value.role == smg.ROLE_ASSISTANT else _MESSAGE
    return table.write(value, cursor)


def reasoning(value: Any, cursor: Cursor) -> JsonObject:
    """Reasoning: an array of texts."""
    if value.signature:
        cursor.field("signature").refuse()
    content = [{"type": "reasoning_text", "text": value.text}]
    return {"id": "", "summary": [], "content": content}  # the route demands an id, any


def read_reasoning(data: Any) -> Any:
    parts = as_list(data.get("content") or [])
    return smg.Reasoning(text="".join(part["text"] for part in parts))


def mcp_error(data: Any) -> Any:
    """How an MCP call failed: a string, or a kind and its content."""
    message = data if isinstance(data, str) else data.get("content") or data.get("type")
    text = message if isinstance(message, str) else str(message)
    return smg.Error(reason="MCP_TOOL_FAILED", message=text)


_CALL = Table(
    smg.ToolCall,
    {"id": "call_id", "name": "name", "arguments": "arguments"},
    # Engines leave the arguments of a function that takes none empty; the gateway demands JSON.
    always={"arguments": "{}"},
)
_MCP_CALL = Table(
    smg.ToolCall,
    same("id", "name", "arguments", "server_label")
    | {"output": text_only("output"), "error": Row("error", read=mcp_error)},
)
_RESULT = Table(
    smg.ToolResult,
    {
        "call_id": "call_id",
        "text": text_only("output"),
        "parts": wrapped("output", smg.ContentParts, "parts", _TEXT_PART),
    },
    required=["call_id"],
    always={"output": ""},
)
_TOOL_LIST = Table(
    smg.McpToolList,
    {"server_label": Row("server_label"), "tools": nested("tools", LISTED_FUNCTION)},
)
_STATUS = Names(
    {
        smg.ITEM_STATUS_IN_PROGRESS: "in_progress",
        smg.ITEM_STATUS_COMPLETED: "completed",
        smg.ITEM_STATUS_INCOMPLETE: "incomplete",
        smg.ITEM_STATUS_FAILED: "failed",
    }
)
_COMMON = {"id": Row("id"), "status": _STATUS.at("status")}
_KINDS: dict[str, tuple[str, Rows]] = {
    "message": ("message", {"message": Row("", item_message, _MESSAGE.read)}),
    "reasoning": ("reasoning", {"reasoning": Row("", reasoning, read_reasoning)}),
    "tool_call": ("function_call", {"tool_call": nested("", _CALL)}),
    "tool_result": ("function_call_output", {"tool_result": nested("", _RESULT)}),
}
ITEM = Variants(smg.Item, _KINDS, common=_COMMON)
# An item that the gateway made.
MADE_ITEM = Variants(
    smg.Item,
    _KINDS,
    read_also={
        "tool_call": ("mcp_call", {"tool_call": nested("", _MCP_CALL)}),
        "mcp_tool_list": ("mcp_list_tools", {"mcp_tool_list": nested("", _TOOL_LIST)}),
    },
    common=_COMMON,
)

# --- Requests and replies ---

REQUEST = Table(
    smg.CreateResponseRequest,
    same(
        "model",
        "input",
        "temperature",
        "top_p",
        "parallel_tool_calls",
        "user",
        "instructions",
        "previous_response_id",
        "store",
        "background",
        "max_tool_calls",
        "metadata",
    )
    | {
        "items": wrapped("input", smg.Items, "items", ITEM),
        "max_tokens": Row("max_output_tokens"),
        "tools": nested("tools", RESPONSE_TOOL),
        "tool_choice": Row("tool_choice", response_choice),
        "output_format": nested("", RESPONSE_FORMAT),
        "reasoning_effort": Row("reasoning.effort"),
    },
    required=["model", "input_kind"],
)
_RESPONSE_STATUS = Names(
    {
        smg.RESPONSE_STATUS_QUEUED: "queued",
        smg.RESPONSE_STATUS_IN_PROGRESS: "in_progress",
        smg.RESPONSE_STATUS_COMPLETED: "completed",
        smg.RESPONSE_STATUS_INCOMPLETE: "incomplete",
        smg.RESPONSE_STATUS_FAILED: "failed",
        smg.RESPONSE_STATUS_CANCELLED: "cancelled",
    }
)
_ERROR = Table(smg.Error, {"reason": Row("code", read=reason_of), "message": Row("message")})
_HEAD = same("id", "model", "previous_response_id", "metadata") | {
    "status": _RESPONSE_STATUS.at("status"),
    "create_time": Row("created_at", read=timestamp),
    "complete_time": Row("completed_at", read=timestamp),
    "incomplete_reason": Row("incomplete_details.reason"),
    "usage": nested("usage", RESPONSE_USAGE),
    "error": nested("error", _ERROR),
}
HEAD = Table(smg.Response, _HEAD)
REPLY = Table(
    smg.Response, _HEAD | {"output": nested("output", MADE_ITEM)}, expected=["id", "status"]
)
STORED_ITEMS = Table(
    smg.ListResponseInputItemsResponse, {"items": nested("data", MADE_ITEM)}, expected=["data"]
)

# Which field a delta event brings.
_DELTAS = {
    "response.output_text.delta": "text",
    "response.reasoning_text.delta": "reasoning",
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
}


class ResponseEvents(StreamReader[smg.ResponseEvent]):
    """The stream of a response."""

    def __init__(self) -> None:
        super().__init__()
        self.id: str = ""
        self._skipped: set[int] = set()
        self._start = smg.Response()

    def end_of(self, response: Any) -> smg.ResponseEvent:
        """The end: the response without its output. The final event leaves out what start told."""
        end = smg.Response()
        end.CopyFrom(self._start)
        end.MergeFrom(HEAD.read(response))
        return smg.ResponseEvent(end=end)

    def _text_delta(self, place: int, field: str, text: str) -> smg.ResponseEvent:
        event = smg.ResponseEvent()
        event.delta.output_index = place
        setattr(event.delta, field, text)
        return event

    def _event(self, event: ServerSentEvent) -> None:
        data = object_of(event)
        kind = data.get("type")
        if field := _DELTAS.get(kind or ""):
            index = count(data["output_index"])
            if index not in self._skipped and (text := data.get("delta")):
                self._emit_text(index, field, text)
            return
        match kind:
            case "response.created":
                self._start = HEAD.read(data["response"])
                self.id = self._start.id
                self._emit(smg.ResponseEvent(start=self._start))
            case "response.output_item.added" | "response.output_item.done":
                index = count(data["output_index"])
                item: smg.Item | None = MADE_ITEM.read(data["item"])
                if item is None:
                    self._skipped.add(index)
                elif kind == "response.output_item.added":
                    _empty(item)
                    self._emit(smg.ResponseEvent(item_start=_item_event(index, item)))
                else:
                    self._emit(smg.ResponseEvent(item_end=_item_event(index, item)))
            case "response.completed" | "response.incomplete":
                self._emit(self.end_of(data["response"]))
                self.done = True
            case "response.failed" | "error":
                error = dig(data, "response.error")
                body = {"error": error} if error else data
                raise from_error_body(body, FAILED, response_id=self.id)
            case _:
                pass


def _item_event(index: int, item: smg.Item) -> smg.ItemEvent:
    return smg.ItemEvent(output_index=index, item=item)


def _empty(item: smg.Item) -> None:
    """Make it an item as it starts: what it holds comes with deltas."""
    match item.WhichOneof("item"):
        case "message":
            del item.message.content[:]
        case "reasoning":
            item.reasoning.ClearField("text")
        case "tool_call":
            item.tool_call.ClearField("arguments")
        case _:
            pass
