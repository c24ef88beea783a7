"""ResponseService: POST /v1/responses, and stored responses."""

from typing import Any, cast

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import from_error_body, reason_of
from smg_proto._http.fields import (
    Cursor,
    Known,
    Names,
    Row,
    Rows,
    Table,
    Variants,
    count,
    nested,
    parts,
    same,
    text_only,
    timestamp,
)
from smg_proto._http.mapping.common import (
    LISTED_FUNCTION,
    RESPONSE_FORMAT,
    RESPONSE_TOOL,
    RESPONSE_USAGE,
    ROLE,
    finish_reason,
    read_annotation,
    read_response_image,
    response_choice,
    response_image,
    unsent,
    write_annotation,
)
from smg_proto._http.mapping.streams import FAILED, Place, StreamReader, object_of
from smg_proto._http.shapes import JsonObject, as_list, dig, is_list, is_object, to_text
from smg_proto._http.sse import ServerSentEvent

# --- Items ---

_IMAGE: tuple[str, Rows] = (
    "input_image",
    {"image": Row("", response_image, read_response_image, members=("image_url", "detail"))},
)
_REFUSAL: tuple[str, Rows] = ("refusal", {"refusal": "refusal"})
_ANNOTATIONS: Rows = {"annotations": Row("annotations", write_annotation, read_annotation)}
INPUT_PART = Variants(
    smg.ContentPart,
    {"text": ("input_text", {"text": "text"}), "image": _IMAGE},
    read_also={"text": ("output_text", {"text": Row("text"), **_ANNOTATIONS}), "refusal": _REFUSAL},
)
OUTPUT_PART = Variants(
    smg.ContentPart,
    {"text": ("output_text", {"text": "text"}), "refusal": _REFUSAL},
    common=_ANNOTATIONS,
)
_TEXT_PART = Variants(smg.ContentPart, {"text": ("input_text", {"text": "text"})})


def output_part(value: Any, cursor: Cursor) -> Any:
    """A part that the model wrote. The route requires annotations for a text."""
    part = OUTPUT_PART.write(value, cursor)
    if is_object(part) and part.get("type") == "output_text":
        part.setdefault("annotations", [])
    return part


def text_as_part(value: Any, cursor: Cursor) -> Any:
    """Plain text as the single part of a message that the model wrote."""
    return [{"type": "output_text", "text": value, "annotations": []}]


_INPUT_ROLE = Names({k: v for k, v in ROLE.texts.items() if k != smg.ROLE_TOOL})
_MESSAGE = Table(
    smg.ItemMessage,
    {
        "role": _INPUT_ROLE.at("role"),
        "content": text_only("content"),
        "parts": parts("content", INPUT_PART),
    },
    required=["role"],
    either=[("content", "parts")],
    always={"content": ()},
)
_MODELS_MESSAGE = Table(
    smg.ItemMessage,
    {
        "role": ROLE.at("role"),
        "content": Row("content", text_as_part),
        "parts": Row("content", output_part),
    },
    either=[("content", "parts")],
    always={"content": ()},
)


def item_message(value: Any, cursor: Cursor) -> JsonObject:
    """A message. Messages that the model wrote have another kind of part than others."""
    table = _MODELS_MESSAGE if value.role == smg.ROLE_ASSISTANT else _MESSAGE
    return table.write(value, cursor)


def reasoning(value: Any, cursor: Cursor) -> JsonObject:
    """Reasoning as an array of texts."""
    if value.signature:
        cursor.field("signature").reject()
    summary = [{"type": "summary_text", "text": text} for text in value.summary]
    out: JsonObject = {"id": "", "summary": summary}  # the route requires an id, even an empty one
    if value.text or not value.encrypted_content:
        out["content"] = [{"type": "reasoning_text", "text": value.text}]
    if value.encrypted_content:
        out["encrypted_content"] = value.encrypted_content
    return out


def read_reasoning(data: Any) -> Any:
    content = as_list(data.get("content") or [])
    summary = as_list(data.get("summary") or [])
    return smg.Reasoning(
        text="".join(part["text"] for part in content),
        summary=[part["text"] for part in summary],
        encrypted_content=data.get("encrypted_content") or "",
    )


def mcp_error(data: Any) -> Any:
    """The error of an MCP call: a string, or an object with type and content."""
    message = data if isinstance(data, str) else data.get("content") or data.get("type")
    text = message if isinstance(message, str) else str(message)
    return smg.Failure(reason="MCP_TOOL_FAILED", message=text)


def mcp_output(data: Any) -> Any:
    """The output of an MCP call: a text, or the texts of several parts."""
    if not is_list(data):
        return data
    return "".join(part.get("text") or "" for part in data)


# MCP content, whose images have another form than those of routes.
_MCP_PART = Variants(smg.ContentPart, {"text": ("text", {"text": "text"})})


def mcp_parts(data: Any) -> Any:
    return [_MCP_PART.read(part) for part in data] if is_list(data) else ()


