"""Checks of requests, and their sampling parameters.

Generation requests share field names, so one check serves all of them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import Message

from smg_proto import smg_pb2 as pb
from smg_proto.errors import FieldViolation, invalid
from smg_proto.testing._gateway.core import not_found, unsupported
from smg_proto.testing._generation import Sampling
from smg_proto.testing._json_schema import Unsupported, smallest_text
from smg_proto.testing._model import Model

_MAX_STOPS = 4

# Field: lowest and highest value.
_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, math.inf),
    "temperature": (0, 2),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "logprobs": (0, 20),
    "n": (1, 10),
    "max_tool_calls": (1, math.inf),
    "dimensions": (1, math.inf),
    "top_n": (1, math.inf),
    "min_p": (0, 1),
    "repetition_penalty": (0, 2),
    "min_tokens": (0, math.inf),
}


def check(
    request: Message,
    model: Model,
    *violations: FieldViolation | None,
    limits: Mapping[str, float] | None = None,
) -> None:
    """Reject a request whose shared fields are missing or out of range, or that has violations.

    `limits` has the highest values of fields whose range depends on the API.
    """
    found = [violation for violation in violations if violation is not None]
    found += _violations(request, limits or {})
    if found:
        raise invalid(*found)
    check_model(_get(request, "model"), model)


def check_model(name: str, model: Model) -> None:
    if name != model.name:
        raise not_found("MODEL_NOT_FOUND", f"no worker serves this model; use {model.name!r}")


def missing(field: str, present: object) -> FieldViolation | None:
    """A violation if a required field is missing."""
    return None if present else FieldViolation(field, "is required")


def _get(request: Message, name: str) -> Any:
    return getattr(request, name)


def _is_set(message: Message, name: str) -> bool:
    field = message.DESCRIPTOR.fields_by_name.get(name)
    return field is not None and field.has_presence and message.HasField(name)


def _violations(request: Message, limits: Mapping[str, float]) -> Iterator[FieldViolation]:
    names = request.DESCRIPTOR.fields_by_name
    if not _get(request, "model"):
        yield FieldViolation("model", "is required")
    yield from _out_of_range(request, limits=limits)
    if _is_set(request, "top_p") and not 0 < _get(request, "top_p") <= 1:
        yield FieldViolation("top_p", "must be above 0 and at most 1")
    if _is_set(request, "top_k"):
        top_k = _get(request, "top_k")
        if top_k < 1 and top_k != -1:
            yield FieldViolation("top_k", "must be at least 1, or -1")
    if "stop" in names:
        yield from _bad_stops(_get(request, "stop"))
    if _is_set(request, "sampling"):
        yield from _out_of_range(_get(request, "sampling"), "sampling.")
        min_tokens = _get(request, "sampling").min_tokens
        if _is_set(request, "max_tokens") and min_tokens > _get(request, "max_tokens"):
            yield FieldViolation("sampling.min_tokens", "must not exceed max_tokens")
    greedy = _is_set(request, "temperature") and _get(request, "temperature") < 1e-5
    if _is_set(request, "n") and _get(request, "n") > 1 and greedy:
        yield FieldViolation("n", "must be 1 when temperature is 0")
    if _is_set(request, "output_format") and not _get(request, "output_format").WhichOneof(
        "format"
    ):
        yield FieldViolation("output_format", "must have one format")
    if "tools" in names:
        yield from _bad_tools(_get(request, "tools"), _get(request, "tool_choice"))


def _out_of_range(
    message: Message, prefix: str = "", limits: Mapping[str, float] | None = None
) -> Iterator[FieldViolation]:
    for name, (low, usual) in _RANGES.items():
        high = (limits or {}).get(name, usual)
        if _is_set(message, name) and not low <= _get(message, name) <= high:
            bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            yield FieldViolation(prefix + name, f"must be {bounds}")


def _bad_stops(stops: list[str]) -> Iterator[FieldViolation]:
    if len(stops) > _MAX_STOPS:
        yield FieldViolation("stop", f"must have at most {_MAX_STOPS} entries")
    for index, stop in enumerate(stops):
        if not stop:
            yield FieldViolation(f"stop[{index}]", "must not be empty")


def _bad_tools(tools: list[pb.Tool], choice: pb.ToolChoice) -> Iterator[FieldViolation]:
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        at = f"tools[{index}]"
        match tool.WhichOneof("kind"):
            case "function":
                name, parameters = tool.function.name, tool.function.parameters_json
                if not name:
                    yield FieldViolation(f"{at}.function.name", "is required")
                elif name in seen:
                    yield FieldViolation(f"{at}.function.name", "must be unique")
                seen.add(name)
                if parameters and not is_json_object(parameters):
                    yield FieldViolation(f"{at}.function.parameters_json", "must be a JSON object")
            case "mcp":
                if not tool.mcp.server_label:
                    yield FieldViolation(f"{at}.mcp.server_label", "is required")
            case None:
                yield FieldViolation(at, "must be a function or an MCP server")
    kind = choice.WhichOneof("choice")
    if kind == "function" and choice.function not in seen:
        yield FieldViolation("tool_choice.function", "must be one of the tools")
    if kind == "mode" and not tools:
        yield FieldViolation("tool_choice", "needs tools")


def is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def no_mcp(tools: list[pb.Tool]) -> FieldViolation | None:
    """A violation if the tools of a route without MCP include an MCP server."""
    for index, tool in enumerate(tools):
        if tool.HasField("mcp"):
            return FieldViolation(f"tools[{index}].mcp", "is for ResponseService only")
    return None


def sampling(request: Message, *, prefix: str = "", replacement: str | None = None) -> Sampling:
    """The request's parameters, with a prefix or a replacement of the model's own text."""

    def get(name: str, default: Any) -> Any:
        return _get(request, name) if _is_set(request, name) else default

    more: pb.SamplingParams = get("sampling", pb.SamplingParams())
    return Sampling(
        max_tokens=get("max_tokens", None),
        temperature=get("temperature", 1.0),
        top_p=get("top_p", 1.0),
        top_k=max(get("top_k", 0), 0),
        min_p=more.min_p,
        frequency_penalty=get("frequency_penalty", 0.0),
        presence_penalty=get("presence_penalty", 0.0),
        repetition_penalty=more.repetition_penalty or 1.0,
        seed=get("seed", 0),
        min_tokens=more.min_tokens,
        stop=tuple(_get(request, "stop")) if "stop" in request.DESCRIPTOR.fields_by_name else (),
        stop_token_ids=tuple(more.stop_token_ids),
        ignore_eos=more.ignore_eos,
        include_stop=more.include_stop_in_output,
        skip_special=more.skip_special_tokens if more.HasField("skip_special_tokens") else True,
        logprobs=get("logprobs", None),
        prefix=prefix,
        replacement=replacement,
    )


def formatted(output_format: pb.OutputFormat) -> str | None:
    """The text for an output format, or None for free text."""
    match output_format.WhichOneof("format"):
        case None:
            return None
        case "json_schema":
            field = "output_format.json_schema.schema_json"
            if not output_format.json_schema.schema_json:
                raise invalid(FieldViolation(field, "is required; use json_object for any object"))
            return smallest(output_format.json_schema.schema_json, field)
        case "json_object":
            return "{}"
        case other:
            raise unsupported(f"the built-in model does not support formats of kind {other}")


def smallest(schema_json: str, field: str) -> str:
    """The smallest JSON text that matches the schema in a field."""
    try:
        return smallest_text(schema_json)
    except Unsupported as error:
        raise unsupported(str(error)) from None
    except ValueError:
        raise invalid(FieldViolation(field, "must be a JSON Schema")) from None
