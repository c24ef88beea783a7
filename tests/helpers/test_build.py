"""smg_proto.build: messages written short, and replies read."""

import json
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel

from smg_proto import smg_pb2 as pb
from smg_proto.build import (
    assistant,
    audio,
    function_tool,
    image,
    json_output,
    parse,
    system,
    text_of,
    tool_result,
    user,
)


class Weather(BaseModel):
    """How it is outside."""

    city: str
    degrees: float


class Unit(Enum):
    CELSIUS = "celsius"
    KELVIN = "kelvin"


def schema_of(tool: pb.Tool) -> Any:
    return json.loads(tool.function.parameters_json)


def test_messages_of_a_chat() -> None:
    assert system("Be brief.") == pb.ChatMessage(role=pb.ROLE_SYSTEM, content="Be brief.")
    assert user("Hello") == pb.ChatMessage(role=pb.ROLE_USER, content="Hello")
    call = pb.ToolCall(id="c", name="f", arguments="{}")
    printed = pb.ChatMessage(role=pb.ROLE_ASSISTANT, content="Well", tool_calls=[call])
    assert assistant("Well", tool_calls=[call]) == printed
    result = pb.ChatMessage(role=pb.ROLE_TOOL, tool_call_id="c", content="18")
    assert tool_result(call, "18") == tool_result("c", "18") == tool_result(call, 18) == result
    assert tool_result("c", {"é": [1]}).content == '{"é": [1]}'
    weather = Weather(city="Oslo", degrees=3)
    assert json.loads(tool_result("c", weather).content) == {"city": "Oslo", "degrees": 3.0}


def test_invalid_json_is_rejected() -> None:
    with pytest.raises(TypeError, match="object"):
        tool_result("c", object())


def test_parts(tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n"
    (tmp_path / "a").write_bytes(png)
    shown = image("https://example.org/a.png", detail="low")
    message = user("What is", shown, image(png), image(tmp_path / "a"))
    assert (message.role, message.content) == (pb.ROLE_USER, "")
    assert [part.WhichOneof("part") for part in message.parts] == ["text", *["image"] * 3]
    assert (message.parts[1].image.url, message.parts[1].image.detail) == (shown.image.url, "low")
    assert message.parts[2] == message.parts[3]
    assert (message.parts[2].image.data, message.parts[2].image.media_type) == (png, "image/png")


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"OggS\0", "audio/ogg"),
        (b"fLaC\0", "audio/flac"),
        (b"ID3\4", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
    ],
)
def test_the_type_of_data_is_detected(data: bytes, media_type: str) -> None:
    assert audio(data).audio == pb.Media(data=data, media_type=media_type)
    assert audio(data, media_type="audio/x").audio.media_type == "audio/x"


def test_a_url_keeps_its_type_and_data_their_detail() -> None:
    url = "https://example.org/a"
    assert audio(url, media_type="audio/x").audio == pb.Media(url=url, media_type="audio/x")
    assert image(b"GIF89a", detail="low").image.detail == "low"


def test_data_of_an_unknown_type_needs_a_media_type() -> None:
    with pytest.raises(ValueError, match="media_type: unknown type of data"):
        image(b"RIFF....????")
    assert image(b"?", media_type="image/x").image.media_type == "image/x"


# --- Tools ---


def test_a_tool_from_a_function() -> None:
    def get_weather(
        city: Annotated[str, "Where"],
        days: int = 1,
        *,
        unit: Unit = Unit.CELSIUS,
        hours: list[int] | None = None,
        detail: Literal["low", "high"] = "low",
        extra: dict[str, float] | None = None,
        like: Weather | None = None,
        anything: Any = None,
    ) -> str:
        """Tell how warm
        it is.

        Not for other planets.
        """
        return city

    tool = function_tool(get_weather)
    assert (tool.function.name, tool.function.description) == (
        "get_weather",
        "Tell how warm it is.",
    )
    null = {"type": "null"}
    assert schema_of(tool) == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where"},
            "days": {"type": "integer"},
            "unit": {"enum": ["celsius", "kelvin"]},
            "hours": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, null]},
            "detail": {"enum": ["low", "high"]},
            "extra": {
                "anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, null]
            },
            "like": {"anyOf": [Weather.model_json_schema(), null]},
            "anything": {},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    named = function_tool(get_weather, name="weather", description="Short.").function
    assert (named.name, named.description) == ("weather", "Short.")


def with_names_of_types(city: "str", é: "bool") -> None:
    """Größe."""


def test_a_tool_from_a_function_with_annotations_as_text() -> None:
    tool = function_tool(with_names_of_types).function
    types = {"city": {"type": "string"}, "é": {"type": "boolean"}}
    assert json.loads(tool.parameters_json)["properties"] == types
    assert "é" in tool.parameters_json and tool.description == "Größe."


