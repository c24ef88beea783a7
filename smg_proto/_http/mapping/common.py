"""Types that several APIs share, in the form that each route uses."""

from collections.abc import Callable
from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import (
    Cursor,
    Known,
    Names,
    Row,
    Table,
    Variants,
    base64_of,
    count,
    json_text,
    nested,
    object_of_text,
    same,
)
from smg_proto._http.shapes import JsonObject, is_object, to_text


def unsent(value: Any, cursor: Cursor) -> JsonObject:
    """For fields that are not sent in the body: they are elsewhere, or the route needs none."""
    return {}


ROLE = Names(
    {
        smg.ROLE_SYSTEM: "system",
        smg.ROLE_DEVELOPER: "developer",
        smg.ROLE_USER: "user",
        smg.ROLE_ASSISTANT: "assistant",
        smg.ROLE_TOOL: "tool",
    }
)


# --- Finish reasons ---

# The finish reasons of routes in the vocabulary of smg.v1. Others are returned unchanged.
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "pause_turn": "pause",
}


def finish_reason(data: Any) -> Any:
    return _FINISH_REASONS.get(data, data) if isinstance(data, str) else data


# --- Sampling and output ---

SAMPLING_ROWS = same(
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
) | {"include_stop_in_output": Row("no_stop_trim")}


def _schema(value: Any, cursor: Cursor) -> Any:
    here = cursor.field("schema_json")
    if not value.schema_json:
        here.reject("is required; for any object, use json_object")
        return None
    return object_of_text(value.schema_json, here)


def schema_as_text(value: Any, cursor: Cursor) -> Any:
    """A JSON Schema as a string."""
    if value.name:
        cursor.field("name").reject()
    _schema(value, cursor)
    return value.schema_json


def any_object_as_text(value: Any, cursor: Cursor) -> str:
    return '{"type":"object"}'


def any_object(value: Any, cursor: Cursor) -> JsonObject:
    return {"type": "json_object"}


def schema_format(*, in_an_object: bool) -> Callable[[Any, Cursor], Any]:
    """A JSON Schema with a type. The schema is in an object of its own, or beside the type."""

    def write(value: Any, cursor: Cursor) -> Any:
        schema = _schema(value, cursor)
        named = {"name": value.name or "output", "schema": schema}
        return {"type": "json_schema"} | ({"json_schema": named} if in_an_object else named)

    return write


COMPLETION_FORMAT = Table(
    smg.OutputFormat,
    {
        "json_schema": Row("json_schema", schema_as_text),
        "json_object": Row("json_schema", any_object_as_text),
        "regex": "regex",
        "grammar": "ebnf",
    },
    required=["format"],
)
CHAT_FORMAT = Table(
    smg.OutputFormat,
    {
        "json_schema": Row("response_format", schema_format(in_an_object=True)),
        "json_object": Row("response_format", any_object),
        "regex": "regex",
        "grammar": "ebnf",
    },
    required=["format"],
)
RESPONSE_FORMAT = Table(
    smg.OutputFormat,
    {
        "json_schema": Row("text.format", schema_format(in_an_object=False)),
        "json_object": Row("text.format", any_object),
    },
    required=["format"],
)


# --- Tools ---


def _function(parameters: str) -> dict[str, Row]:
    return same("name", "description") | {"parameters_json": json_text(parameters)}


CHAT_FUNCTION = Table(
    smg.FunctionTool, _function("parameters"), required=["name"], always={"parameters": {}}
)
MESSAGE_FUNCTION = Table(
    smg.FunctionTool, _function("input_schema"), required=["name"], always={"input_schema": {}}
)
LISTED_FUNCTION = Table(smg.FunctionTool, _function("input_schema"))
MCP = Table(
    smg.McpTool,
    same("server_label", "server_url", "authorization", "headers", "allowed_tools"),
    required=["server_label", "server_url"],
    always={"require_approval": "never"},
)

CHAT_TOOL = Variants(
    smg.Tool, {"function": ("function", {"function": nested("function", CHAT_FUNCTION)})}
)
RESPONSE_TOOL = Variants(
    smg.Tool,
    {
        "function": ("function", {"function": nested("", CHAT_FUNCTION)}),
        "mcp": ("mcp", {"mcp": nested("", MCP)}),
    },
)
MESSAGE_TOOL = Table(smg.Tool, {"function": nested("", MESSAGE_FUNCTION)}, required=["kind"])

_MODES = {
    smg.TOOL_CHOICE_MODE_UNSPECIFIED: "auto",
    smg.TOOL_CHOICE_MODE_AUTO: "auto",
    smg.TOOL_CHOICE_MODE_NONE: "none",
    smg.TOOL_CHOICE_MODE_REQUIRED: "required",
}


def _mode(value: Any, cursor: Cursor) -> str:
    """The rule for all tools."""
    if value.mode not in _MODES:
        cursor.field("mode").reject("is not a known mode")
    return _MODES.get(value.mode, "")


def chat_choice(value: Any, cursor: Cursor) -> Any:
    """Which tools the model may or must call: a rule for all, or one function."""
    if value.WhichOneof("choice") == "function":
        return {"type": "function", "function": {"name": value.function}}
    return _mode(value, cursor)


def response_choice(value: Any, cursor: Cursor) -> Any:
    if value.WhichOneof("choice") == "function":
        return {"type": "function", "name": value.function}
    return _mode(value, cursor)


