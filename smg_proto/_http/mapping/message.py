"""MessageService: POST /v1/messages and /v1/messages/count_tokens."""

from typing import Any, cast

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import from_error_body
from smg_proto._http.fields import (
    Cursor,
    Known,
    Names,
    Row,
    Rows,
    Table,
    Variants,
    count,
    json_text,
    leftover,
    nested,
    object_of_text,
    parts,
    same,
    text_only,
)
from smg_proto._http.mapping.common import (
    MESSAGE_TOOL,
    counts,
    finish_reason,
    message_choice,
    message_image,
    read_annotation,
    unsent,
    write_annotation,
)
from smg_proto._http.mapping.streams import FAILED, Extras, Place, StreamReader, object_of
from smg_proto._http.shapes import JsonObject, as_object, parse, to_text
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


def write_reasoning(value: Any, cursor: Cursor) -> JsonObject:
    """Reasoning: readable and signed, or encrypted."""
    if not value.encrypted_content:
        return _REASONING.write(value, cursor)
    if value.text or value.signature:
        cursor.field("encrypted_content").reject("cannot be combined with text on this route")
    return {"type": "redacted_thinking", "data": value.encrypted_content}


def read_redacted(data: Any) -> Any:
    return smg.Reasoning(encrypted_content=data["data"])


_TOOL_CALL = Table(
    smg.ToolCall,
    same("id", "name") | {"arguments": json_text("input")},
    required=["id", "name"],
    always={"input": {}},
)
_TOOL_RESULT = Table(
    smg.ToolResult,
    {
        "call_id": Row("tool_use_id"),
        "content": text_only("content"),
        "parts": parts("content", Variants(smg.ContentPart, _TEXT_OR_IMAGE)),
        "is_error": Row("is_error"),
    },
    required=["call_id"],
    either=[("content", "parts")],
    always={"content": ""},
)
BLOCK = Variants(
    smg.MessageBlock,
    _TEXT_OR_IMAGE
    | {
        "reasoning": (
            "thinking",
            {
                "reasoning": Row(
                    "", write_reasoning, _REASONING.read, members=("thinking", "signature")
                )
            },
        ),
        "tool_call": ("tool_use", {"tool_call": nested("", _TOOL_CALL)}),
        "tool_result": ("tool_result", {"tool_result": nested("", _TOOL_RESULT)}),
    },
    read_also={
        "reasoning": (
            "redacted_thinking",
            {"reasoning": Row("", read=read_redacted, members=("data",))},
        )
    },
    common={"annotations": Row("citations", write_annotation, read_annotation)},
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
    """Reasoning effort: disabled thinking, or adaptive thinking with an effort."""
    if value == "none":
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": value}}


def budget(value: Any, cursor: Cursor) -> JsonObject:
    return {"thinking": {"type": "enabled", "budget_tokens": value}}


def json_format(value: Any, cursor: Cursor) -> Any:
    """The output format, which must be a JSON Schema."""
    kind = value.WhichOneof("format")
    if kind != "json_schema":
        cursor.field(kind or "format").reject()
        return None
    schema, here = value.json_schema, cursor.field("json_schema")
    if schema.name:
        here.field("name").reject()
    if not schema.schema_json:
        here.field("schema_json").reject("is required")
        return None
    body = object_of_text(schema.schema_json, here.field("schema_json"))
    return {"type": "json_schema", "schema": body}


def parallel(value: Any, cursor: Cursor) -> JsonObject:
    """A member of the tool choice, which must then exist."""
    return {"tool_choice": {"type": "auto", "disable_parallel_tool_use": not value}}


_COUNTED = same("model", "system") | {
    "turns": nested("messages", _TURN),
    "tools": nested("tools", MESSAGE_TOOL),
    "tool_choice": Row("tool_choice", message_choice),
    "reasoning_effort": Row("", effort, members=("thinking", "output_config")),
}
REQUEST = Table(
    smg.CreateMessageRequest,
    _COUNTED
    | same("max_tokens", "temperature", "top_p", "top_k")
    | {
        "stop": Row("stop_sequences"),
        "parallel_tool_calls": Row("", parallel, members=("tool_choice",)),
        "user": Row("metadata.user_id"),
        "reasoning_budget_tokens": Row("", budget, members=("thinking",)),
        "output_format": Row("output_config.format", json_format),
    },
    required=["model", "turns", "max_tokens"],
    either=[("reasoning_effort", "reasoning_budget_tokens")],
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


def tokens_in(data: Any) -> int:
    """Tokens of the input. The route counts cached tokens separately."""
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(count(data.get(name) or 0) for name in names)


def total(data: Any) -> int:
    """Tokens of the input and the output."""
    return tokens_in(data) + count(data.get("output_tokens") or 0)


def stop_sequence(data: Any) -> Any:
    return smg.MatchedStop(text=data)


_USAGE = Table(
    smg.Usage,
    counts(
        completion_tokens="output_tokens",
        cached_tokens="cache_read_input_tokens",
        cache_write_tokens="cache_creation_input_tokens",
        reasoning_tokens="output_tokens_details.thinking_tokens",
    )
    | {"prompt_tokens": Row("", read=tokens_in), "total_tokens": Row("", read=total)},
)
_HEAD = same("id", "model")
_FINISH = {
    "finish_reason": Row("stop_reason", read=finish_reason),
    "matched_stop": Row("stop_sequence", read=stop_sequence),
}
_KNOWN_USAGE: Known = {
    **dict.fromkeys(["input_tokens", "output_tokens"]),
    **dict.fromkeys(["cache_read_input_tokens", "cache_creation_input_tokens"]),
    "output_tokens_details": {"thinking_tokens": None},
}
_KNOWN: Known = {
    **dict.fromkeys(["id", "type", "role", "model", "stop_reason", "stop_sequence"]),
    "content": (BLOCK.known,),
    "usage": _KNOWN_USAGE,
}
REPLY = Table(
    smg.MessageResponse,
    _HEAD | _FINISH | {"blocks": nested("content", BLOCK), "usage": nested("usage", _USAGE)},
    expected=["content"],
    known=_KNOWN,
)
_START = Table(smg.MessageResponse, _HEAD)
_END = Table(smg.MessageResponse, _FINISH)
# The member and the field of each kind of delta.
_DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "reasoning"),
    "input_json_delta": ("partial_json", "arguments"),
    "signature_delta": ("signature", "signature"),
}