def test_a_tool_from_a_model() -> None:
    tool = function_tool(Weather)
    assert (tool.function.name, tool.function.description) == ("Weather", "How it is outside.")
    assert schema_of(tool)["required"] == ["city", "degrees"]
    assert "description" not in schema_of(tool)


def without_annotation(city) -> None: ...  # type: ignore[no-untyped-def]
def with_the_rest(*cities: str) -> None: ...
def by_position(city: str, /) -> None: ...
def of_bytes(city: bytes) -> None: ...
def by_number(cities: dict[int, str]) -> None: ...


@pytest.mark.parametrize(
    ("function", "printed"),
    [
        (without_annotation, "parameter city of without_annotation: needs an annotation"),
        (with_the_rest, r"parameter cities of with_the_rest: .*cannot be passed by name"),
        (by_position, r"parameter city of by_position: .*cannot be passed by name"),
        (of_bytes, "parameter city of of_bytes: unsupported type <class 'bytes'>"),
        (by_number, r"parameter cities of by_number: unsupported type dict\[int, str\]"),
        ("text", "function: must be a function or a model, not str"),
    ],
)
def test_a_function_that_no_model_can_call_is_rejected(
    function: Callable[..., None], printed: str
) -> None:
    with pytest.raises(TypeError, match=printed):
        function_tool(function)


# --- Formats and replies ---


def test_json_output() -> None:
    found = json_output(Weather).json_schema
    assert found.name == "Weather"
    assert json.loads(found.schema_json) == Weather.model_json_schema()
    other = json_output({"type": "array"}, name="list").json_schema
    assert (other.name, other.schema_json) == ("list", '{"type": "array"}')
    with pytest.raises(ValueError, match="the JSON schema is empty"):
        json_output({})


def replies(text: str, finish_reason: str = "stop") -> list[Any]:
    message = pb.ItemMessage(parts=[pb.ContentPart(text=text)])
    items = [pb.ResponseItem(reasoning=pb.Reasoning(text="?")), pb.ResponseItem(message=message)]
    blocks = [pb.MessageBlock(reasoning=pb.Reasoning(text="?")), pb.MessageBlock(text=text)]
    choices = [
        pb.ChatChoice(finish_reason=finish_reason, message=assistant(text)),
        pb.ChatChoice(index=1, message=assistant("other")),
    ]
    return [
        pb.CompletionResponse(text=text, finish_reason=finish_reason),
        pb.ChatResponse(choices=choices),
        pb.MessageResponse(blocks=blocks, finish_reason=finish_reason),
        pb.Response(output=items, finish_reason=finish_reason),
    ]


def test_the_text_of_a_reply() -> None:
    assert [text_of(reply) for reply in replies("It is 42.")] == ["It is 42."] * 4
    assert text_of(pb.ChatResponse()) == text_of(pb.Response()) == ""


def test_a_reply_as_a_model() -> None:
    for reply in replies('{"city": "Oslo", "degrees": 3}'):
        assert parse(reply, Weather) == Weather(city="Oslo", degrees=3)


def test_a_reply_that_does_not_fit_is_not_shown() -> None:
    for reply in replies('{"city": "secret"}', "length"):
        with pytest.raises(ValueError, match="does not fit Weather: degrees: missing") as caught:
            parse(reply, Weather)
        assert '(finish_reason "length")' in str(caught.value)
        assert "secret" not in repr(caught.value) + repr(caught.value.__context__)
    with pytest.raises(ValueError, match="does not fit Weather: the text: json_invalid"):
        parse(pb.ChatResponse(), Weather)


class Shy:
    """A model of another library, with an error of its own."""

    @classmethod
    def model_validate_json(cls, text: str) -> "Shy":
        raise ValueError("its own words")

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return {}


def test_an_error_of_another_kind_of_model_is_left_as_it_is() -> None:
    with pytest.raises(ValueError, match="its own words"):
        parse(pb.CompletionResponse(text="{}"), Shy)


def test_only_the_place_and_the_kind_of_a_misfit_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pydantic is asked for nothing else, since the rest has the text."""
    requested: list[dict[str, bool]] = []

    class Problem(ValueError):
        def errors(self, **options: bool) -> list[dict[str, Any]]:
            requested.append(options)
            return [{"loc": ("city", 0), "type": "missing", "input": "secret"}]

    def fail(text: str) -> Shy:
        raise Problem

    monkeypatch.setattr(Shy, "model_validate_json", fail)
    with pytest.raises(ValueError, match=r"does not fit Shy: city\.0: missing$"):
        parse(pb.CompletionResponse(), Shy)
    assert requested == [{"include_url": False, "include_context": False, "include_input": False}]