def message_choice(value: Any, cursor: Cursor) -> Any:
    if value.WhichOneof("choice") == "function":
        return {"type": "tool", "name": value.function}
    mode = _mode(value, cursor)
    return {"type": "any" if mode == "required" else mode}


# --- Media ---


def media_url(value: Any, cursor: Cursor) -> Any:
    """Media as one URL: its own, or a data URL."""
    match value.WhichOneof("source"):
        case "url":
            if value.media_type:
                cursor.field("media_type").reject("can only be combined with data")
            return value.url
        case "data":
            if not value.media_type:
                cursor.field("media_type").reject("is required with data")
            return f"data:{value.media_type};base64,{base64_of(value.data)}"
        case _:
            cursor.reject("must have url or data")
            return None


def _no_detail(value: Any, cursor: Cursor) -> None:
    if value.detail:
        cursor.field("detail").reject()


def _image(value: Any, cursor: Cursor, url_member: str) -> JsonObject:
    """An image: its URL and its detail."""
    detail = {"detail": value.detail} if value.detail else {}
    return {url_member: media_url(value, cursor)} | detail


def chat_image(value: Any, cursor: Cursor) -> Any:
    return {"image_url": _image(value, cursor, "url")}


def read_chat_image(data: Any) -> Any:
    image = data["image_url"]
    return smg.Media(url=image.get("url"), detail=image.get("detail"))


def response_image(value: Any, cursor: Cursor) -> Any:
    return _image(value, cursor, "image_url")


def read_response_image(data: Any) -> Any:
    return smg.Media(url=data.get("image_url"), detail=data.get("detail"))


def chat_audio(value: Any, cursor: Cursor) -> Any:
    """Audio: a URL, or data with its format."""
    _no_detail(value, cursor)
    if value.WhichOneof("source") != "data":
        return {"type": "audio_url", "audio_url": {"url": media_url(value, cursor)}}
    if not value.media_type.startswith("audio/"):
        cursor.field("media_type").reject('must be "audio/…" with data')
    format = value.media_type.partition("/")[2]
    audio = {"data": base64_of(value.data), "format": format}
    return {"type": "input_audio", "input_audio": audio}


def chat_video(value: Any, cursor: Cursor) -> Any:
    _no_detail(value, cursor)
    return {"url": media_url(value, cursor)}


def message_image(value: Any, cursor: Cursor) -> Any:
    """An image in the form of /v1/messages."""
    _no_detail(value, cursor)
    if value.WhichOneof("source") != "data":
        return {"type": "url", "url": media_url(value, cursor)}
    if not value.media_type:
        cursor.field("media_type").reject("is required with data")
    return {"type": "base64", "media_type": value.media_type, "data": base64_of(value.data)}


# --- Annotations ---


def write_annotation(value: Any, cursor: Cursor) -> Any:
    """An annotation, unchanged."""
    return object_of_text(value.json, cursor.field("json"))


def read_annotation(data: Any) -> Any:
    """A source or citation. Some routes have its members in an object of its own."""
    kind = data.get("type") or ""
    members: JsonObject = data[kind] if is_object(data.get(kind)) else data

    def first(*names: str) -> Any:
        return next((members[name] for name in names if members.get(name) is not None), None)

    return smg.Annotation(
        type=kind,
        url=first("url"),
        title=first("title", "document_title"),
        quote=first("cited_text", "quote"),
        start_index=first("start_index", "start_char_index"),
        end_index=first("end_index", "end_char_index"),
        json=to_text(data),
    )


# --- Replies ---


def matched_stop(data: Any) -> Any:
    """The stop that ended a text: a string or a token id."""
    return smg.MatchedStop(text=data) if isinstance(data, str) else smg.MatchedStop(token_id=data)


def counts(**paths: str) -> dict[str, Row]:
    """Fields that are counts, with the path of each."""
    return {name: Row(path, read=count) for name, path in paths.items()}


USAGE = Table(
    smg.Usage,
    counts(
        prompt_tokens="prompt_tokens",
        completion_tokens="completion_tokens",
        total_tokens="total_tokens",
        cached_tokens="prompt_tokens_details.cached_tokens",
        reasoning_tokens="completion_tokens_details.reasoning_tokens",
        cache_write_tokens="prompt_tokens_details.cache_creation_tokens",
        prompt_audio_tokens="prompt_tokens_details.audio_tokens",
        completion_audio_tokens="completion_tokens_details.audio_tokens",
        accepted_prediction_tokens="completion_tokens_details.accepted_prediction_tokens",
        rejected_prediction_tokens="completion_tokens_details.rejected_prediction_tokens",
    ),
)
KNOWN_USAGE: Known = {
    **dict.fromkeys(["prompt_tokens", "completion_tokens", "total_tokens"]),
    "prompt_tokens_details": dict.fromkeys(
        ["cached_tokens", "cache_creation_tokens", "audio_tokens"]
    ),
    "completion_tokens_details": dict.fromkeys(
        [
            *("reasoning_tokens", "audio_tokens"),
            *("accepted_prediction_tokens", "rejected_prediction_tokens"),
        ]
    ),
}
RESPONSE_USAGE = Table(
    smg.Usage,
    counts(
        prompt_tokens="input_tokens",
        completion_tokens="output_tokens",
        total_tokens="total_tokens",
        cached_tokens="input_tokens_details.cached_tokens",
        cache_write_tokens="input_tokens_details.cache_write_tokens",
        reasoning_tokens="output_tokens_details.reasoning_tokens",
    ),
)