class MessageEvents(StreamReader[smg.MessageEvent]):
    """Reads the stream of a message."""

    def __init__(self) -> None:
        super().__init__()
        self._end = smg.MessageResponse()
        self._usage: JsonObject = {}
        self._extras = Extras()
        # Incomplete blocks of unknown kinds, and their input so far.
        self._opaque: dict[int, JsonObject] = {}
        self._input: dict[int, str] = {}

    def _text_delta(self, place: Place, field: str, text: str) -> smg.MessageEvent:
        event = smg.MessageEvent()
        event.delta.index = cast(int, place)
        setattr(event.delta, field, text)
        return event

    def _event(self, event: ServerSentEvent) -> None:
        data = object_of(event)
        match data.get("type"):
            case "content_block_delta":
                self._delta(count(data["index"]), data["delta"])
            case "content_block_start":
                self._start_block(count(data["index"]), data["content_block"])
            case "content_block_stop":
                self._end_block(count(data["index"]))
            case "message_start":
                self._add(data["message"])
                _START.read_into(self._end, data["message"])
                self._emit(smg.MessageEvent(start=self._end))
            case "message_delta":
                _END.read_into(self._end, data["delta"])
                self._add({**data["delta"], "usage": data.get("usage")})
            case "message_stop":
                if self._end.finish_reason:
                    self._end.usage.CopyFrom(_USAGE.read(self._usage))
                    self._end.extra_json = self._extras.text()
                    self._emit(smg.MessageEvent(end=self._end))
                    self.done = True
            case "error":
                raise from_error_body(data, FAILED)
            case _:
                pass

    def _add(self, message: JsonObject) -> None:
        """Record usage and unknown members. Later counts replace earlier ones."""
        usage = as_object(message.get("usage"))
        self._usage.update((name, value) for name, value in usage.items() if value is not None)
        self._extras.add(leftover(message, _KNOWN))

    def _delta(self, index: int, delta: JsonObject) -> None:
        kind = delta.get("type") or ""
        if index in self._opaque:
            if kind == "input_json_delta":
                self._input[index] = self._input.get(index, "") + delta["partial_json"]
            else:
                self._opaque[index].setdefault("deltas", []).append(delta)
        elif kind == "citations_delta":
            annotation = read_annotation(delta["citation"])
            cited = smg.MessageDelta(index=index, annotation=annotation)
            self._emit(smg.MessageEvent(delta=cited))
        elif kind in _DELTAS:
            member, field = _DELTAS[kind]
            if text := delta.get(member):
                self._emit_text(index, field, text)
            self._add_block(index, {"delta": leftover(delta, {"type": None, member: None})})
        else:
            opaque = smg.Opaque(type=kind, json=to_text(delta))
            self._emit(smg.MessageEvent(delta=smg.MessageDelta(index=index, opaque=opaque)))

    def _add_block(self, index: int, rest: JsonObject) -> None:
        """Record the members of a block that the contract has no field for."""
        if any(rest.values()):
            self._extras.add({"content": [{"index": index, **rest}]})

    def _start_block(self, index: int, data: JsonObject) -> None:
        block: smg.MessageBlock | None = BLOCK.read(data)
        if block is None:
            raise TypeError("a block without a type")
        if block.HasField("opaque"):  # emitted when it is complete
            self._opaque[index] = dict(data)
            return
        if block.HasField("tool_call"):
            block.tool_call.ClearField("arguments")  # deltas bring them
        self._add_block(index, leftover(data, BLOCK.known(data)))
        self._emit(smg.MessageEvent(block_start=smg.BlockStart(index=index, block=block)))

    def _end_block(self, index: int) -> None:
        if index in self._opaque:
            data = self._opaque.pop(index)
            if text := self._input.pop(index, ""):
                data["input"] = parse(text)
            start = smg.BlockStart(index=index, block=BLOCK.read(data))
            self._emit(smg.MessageEvent(block_start=start))
        self._emit(smg.MessageEvent(block_end=smg.BlockEnd(index=index)))
