"""Short ways to write messages of smg.v1 and to read replies.

    request = smg_pb2.ChatRequest(
        model="demo-model",
        messages=[system("Be brief."), user("What is this?", image("https://example.org/a.png"))],
        tools=[function_tool(get_weather)],
        output_format=json_output(Weather),
    )
    reply = stub.Chat(request)
    weather = parse(reply, Weather)

The functions return plain messages. A model is a class of pydantic, which is needed only for
models.
"""

import inspect
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

from smg_proto import smg_pb2 as pb

__all__ = [
    "Model",
    "Reply",
    "assistant",
    "audio",
    "function_tool",
    "image",
    "json_output",
    "parse",
    "system",
    "text_of",
    "tool_result",
    "user",
]

Reply = pb.ChatResponse | pb.CompletionResponse | pb.MessageResponse | pb.Response


class Model(Protocol):
    """A class of pydantic."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]: ...


M = TypeVar("M")


# --- Messages of a chat ---


def system(text: str) -> pb.ChatMessage:
    """Instructions for the whole conversation."""
    return pb.ChatMessage(role=pb.ROLE_SYSTEM, content=text)


def user(*parts: str | pb.ContentPart) -> pb.ChatMessage:
    """The user's message: a text, or texts and media in order."""
    if len(parts) == 1 and isinstance(parts[0], str):
        return pb.ChatMessage(role=pb.ROLE_USER, content=parts[0])
    return pb.ChatMessage(
        role=pb.ROLE_USER,
        parts=[pb.ContentPart(text=part) if isinstance(part, str) else part for part in parts],
    )


def assistant(text: str = "", *, tool_calls: Iterable[pb.ToolCall] = ()) -> pb.ChatMessage:
    """An earlier message of the model. The message of a reply can be appended as it is."""
    return pb.ChatMessage(role=pb.ROLE_ASSISTANT, content=text, tool_calls=tool_calls)


def tool_result(call: pb.ToolCall | str, result: object) -> pb.ChatMessage:
    """The result of a tool call, given as such or by its id. Other results than text are sent as
    JSON."""
    return pb.ChatMessage(
        role=pb.ROLE_TOOL,
        tool_call_id=call if isinstance(call, str) else call.id,
        content=result if isinstance(result, str) else _json(result),
    )


def _json(result: object) -> str:
    dump = getattr(result, "model_dump_json", None)
    return str(dump()) if dump else json.dumps(result, ensure_ascii=False)


def image(source: str | bytes | Path, *, media_type: str = "", detail: str = "") -> pb.ContentPart:
    """An image at a URL, in a file, or as bytes."""
    return pb.ContentPart(image=_media(source, media_type, detail=detail))


def audio(source: str | bytes | Path, *, media_type: str = "") -> pb.ContentPart:
    """Sound at a URL, in a file, or as bytes."""
    return pb.ContentPart(audio=_media(source, media_type))


_MEDIA_TYPES = {  # by the first bytes
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"ID3": "audio/mpeg",
    b"\xff\xfb": "audio/mpeg",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
}


def _media(source: str | bytes | Path, media_type: str, detail: str = "") -> pb.Media:
    if isinstance(source, str):
        return pb.Media(url=source, media_type=media_type, detail=detail)
    data = source.read_bytes() if isinstance(source, Path) else source
    if not media_type and data[:4] == b"RIFF":
        media_type = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(data[8:12], "")
    for beginning, found in _MEDIA_TYPES.items():
        if not media_type and data.startswith(beginning):
            media_type = found
    if not media_type:
        raise ValueError("media_type: unknown type of data; set it, for example to 'image/png'")
    return pb.Media(data=data, media_type=media_type, detail=detail)


# --- Tools and formats ---


