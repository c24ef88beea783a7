"""Short ways to write the messages of smg.v1, and to read what comes back.

    request = smg_pb2.ChatRequest(
        model="demo-model",
        messages=[system("Be brief."), user("What is this?", image("https://example.org/a.png"))],
        tools=[function_tool(get_weather)],
        output_format=json_output(Weather),
    )
    reply = stub.Chat(request)
    weather = parse(reply, Weather)

Everything here returns plain messages. A model is a class of pydantic, which is only needed by
those who pass one.
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
    """What is needed of a class of pydantic."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]: ...


M = TypeVar("M")


# --- Messages of a chat ---


def system(text: str) -> pb.ChatMessage:
    """Instructions for the whole conversation."""
    return pb.ChatMessage(role=pb.ROLE_SYSTEM, content=text)


def user(*parts: str | pb.ContentPart) -> pb.ChatMessage:
    """What the user says: a text, or texts and media in order."""
    if len(parts) == 1 and isinstance(parts[0], str):
        return pb.ChatMessage(role=pb.ROLE_USER, content=parts[0])
    return pb.ChatMessage(
        role=pb.ROLE_USER,
        parts=[pb.ContentPart(text=part) if isinstance(part, str) else part for part in parts],
    )


def assistant(text: str = "", *, tool_calls: Iterable[pb.ToolCall] = ()) -> pb.ChatMessage:
    """What the model said before. A reply's own message can be appended as it is."""
    return pb.ChatMessage(role=pb.ROLE_ASSISTANT, content=text, tool_calls=tool_calls)


def tool_result(call: pb.ToolCall | str, result: object) -> pb.ChatMessage:
    """The answer to a tool call, or to its id. What is no text is sent as JSON."""
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


# What data begins with, and its type.
_BEGINNINGS = {
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
    for beginning, found in _BEGINNINGS.items():
        if not media_type and data.startswith(beginning):
            media_type = found
    if not media_type:
        raise ValueError("media_type: cannot be told from the data; give it, as in 'image/png'")
    return pb.Media(data=data, media_type=media_type, detail=detail)


# --- Tools and formats ---


def function_tool(
    function: Callable[..., object] | type[Model], *, name: str = "", description: str = ""
) -> pb.Tool:
    """A function that the model may call, or a model of its arguments.

    Its parameters come from the annotations, its description from the first paragraph of the
    docstring. `Annotated[str, "in degrees"]` describes a parameter.
    """
    of_model: Any = getattr(function, "model_json_schema", None)
    if of_model:
        schema: dict[str, Any] = dict(of_model())
    elif callable(function):
        schema = _signature(function)
    else:
        raise TypeError(f"function: neither a function nor a model: {type(function).__name__}")
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
    """Text that is JSON and fits a model, or a JSON schema."""
    schema = model if isinstance(model, Mapping) else model.model_json_schema()
    if not schema:
        raise ValueError("model: an empty schema says nothing")
    name = name or str(getattr(model, "__name__", ""))
    return pb.OutputFormat(json_schema=pb.JsonSchema(schema_json=json.dumps(schema), name=name))


_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def _signature(function: Callable[..., object]) -> dict[str, Any]:
    """A JSON schema of what a function takes."""
    called = getattr(function, "__name__", repr(function))
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        where = f"parameter {name} of {called}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(
                f"{where}: a model gives arguments by name; {parameter} cannot be given"
            )
        if parameter.annotation is parameter.empty:
            raise TypeError(f"{where}: has no annotation")
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
    raise TypeError(f"{where}: {hint} has no JSON schema here; use a pydantic model for it")


# --- Replies ---


def text_of(reply: Reply) -> str:
    """The text of a reply: of its first choice, and without reasoning."""
    if isinstance(reply, pb.CompletionResponse):
        return reply.text
    if isinstance(reply, pb.ChatResponse):
        if not reply.choices:
            return ""
        message = reply.choices[0].message
        return message.content or "".join(part.text for part in message.parts)
    if isinstance(reply, pb.MessageResponse):
        return "".join(block.text for block in reply.blocks)
    said = [item.message for item in reply.output if item.HasField("message")]
    return "".join(m.content or "".join(part.text for part in m.parts) for m in said)


def parse(reply: Reply, model: type[M]) -> M:
    """The text of a reply as a model. ValueError: it does not fit, and where, but not the text."""
    read: Callable[[str], M] = getattr(model, "model_validate_json")  # noqa: B009
    try:
        return read(text_of(reply))
    except ValueError as error:
        problems: Any = getattr(error, "errors", None)
        if problems is None:
            raise
        told = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the text'}: {problem['type']}"
            for problem in problems(include_url=False, include_context=False, include_input=False)
        )
    raise ValueError(f"the reply{_why(reply)} does not fit {model.__name__}: {told}")


def _why(reply: Reply) -> str:
    """That a text was cut explains most misfits."""
    choices = reply.choices if isinstance(reply, pb.ChatResponse) else [reply]
    reason = choices[0].finish_reason if choices else ""
    return f' (finish_reason "{reason}")' if reason not in ("", "stop") else ""
