"""JSON of unknown shape, taken for what it should be."""

from functools import cache
from typing import Any

JsonObject = dict[str, Any]


def is_a(data: Any, kind: type) -> bool:
    """isinstance, without the type checkers' guess of what is inside."""
    return isinstance(data, kind)


def as_object(data: Any) -> JsonObject:
    """A JSON object; an empty one for anything else."""
    members: JsonObject = data if is_a(data, dict) else {}
    return members


def as_array(data: Any) -> list[Any]:
    """A JSON array; an empty one for anything else."""
    items: list[Any] = data if is_a(data, list) else []
    return items


def dig(data: Any, path: str) -> Any:
    """What is at a path, or None. A number in the path is a place in an array."""
    for step in _steps(path):
        kind: Any = type(data)  # pyright: ignore[reportUnknownVariableType]
        if kind is dict:
            data = data.get(step)
        elif kind is list and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return None
    return data


@cache
def _steps(path: str) -> tuple[str | int, ...]:
    steps = path.split(".") if path else ()
    return tuple(int(step) if step.isdigit() else step for step in steps)
