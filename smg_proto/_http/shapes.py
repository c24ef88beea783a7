"""JSON: read strictly, and taken apart by members."""

import json
import math
from typing import Any, TypeGuard

JsonObject = dict[str, Any]

# Deeper JSON than this is no schema, no argument and no reply, and would exhaust the stack.
MAX_JSON_DEPTH = 200


def is_object(data: Any) -> TypeGuard[JsonObject]:
    return isinstance(data, dict)


def is_list(data: Any) -> TypeGuard[list[Any]]:
    return isinstance(data, list)


def as_object(data: Any) -> JsonObject:
    """A JSON object; an empty one for anything else."""
    return data if is_object(data) else {}


def as_list(data: Any) -> list[Any]:
    """A JSON array. Anything else is a TypeError: protobuf would take a string for a list."""
    if not is_list(data):
        raise TypeError("not a JSON array")
    return data


def dig(data: Any, path: str) -> Any:
    """What lies at a path of members, with dots between them; None if it is not there."""
    for name in path.split("."):
        data = as_object(data).get(name)
    return data


def parse(text: str) -> Any:
    """The value of a JSON text; a ValueError or RecursionError if it is none."""
    return _STRICT.decode(text)


class Unsendable(ValueError):
    """JSON that can be read, but that the gateway could not: why."""


def parse_to_send(text: str) -> Any:
    """The value of a JSON text that is part of a request; an Unsendable, or as `parse`."""
    data = _TO_SEND.decode(text)
    if _deeper_than(MAX_JSON_DEPTH, data):
        raise Unsendable(f"is nested deeper than {MAX_JSON_DEPTH} levels")
    if "\\u" in text:  # perhaps half of a surrogate pair, which UTF-8 cannot hold
        to_text(data).encode()
    return data


def to_text(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _no_constant(name: str) -> Any:
    """NaN and Infinity are Python's own addition to JSON."""
    raise ValueError(name)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise Unsendable("has a number that is too large")
    return number


_STRICT = json.JSONDecoder(parse_constant=_no_constant)
_TO_SEND = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def _deeper_than(limit: int, data: Any) -> bool:
    level: list[Any] = [data]
    for _ in range(limit):
        level = [
            inner
            for item in level
            for inner in (item.values() if is_object(item) else item if is_list(item) else ())
        ]
        if not level:
            return False
    return True
