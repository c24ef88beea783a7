"""ResponseService: POST /v1/responses, and what is stored of it."""

from collections.abc import Iterator
from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import failed, reason_of, unreadable
from smg_proto._http.fields import (
    SECONDS,
    TEXT,
    At,
    Enum,
    Row,
    Table,
    Variants,
    Wrapped,
    read_reply,
    same,
)
from smg_proto._http.mapping.common import (
    LISTED_FUNCTION,
    RESPONSE_CHOICE,
    RESPONSE_FORMAT,
    RESPONSE_TOOL,
    RESPONSE_USAGE,
    ROLE,
    Picture,
    ReadOnly,
)
from smg_proto._http.mapping.streams import json_of
from smg_proto._http.shapes import JsonObject, dig
from smg_proto._http.sse import ServerSentEvent

_IMAGE = ("input_image", {"image": Row("", Picture("image_url"))})
INPUT_PART = Variants(smg.ContentPart, {"text": ("input_text", {"text": "text"}), "image": _IMAGE})
_OUTPUT_TEXT = Table(
    smg.ContentPart, {"text": "text"}, always={"type": "output_text", "annotations": []}
)
_TEXT_PART = Variants(smg.ContentPart, {"text": ("input_text", {"text": "text"})})


class EitherPart:
    """A part of what was said, whoever said it."""

    def write(self, value: Any, at: At) -> Any:
        return INPUT_PART.write(value, at)

    def read(self, data: Any) -> Any:
        return (
            _OUTPUT_TEXT.read(data) if data.get("type") == "output_text" else INPUT_PART.read(data)
        )


_MESSAGE_ROWS = {"role": Row("role", ROLE), "content": Row("content", EitherPart())}
_INPUT_ROLE = Enum({k: v for k, v in ROLE.names.items() if k != smg.ROLE_TOOL})
_MESSAGE = Table(
    smg.ItemMessage,
    _MESSAGE_ROWS | {"role": Row("role", _INPUT_ROLE)},
    required=["role"],
    always={"content": []},
)
_OWN_MESSAGE = Table(
    smg.ItemMessage,
    _MESSAGE_ROWS | {"content": Row("content", _OUTPUT_TEXT)},
    always={"content": []},
)


class Said:
    """A message: the model's own has another kind of part than the others."""

    def write(self, value: Any, at: At) -> Any:
        table = _OWN_MESSAGE if value.role == smg.ROLE_ASSISTANT else _MESSAGE
        return table.write(value, at)

    def read(self, data: Any) -> Any:
        return _MESSAGE.read(data)


class Thought:
    """Reasoning: an array of texts."""

    def write(self, value: Any, at: At) -> Any:
        if value.signature:
            at.field("signature").refuse()
        content = [{"type": "reasoning_text", "text": value.text}]
        return {"id": "", "summary": [], "content": content}  # the route wants an id, any

    def read(self, data: Any) -> Any:
        return smg.Reasoning(text="".join(part["text"] for part in data.get("content") or ()))


class McpError(ReadOnly):
    """How an MCP call failed: a string, or a kind and its content."""

    def read(self, data: Any) -> Any:
        message = data if isinstance(data, str) else data.get("content") or data.get("type")
        text = message if isinstance(message, str) else str(message)
        return smg.Error(reason="MCP_TOOL_FAILED", message=text)


class Output(ReadOnly):
    """What an MCP tool gave, as text."""

    def read(self, data: Any) -> Any:
        return data if isinstance(data, str) else None


_CALL = Table(smg.ToolCall, {"id": "call_id", "name": "name", "arguments": "arguments"})
_MCP_CALL = Table(
    smg.ToolCall,
    same("id", "name", "arguments", "server_label")
    | {"output": Row("output", Output()), "error": Row("error", McpError())},
)
_RESULT = Table(
    smg.ToolResult,
    {
        "call_id": "call_id",
        "text": Row("output", TEXT),
        "parts": Row("output", Wrapped(smg.ContentParts, "parts", _TEXT_PART)),
    },
    required=["call_id"],
    always={"output": ""},
)
_STATUS = Enum(
    {
        smg.ITEM_STATUS_IN_PROGRESS: "in_progress",
        smg.ITEM_STATUS_COMPLETED: "completed",
        smg.ITEM_STATUS_INCOMPLETE: "incomplete",
        smg.ITEM_STATUS_FAILED: "failed",
    }
)
_COMMON = {"id": Row("id"), "status": Row("status", _STATUS)}
ITEM = Variants(
    smg.Item,
    {
        "message": ("message", {"message": Row("", Said())}),
        "reasoning": ("reasoning", {"reasoning": Row("", Thought())}),
        "tool_call": ("function_call", {"tool_call": Row("", _CALL)}),
        "tool_result": ("function_call_output", {"tool_result": Row("", _RESULT)}),
    },
    common=_COMMON,
)
MADE_ITEM = ITEM.reading_also(
    {
        "tool_call": ("mcp_call", {"tool_call": Row("", _MCP_CALL)}),
        "mcp_tool_list": (
            "mcp_list_tools",
            {
                "mcp_tool_list": Row(
                    "",
                    Table(
                        smg.McpToolList,
                        {"server_label": "server_label", "tools": Row("tools", LISTED_FUNCTION)},
                    ),
                )
            },
        ),
    }
)

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
        "items": Row("input", Wrapped(smg.Items, "items", ITEM)),
        "max_tokens": Row("max_output_tokens"),
        "tools": Row("tools", RESPONSE_TOOL),
        "tool_choice": Row("tool_choice", RESPONSE_CHOICE),
        "output_format": Row("", RESPONSE_FORMAT),
        "reasoning_effort": Row("reasoning.effort"),
    },
    required=["model", "input_kind"],
)