_CALL = Table(
    smg.ToolCall,
    {"id": "call_id", "name": "name", "arguments": "arguments"},
    # Engines send empty arguments for a function without parameters; the gateway requires JSON.
    always={"arguments": "{}"},
)
_MCP_CALL = Table(
    smg.ToolCall,
    same("id", "name", "arguments", "server_label")
    | {
        "output": Row("output", read=mcp_output),
        "output_parts": Row("output", read=mcp_parts, whole=True),
        "error": Row("error", read=mcp_error),
    },
)
_RESULT = Table(
    smg.ToolResult,
    {
        "call_id": Row("call_id"),
        "content": text_only("output"),
        "parts": parts("output", _TEXT_PART),
    },
    required=["call_id"],
    either=[("content", "parts")],
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
_REASONING_MEMBERS = ("summary", "content", "encrypted_content")
_COMMON = {"id": Row("id"), "status": _STATUS.at("status")}
_KINDS: dict[str, tuple[str, Rows]] = {
    "message": (
        "message",
        {"message": Row("", item_message, _MESSAGE.read, members=("role", "content"))},
    ),
    "reasoning": (
        "reasoning",
        {"reasoning": Row("", reasoning, read_reasoning, members=_REASONING_MEMBERS)},
    ),
    "tool_call": ("function_call", {"tool_call": nested("", _CALL)}),
    "tool_result": ("function_call_output", {"tool_result": nested("", _RESULT)}),
}
ITEM = Variants(smg.ResponseItem, _KINDS, common=_COMMON)
# An item that the gateway returned.
OUTPUT_ITEM = Variants(
    smg.ResponseItem,
    _KINDS,
    read_also={
        "tool_call": ("mcp_call", {"tool_call": nested("", _MCP_CALL)}),
        "mcp_tool_list": ("mcp_list_tools", {"mcp_tool_list": nested("", _TOOL_LIST)}),
    },
    common=_COMMON,
    inner={
        "message": {"content": (INPUT_PART.known,)},
        "mcp_call": {"error": dict.fromkeys(["type", "content"])},
        "mcp_list_tools": {"tools": (dict.fromkeys(["name", "description", "input_schema"]),)},
    },
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
        "include",
    )
    | {
        "items": Row("input", ITEM.write),
        "conversation_id": Row("conversation"),
        "reasoning_summary": Row("reasoning.summary"),
        "idempotency_key": Row("", unsent),
        "max_tokens": Row("max_output_tokens"),
        "tools": nested("tools", RESPONSE_TOOL),
        "tool_choice": Row("tool_choice", response_choice),
        "output_format": nested("", RESPONSE_FORMAT),
        "reasoning_effort": Row("reasoning.effort"),
    },
    required=["model", "input|items"],
    either=[("input", "items"), ("previous_response_id", "conversation_id")],
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
_ERROR = Table(smg.Failure, {"reason": Row("code", read=reason_of), "message": Row("message")})


def response_finish(data: Any) -> Any:
    """The finish reason: reported if the response is incomplete, else derived from its output."""
    if data.get("status") == "incomplete":
        return finish_reason(dig(data, "incomplete_details.reason"))
    if data.get("status") != "completed":
        return None
    kinds = {item.get("type") for item in as_list(data.get("output") or [])}
    return "tool_calls" if "function_call" in kinds else "stop"


_HEAD = same("id", "model", "previous_response_id", "metadata", "background") | {
    "status": _RESPONSE_STATUS.at("status"),
    "create_time": Row("created_at", read=timestamp),
    "complete_time": Row("completed_at", read=timestamp),
    "finish_reason": Row("", read=response_finish),
    "conversation_id": Row("conversation.id"),
    "usage": nested("usage", RESPONSE_USAGE),
    "error": nested("error", _ERROR),
}
# The members that are read, and the request's settings, which the gateway repeats.
_KNOWN_USAGE: Known = {
    **dict.fromkeys(["input_tokens", "output_tokens", "total_tokens"]),
    "input_tokens_details": dict.fromkeys(["cached_tokens", "cache_write_tokens"]),
    "output_tokens_details": {"reasoning_tokens": None},
}
_KNOWN: Known = {
    "usage": _KNOWN_USAGE,
    "output": (OUTPUT_ITEM.known,),
    **dict.fromkeys(
        [
            *("id", "object", "model", "previous_response_id", "metadata", "background", "status"),
            *("created_at", "completed_at", "incomplete_details", "conversation", "error"),
            *("instructions", "max_output_tokens", "parallel_tool_calls", "reasoning"),
            *("store", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p"),
            *("truncation", "user", "max_tool_calls", "include"),
        ]
    ),
}
HEAD = Table(smg.Response, _HEAD, known=_KNOWN)
REPLY = Table(
    smg.Response,
    _HEAD | {"output": nested("output", OUTPUT_ITEM)},
    expected=["id", "status"],
    known=_KNOWN,
)
STORED_ITEMS = Table(
    smg.ListResponseInputItemsResponse, {"items": nested("data", OUTPUT_ITEM)}, expected=["data"]
)

# The field of each delta event, and the member with the index of the part.
_DELTAS = {
    "response.output_text.delta": ("text", "content_index"),
    "response.refusal.delta": ("refusal", "content_index"),
    "response.reasoning_text.delta": ("reasoning", "content_index"),
    "response.reasoning_summary_text.delta": ("reasoning_summary", "summary_index"),
    "response.function_call_arguments.delta": ("arguments", ""),
    "response.mcp_call_arguments.delta": ("arguments", ""),
}


# Events that only repeat others: that something starts, continues or is complete.
_REPEATED = (".added", ".done", ".queued", ".in_progress", ".completed", ".failed")


class ResponseEvents(StreamReader[smg.ResponseEvent]):
    """Reads the stream of a response."""

    def __init__(self) -> None:
        super().__init__()
        self.id: str = ""
        self._start = smg.Response()
        self._calls = False
        self._place = -1  # index of the item that started last
        # The sequence numbers of the current event, and of the last one with pending text.
        self._number: int | None = None
        self._number_of_text: int | None = None

    def end_of(self, response: Any) -> smg.ResponseEvent:
        """The end event: the response without its output, merged with what the start reported."""
        end = smg.Response()
        end.CopyFrom(self._start)
        end.MergeFrom(HEAD.read(response))
        if self._calls and end.finish_reason == "stop":
            end.finish_reason = "tool_calls"
        return smg.ResponseEvent(end=end)

    def _emit(self, event: smg.ResponseEvent) -> None:
        if self._number is not None:
            event.sequence_number = self._number
        super()._emit(event)

    def _text_delta(self, place: Place, field: str, text: str) -> smg.ResponseEvent:
        event = smg.ResponseEvent()
        event.delta.output_index, event.delta.content_index = cast(tuple[int, int], place)
        setattr(event.delta, field, text)
        if self._number_of_text is not None:
            event.sequence_number = self._number_of_text
        return event

    def _event(self, event: ServerSentEvent) -> None:
        data = object_of(event)
        kind = data.get("type") or ""
        number = data.get("sequence_number")
        self._number = None if number is None else count(number)
        if kind in _DELTAS:
            field, part = _DELTAS[kind]
            if text := data.get("delta"):
                place = count(data["output_index"]), count(data.get(part) or 0)
                self._emit_text(place, field, text)
                self._number_of_text = self._number
            return
        match kind:
            case "response.created":
                self._start = HEAD.read(data["response"])
                self.id = self._start.id
                self._emit(smg.ResponseEvent(start=self._start))
            case "response.output_item.added" | "response.output_item.done":
                index = count(data["output_index"])
                item: smg.ResponseItem | None = OUTPUT_ITEM.read(data["item"])
                if item is None:
                    raise TypeError("an item without a type")
                if kind == "response.output_item.added":
                    self._place = index
                    _empty(item)
                    self._emit(smg.ResponseEvent(item_start=_item_event(index, item)))
                else:
                    call = item.HasField("tool_call") and not item.tool_call.server_label
                    self._calls = self._calls or call
                    self._emit(smg.ResponseEvent(item_end=_item_event(index, item)))
            case "response.output_text.annotation.added":
                delta = smg.ResponseDelta(
                    output_index=count(data["output_index"]),
                    content_index=count(data.get("content_index") or 0),
                    annotation=read_annotation(data["annotation"]),
                )
                self._emit(smg.ResponseEvent(delta=delta))
            case "response.completed" | "response.incomplete":
                self._emit(self.end_of(data["response"]))
                self.done = True
            case "response.failed" | "error":
                error = dig(data, "response.error")
                body = {"error": error} if error else data
                raise from_error_body(body, FAILED, response_id=self.id)
            case _ if kind.endswith(_REPEATED):
                pass
            case _ if "output_index" in data:
                self._emit_opaque(count(data["output_index"]), kind, data)
            case _ if kind.startswith("response.") and self._place >= 0:
                self._emit_opaque(self._place, kind, data)  # sound does not say of which item it is
            case _:
                pass

    def _emit_opaque(self, index: int, kind: str, data: JsonObject) -> None:
        delta = smg.ResponseDelta(
            output_index=index,
            content_index=count(data.get("content_index") or 0),
            opaque=smg.Opaque(type=kind, json=to_text(data)),
        )
        self._emit(smg.ResponseEvent(delta=delta))


def _item_event(index: int, item: smg.ResponseItem) -> smg.ItemEvent:
    return smg.ItemEvent(output_index=index, item=item)


def _empty(item: smg.ResponseItem) -> None:
    """Clear the content of an item that starts: deltas bring it."""
    match item.WhichOneof("item"):
        case "message":
            del item.message.parts[:]
        case "reasoning":
            item.reasoning.ClearField("text")
        case "tool_call":
            item.tool_call.ClearField("arguments")
        case _:
            pass
