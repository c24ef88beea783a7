"""Checks of what callers pass, whatever the annotations promise."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from smg_proto.vllm.errors import VLLMGrpcValidationError


def sequence(value: object) -> Sequence[Any] | None:
    """The value, if it is a sequence of things: text and bytes are one thing."""
    if isinstance(value, str | bytes | bytearray):
        return None
    return cast(Any, value) if isinstance(value, Sequence) else None


def mapping(value: object) -> Mapping[Any, Any] | None:
    return cast(Any, value) if isinstance(value, Mapping) else None


def json_object(content: str) -> dict[str, Any] | None:
    """The JSON object of a text, if it is one."""
    try:
        found = mapping(json.loads(content))
    except ValueError:
        return None
    return None if found is None else dict(found)


def text(param: str, value: object) -> str:
    """A string with something in it."""
    if not isinstance(value, str) or not value:
        raise VLLMGrpcValidationError(param, "must be a string and not empty")
    return value


def whole(param: str, value: object, low: int, high: int, problem: str) -> int:
    """A whole number from low to below high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < high:
        raise VLLMGrpcValidationError(param, problem)
    return value


def seconds(param: str, value: object) -> None:
    """A time limit: a number of seconds above 0, or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise VLLMGrpcValidationError(param, f"must be seconds or None, not {type(value).__name__}")
    if not 0 < value < math.inf:
        raise VLLMGrpcValidationError(param, f"must be above 0 s, not {value}; None means no limit")


def duration(param: str, value: object) -> float:
    """A number of seconds, from 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise VLLMGrpcValidationError(param, "must be 0 or more seconds")
    return value