class ErrorCode(ReadOnly):
    def read(self, data: Any) -> Any:
        return reason_of(data)


_HEAD = same("id", "model", "previous_response_id") | {
    "status": Row(
        "status",
        Enum(
            {
                smg.RESPONSE_STATUS_QUEUED: "queued",
                smg.RESPONSE_STATUS_IN_PROGRESS: "in_progress",
                smg.RESPONSE_STATUS_COMPLETED: "completed",
                smg.RESPONSE_STATUS_INCOMPLETE: "incomplete",
                smg.RESPONSE_STATUS_FAILED: "failed",
                smg.RESPONSE_STATUS_CANCELLED: "cancelled",
            }
        ),
    ),
    "create_time": Row("created_at", SECONDS),
    "complete_time": Row("completed_at", SECONDS),
    "incomplete_reason": Row("incomplete_details.reason"),
    "usage": Row("usage", RESPONSE_USAGE),
    "metadata": Row("metadata"),
    "error": Row(
        "error", Table(smg.Error, {"reason": Row("code", ErrorCode()), "message": "message"})
    ),
}
HEAD = Table(smg.Response, _HEAD)
REPLY = Table(smg.Response, _HEAD | {"output": Row("output", MADE_ITEM)})
STORED_ITEMS = Table(smg.ListResponseInputItemsResponse, {"items": Row("data", MADE_ITEM)})
DELETED = Table(smg.DeleteResponseResponse, {})
# Which field a delta event brings.
_DELTAS = {
    "response.output_text.delta": "text",
    "response.reasoning_text.delta": "reasoning",
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
}


class ResponseEvents:
    """The stream of a response."""

    def __init__(self) -> None:
        self.done: bool = False
        self.id: str = ""
        self._skipped: set[int] = set()
        self._start = smg.Response()

    def feed(self, event: ServerSentEvent) -> Iterator[smg.ResponseEvent]:
        data = json_of(event)
        try:
            yield from self._event(str(data.get("type")), data)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise unreadable("an event") from error

    def _event(self, kind: str, data: JsonObject) -> Iterator[smg.ResponseEvent]:
        match kind:
            case "response.created":
                self._start = read_reply(HEAD, data["response"], "an event")
                self.id = self._start.id
                yield smg.ResponseEvent(start=self._start)
            case "response.output_item.added" | "response.output_item.done":
                index = data["output_index"]
                item = MADE_ITEM.read(data["item"])
                if item is None:
                    self._skipped.add(index)
                elif kind.endswith("added"):
                    yield smg.ResponseEvent(item_start=_item_event(index, _begun(item)))
                else:
                    yield smg.ResponseEvent(item_end=_item_event(index, item))
            case "response.completed" | "response.incomplete":
                yield self.ended(data["response"])
            case "response.failed" | "error":
                error = dig(data, "response.error") or data.get("error") or data
                message = error.get("message") or "the worker failed in the middle of the stream"
                raise failed(str(message), response_id=self.id)
            case _ if kind in _DELTAS and data["output_index"] not in self._skipped:
                if data.get("delta"):
                    delta = smg.ResponseDelta(output_index=data["output_index"])
                    setattr(delta, _DELTAS[kind], data["delta"])
                    yield smg.ResponseEvent(delta=delta)
            case _:
                pass

    def ended(self, response: JsonObject) -> smg.ResponseEvent:
        """The end: the response without its output. The final event leaves out what start told."""
        end = smg.Response()
        end.CopyFrom(self._start)
        end.MergeFrom(read_reply(HEAD, response, "an event"))
        self.done = True
        return smg.ResponseEvent(end=end)


def _item_event(index: int, item: smg.Item) -> smg.ItemEvent:
    return smg.ItemEvent(output_index=index, item=item)


def _begun(item: smg.Item) -> smg.Item:
    """An item as it starts: what it holds comes with deltas."""
    match item.WhichOneof("item"):
        case "message":
            del item.message.content[:]
        case "reasoning":
            item.reasoning.ClearField("text")
        case "tool_call":
            item.tool_call.ClearField("arguments")
        case _:
            pass
    return item
