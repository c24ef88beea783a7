"""Types that several APIs share, in the form that each route has for them."""

import base64
from collections.abc import Mapping
from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import JSON_OBJECT, At, Enum, Row, Same, Table, Variants, same
from smg_proto._http.shapes import JsonObject, as_object


class WriteOnly:
    """For fields that no reply has."""

    def write(self, value: Any, at: At) -> Any:
        raise NotImplementedError

    def read(self, data: Any) -> Any:
        return None


class ReadOnly:
    """For fields that no request has."""

    def write(self, value: Any, at: At) -> Any:
        at.refuse()

    def read(self, data: Any) -> Any:
        raise NotImplementedError


class Unsent(WriteOnly):
    """For fields that are no part of the body: in the path, or without bearing on the answer."""

    def write(self, value: Any, at: At) -> Any:
        return {}


ROLE = Enum(
    {
        smg.ROLE_SYSTEM: "system",
        smg.ROLE_DEVELOPER: "developer",
        smg.ROLE_USER: "user",
        smg.ROLE_ASSISTANT: "assistant",
        smg.ROLE_TOOL: "tool",
    }
)


# --- Sampling and output ---

SAMPLING_ROWS = same(
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
) | {"include_stop_in_output": Row("no_stop_trim")}


class SchemaText(WriteOnly):
    """A JSON Schema as one string; any object if there is none."""

    def write(self, value: Any, at: At) -> Any:
        if value.name:
            at.field("name").refuse()
        if not value.schema_json:
            return '{"type":"object"}'
        JSON_OBJECT.write(value.schema_json, at.field("schema_json"))
        return value.schema_json


class SchemaFormat(WriteOnly):
    """A JSON Schema as an object with a type: as chat nests it, or flat as responses has it."""

    def __init__(self, *, nested: bool) -> None:
        self._nested = nested

    def write(self, value: Any, at: At) -> Any:
        if not value.schema_json:
            if value.name:
                at.field("name").refuse("needs schema_json on this route")
            return {"type": "json_object"}
        schema = JSON_OBJECT.write(value.schema_json, at.field("schema_json"))
        named = {"name": value.name or "output", "schema": schema}
        return {"type": "json_schema"} | ({"json_schema": named} if self._nested else named)


COMPLETION_FORMAT = Table(
    smg.OutputFormat,
    {"json_schema": Row("json_schema", SchemaText()), "regex": "regex", "grammar": "ebnf"},
)
CHAT_FORMAT = Table(
    smg.OutputFormat,
    {
        "json_schema": Row("response_format", SchemaFormat(nested=True)),
        "regex": "regex",
        "grammar": "ebnf",
    },
)
RESPONSE_FORMAT = Table(
    smg.OutputFormat, {"json_schema": Row("text.format", SchemaFormat(nested=False))}
)


# --- Tools ---


class Parameters(Same):
    """A function's JSON Schema; none is one of no parameters."""

    def write(self, value: Any, at: At) -> Any:
        return JSON_OBJECT.write(value, at)

    def read(self, data: Any) -> Any:
        return JSON_OBJECT.read(data)


def _function(parameters: str) -> dict[str, Row]:
    return same("name", "description") | {"parameters_json": Row(parameters, Parameters())}


# What a tool always has comes last: it stays out of the way of what the request says.
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
    smg.Tool, {"function": ("function", {"function": Row("function", CHAT_FUNCTION)})}
)
RESPONSE_TOOL = Variants(
    smg.Tool,
    {
        "function": ("function", {"function": Row("", CHAT_FUNCTION)}),
        "mcp": ("mcp", {"mcp": Row("", MCP)}),
    },
)
MESSAGE_TOOL = Table(smg.Tool, {"function": Row("", MESSAGE_FUNCTION)}, required=["kind"])


class ToolChoice(WriteOnly):
    """A rule for all tools, or one function; the routes have three shapes for them."""

    def __init__(self, modes: Mapping[Any, Any], function: JsonObject) -> None:
        self._modes, self._function = modes, function

    def write(self, value: Any, at: At) -> Any:
        if value.WhichOneof("choice") == "function":
            return _with_name(self._function, value.function)
        if value.mode not in self._modes:
            at.field("mode").refuse("is no mode that this contract knows")
        return self._modes.get(value.mode)