def function_tool(
    function: Callable[..., object] | type[Model], *, name: str = "", description: str = ""
) -> pb.Tool:
    """A function that the model can call, given as such or as a model of its arguments.

    Annotations define the parameters, the first paragraph of the docstring is the description.
    `Annotated[str, "in degrees"]` describes a parameter.
    """
    of_model: Any = getattr(function, "model_json_schema", None)
    if of_model:
        schema: dict[str, Any] = dict(of_model())
    elif callable(function):
        schema = _signature(function)
    else:
        raise TypeError(f"function: must be a function or a model, not {type(function).__name__}")
    own = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0]
    schema.pop("description", None)
    return pb.Tool(
        function=pb.FunctionTool(
            name=name or function.__name__,
            description=description or " ".join(own.split()),
            parameters_json=json.dumps(schema, ensure_ascii=False),
        )
    )


def json_output(model: type[Model] | Mapping[str, Any], *, name: str = "") -> pb.OutputFormat:
    """JSON output that fits a model or a JSON schema."""
    schema = model if isinstance(model, Mapping) else model.model_json_schema()
    if not schema:
        raise ValueError("model: the JSON schema is empty")
    name = name or str(getattr(model, "__name__", ""))
    return pb.OutputFormat(json_schema=pb.JsonSchema(schema_json=json.dumps(schema), name=name))


_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def _signature(function: Callable[..., object]) -> dict[str, Any]:
    """The JSON schema of a function's parameters."""
    called = getattr(function, "__name__", repr(function))
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        where = f"parameter {name} of {called}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{where}: {parameter} cannot be passed by name")
        if parameter.annotation is parameter.empty:
            raise TypeError(f"{where}: needs an annotation")
        properties[name] = _schema(parameter.annotation, where)
        if parameter.default is parameter.empty:
            required.append(name)
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _schema(hint: Any, where: str) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    if hasattr(hint, "model_json_schema"):
        return dict(hint.model_json_schema())
    if origin is Annotated:
        texts = [text for text in arguments[1:] if isinstance(text, str)]
        return _schema(arguments[0], where) | ({"description": texts[0]} if texts else {})
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(one, where) for one in arguments]}
    if origin is Literal:
        return {"enum": [*arguments]}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [member.value for member in hint]}
    if hint is list or origin is list:
        return {"type": "array"} | ({"items": _schema(arguments[0], where)} if arguments else {})
    if hint is dict or (origin is dict and arguments[0] is str):
        values = {"additionalProperties": _schema(arguments[1], where)} if arguments else {}
        return {"type": "object"} | values
    if hint is Any:
        return {}
    raise TypeError(f"{where}: unsupported type {hint}; use a pydantic model")


# --- Replies ---


def text_of(reply: Reply) -> str:
    """The text of a reply's first choice, without reasoning."""
    if isinstance(reply, pb.CompletionResponse):
        return reply.text
    if isinstance(reply, pb.ChatResponse):
        return _message_text(reply.choices[0].message) if reply.choices else ""
    if isinstance(reply, pb.MessageResponse):
        return "".join(block.text for block in reply.blocks)
    messages = [item.message for item in reply.output if item.HasField("message")]
    return "".join(map(_message_text, messages))


def _message_text(message: Any) -> str:
    return message.content or "".join(part.text for part in message.parts)


def parse(reply: Reply, model: type[M]) -> M:
    """The text of a reply as a model. Raises a ValueError that says where the text does not fit,
    without the text."""
    read: Callable[[str], M] = getattr(model, "model_validate_json")  # noqa: B009
    try:
        return read(text_of(reply))
    except ValueError as error:
        problems: Any = getattr(error, "errors", None)
        if problems is None:
            raise
        misfits = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the text'}: {problem['type']}"
            for problem in problems(include_url=False, include_context=False, include_input=False)
        )
    raise ValueError(f"the reply{_why(reply)} does not fit {model.__name__}: {misfits}")


def _why(reply: Reply) -> str:
    """The finish reason, since most texts that do not fit were cut."""
    choices = reply.choices if isinstance(reply, pb.ChatResponse) else [reply]
    reason = choices[0].finish_reason if choices else ""
    return f' (finish_reason "{reason}")' if reason not in ("", "stop") else ""
