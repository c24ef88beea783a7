"""Strict JSON, and access to its members."""

import json
import math
from typing import Any, TypeGuard

JsonObject = dict[str, Any]

# Deeper JSON would exhaust the stack. No real schema, argument or reply is that deep.
MAX_JSON_DEPTH = 200


def is_object(data: Any) -> TypeGuard[JsonObject]:
    return isinstance(data, dict)


def is_list(data: Any) -> TypeGuard[list[Any]]:
    return isinstance(data, list)


def as_object(data: Any) -> JsonObject:
    """The data if it is a JSON object, else an empty one."""
    return data if is_object(data) else {}


def as_list(data: Any) -> list[Any]:
    """The data if it is a JSON array, else TypeError: protobuf would accept a string as a list."""
    if not is_list(data):
        raise TypeError("not a JSON array")
    return data


def dig(data: Any, path: str) -> Any:
    """The value at a path of members, separated by dots; None if there is none."""
    for name in path.split("."):
        data = as_object(data).get(name)
    return data


def parse(text: str) -> Any:
    """Parse a JSON text. ValueError or RecursionError if it is not valid."""
    return _STRICT.decode(text)


class Unsendable(ValueError):
    """JSON that Python can parse but the gateway cannot. The message says why."""


def parse_to_send(text: str) -> Any:
    """Parse a JSON text that is part of a request. Unsendable, or the errors of `parse`."""
    data = _TO_SEND.decode(text)
    if _deeper_than(MAX_JSON_DEPTH, data):
        raise Unsendable(f"is nested deeper than {MAX_JSON_DEPTH} levels")
    if "\\u" in text:  # may be half of a surrogate pair, which UTF-8 cannot hold
        to_text(data).encode()
    return data


def to_text(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _no_constant(name: str) -> Any:
    """Reject NaN and Infinity, which only Python accepts as JSON."""
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