def _with_name(shape: JsonObject, name: str) -> JsonObject:
    """A shape with the name in its empty place."""
    return {
        k: _with_name(as_object(v), name) if isinstance(v, dict) else v or name
        for k, v in shape.items()
    }


_MODES = {
    smg.TOOL_CHOICE_MODE_UNSPECIFIED: "auto",
    smg.TOOL_CHOICE_MODE_AUTO: "auto",
    smg.TOOL_CHOICE_MODE_NONE: "none",
    smg.TOOL_CHOICE_MODE_REQUIRED: "required",
}
CHAT_CHOICE = ToolChoice(_MODES, {"type": "function", "function": {"name": ""}})
RESPONSE_CHOICE = ToolChoice(_MODES, {"type": "function", "name": ""})
MESSAGE_CHOICE = ToolChoice(
    {k: {"type": "any" if v == "required" else v} for k, v in _MODES.items()},
    {"type": "tool", "name": ""},
)


# --- Media ---


class Source(WriteOnly):
    """A medium as one URL: its own, or one that holds the data."""

    def write(self, value: Any, at: At) -> Any:
        match value.WhichOneof("source"):
            case "url":
                if value.media_type:
                    at.field("media_type").refuse("goes with data, not with url")
                return value.url
            case "data":
                if not value.media_type:
                    at.field("media_type").refuse("is required with data")
                return f"data:{value.media_type};base64,{base64.b64encode(value.data).decode()}"
            case _:
                at.refuse("needs url or data")
                return None

    def read(self, data: Any) -> Any:
        return smg.Media(url=data)


class Picture(Source):
    """An image: where it is, and how closely to look; as members of these names."""

    def __init__(self, url: str) -> None:
        self._url = url

    def write(self, value: Any, at: At) -> Any:
        detail = {"detail": value.detail} if value.detail else {}
        return {self._url: super().write(value, at)} | detail

    def read(self, data: Any) -> Any:
        return smg.Media(url=data.get(self._url), detail=data.get("detail"))


class Sound(WriteOnly):
    """Audio: a URL, or data and its format."""

    def write(self, value: Any, at: At) -> Any:
        if value.detail:
            at.field("detail").refuse()
        if value.WhichOneof("source") != "data":
            return {"type": "audio_url", "audio_url": {"url": Source().write(value, at)}}
        if not value.media_type.startswith("audio/"):
            at.field("media_type").refuse('must be "audio/…" with data')
        data = base64.b64encode(value.data).decode()
        sound = {"data": data, "format": value.media_type.partition("/")[2]}
        return {"type": "input_audio", "input_audio": sound}


class Film(Source):
    """Video: a URL, its own or one that holds the data."""

    def write(self, value: Any, at: At) -> Any:
        if value.detail:
            at.field("detail").refuse()
        return {"url": super().write(value, at)}


class MessageImage(WriteOnly):
    """An image with its source, as /v1/messages has it."""

    def write(self, value: Any, at: At) -> Any:
        if value.detail:
            at.field("detail").refuse()
        if value.WhichOneof("source") != "data":
            return {"type": "url", "url": Source().write(value, at)}
        if not value.media_type:
            at.field("media_type").refuse("is required with data")
        data = base64.b64encode(value.data).decode()
        return {"type": "base64", "media_type": value.media_type, "data": data}


# --- What comes back ---


class MatchedStop(ReadOnly):
    """The stop that ended a text: a string, or the number of a token."""

    def read(self, data: Any) -> Any:
        return (
            smg.MatchedStop(text=data) if isinstance(data, str) else smg.MatchedStop(token_id=data)
        )


MATCHED_STOP = MatchedStop()
USAGE = Table(
    smg.Usage,
    same("prompt_tokens", "completion_tokens", "total_tokens")
    | {
        "cached_tokens": Row("prompt_tokens_details.cached_tokens"),
        "reasoning_tokens": Row("completion_tokens_details.reasoning_tokens"),
    },
)
RESPONSE_USAGE = Table(
    smg.Usage,
    {
        "prompt_tokens": "input_tokens",
        "completion_tokens": "output_tokens",
        "total_tokens": "total_tokens",
        "cached_tokens": "input_tokens_details.cached_tokens",
        "reasoning_tokens": "output_tokens_details.reasoning_tokens",
    },
)
