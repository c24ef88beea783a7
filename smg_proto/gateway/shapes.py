"""JSON of unknown shape, taken for what it should be."""

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
    for name in path.split(".") if path else ():
        if name.isdigit():
            items = as_array(data)
            data = items[int(name)] if int(name) < len(items) else None
        else:
            data = as_object(data).get(name)
    return data
