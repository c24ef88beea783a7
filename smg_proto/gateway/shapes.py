"""JSON of unknown shape, taken for what it should be."""

from typing import Any, cast

JsonObject = dict[str, Any]


def as_object(data: Any) -> JsonObject:
    """A JSON object; an empty one for anything else."""
    return cast(JsonObject, data) if isinstance(data, dict) else {}


def as_array(data: Any) -> list[Any]:
    """A JSON array; an empty one for anything else."""
    return cast("list[Any]", data) if isinstance(data, list) else []


def dig(data: Any, path: str) -> Any:
    """What is at a path, or None. A number in the path is a place in an array."""
    for name in path.split(".") if path else ():
        if name.isdigit():
            items = as_array(data)
            data = items[int(name)] if int(name) < len(items) else None
        else:
            data = as_object(data).get(name)
    return data
