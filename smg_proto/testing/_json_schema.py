"""The smallest value that matches a JSON Schema: the built-in model's output under a constraint.

A keyword that is not supported raises Unsupported.
"""

import json
import math
from typing import Any, cast

_CONSTRAINTS = (
    "$ref", "type", "enum", "const", "anyOf", "properties", "required", "maxProperties",
    "items", "minItems", "maxItems", "minLength", "maxLength",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
)  # fmt: skip
# Keywords that do not constrain the values that are made here.
_IGNORED = (
    "$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default",
    "examples", "deprecated", "readOnly", "writeOnly", "additionalProperties", "strict",
)  # fmt: skip
_MAX_DEPTH = 32
_MAX_VALUES = 10_000
_MAX_LENGTH = 1000

Json = Any  # a value as json.loads gives it


class Unsupported(ValueError):
    """The built-in model does not support a schema or another constraint."""


def smallest_text(schema_json: str) -> str:
    """JSON text that matches the schema. An empty schema: any object.

    ValueError: not a JSON Schema.
    """
    schema = json.loads(schema_json) if schema_json else {"type": "object"}
    try:
        return json.dumps(_Maker(schema).make(schema), ensure_ascii=False)
    except (TypeError, AttributeError, LookupError):
        raise ValueError("a keyword of the JSON Schema has a value of the wrong type") from None


class _Maker:
    def __init__(self, root: Json) -> None:
        self._root = root
        self._remaining = _MAX_VALUES

    def make(self, given: Json, depth: int = 0) -> Json:
        self._remaining -= 1
        if depth > _MAX_DEPTH or self._remaining < 0:
            raise Unsupported("the JSON Schema is too large, or refers to itself")
        if given is True:
            return None
        if not isinstance(given, dict):
            raise Unsupported("the JSON Schema allows no value, or is not a schema")
        schema = cast("dict[str, Any]", given)
        if unknown := sorted(set(schema) - {*_CONSTRAINTS, *_IGNORED}):
            raise Unsupported(f"the JSON Schema keyword {unknown[0]!r} is not supported")
        constraints = set(schema) & set(_CONSTRAINTS) - {"type"}
        if len(constraints) > 1 and (
            exclusive := sorted(constraints & {"$ref", "const", "enum", "anyOf"})
        ):
            raise Unsupported(f"{exclusive[0]!r} with other keywords is not supported")
        if "$ref" in schema:
            return self.make(self._resolve(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        if "anyOf" in schema:
            return self.make(schema["anyOf"][0], depth + 1)
        kind = schema.get("type", "object" if "properties" in schema else "null")
        if isinstance(kind, list):
            kind = cast("list[str]", kind)[0]
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                count = _size(schema, "minItems", "maxItems")
                return [self.make(schema.get("items", True), depth + 1) for _ in range(count)]
            case "string":
                return "x" * _size(schema, "minLength", "maxLength")
            case "integer" | "number":
                return _number(schema, exclusive=kind == "integer")
            case "boolean":
                return False
            case "null":
                return None
            case _:
                raise Unsupported("the JSON Schema has an unknown type")

    def _object(self, schema: dict[str, Any], depth: int) -> Json:
        properties = schema.get("properties", {})
        names = schema.get("required", [])
        if len(names) > schema.get("maxProperties", len(names)):
            raise Unsupported("the JSON Schema requires more properties than it allows")
        others = schema.get("additionalProperties", True)
        return {name: self.make(properties.get(name, others), depth + 1) for name in names}

    def _resolve(self, reference: str) -> Json:
        if not reference.startswith("#"):
            raise Unsupported("a $ref to another JSON Schema is not supported")
        found = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            found = found[step.replace("~1", "/").replace("~0", "~")]
        return found


def _size(schema: dict[str, Any], low: str, high: str) -> int:
    size: int = schema.get(low, 0)
    if size > min(schema.get(high, size), _MAX_LENGTH):
        raise Unsupported(f"the JSON Schema's {low} is too large")
    return size


def _number(schema: dict[str, Any], *, exclusive: bool) -> int | float:
    step = 1 if exclusive else 0.5
    low = schema.get("minimum", -math.inf)
    high = schema.get("maximum", math.inf)
    if "exclusiveMinimum" in schema:
        low = max(low, schema["exclusiveMinimum"] + step)
    if "exclusiveMaximum" in schema:
        high = min(high, schema["exclusiveMaximum"] - step)
    value: int | float = min(max(0, low), high)
    if exclusive:
        value = math.ceil(value) if value >= 0 else math.floor(value)
    if not low <= value <= high:
        raise Unsupported("the JSON Schema's range has no supported number")
    return value
