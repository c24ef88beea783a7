"""Models to messages and back, field by field; what a message has beyond its type."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeGuard, cast

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import BaseModel

from smg_proto.sagellm._enums import Unknown

_JSON = "_json"  # what a field's name in the contract ends with that carries JSON as text
_KINDS = {1: "double", 3: "int64, -2^63 to 2^63-1", 5: "int32", 8: "bool", 9: "UTF-8 text"}


class WireError(ValueError):
    """A value cannot be carried: the text names the field and why, never the value."""


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


@dataclass(frozen=True)
class _Field:
    """How a field of a message stands to the field of a model."""

    field: str
    name: str  # in the model
    is_json: bool
    is_message: bool  # messages, maps and lists of messages
    has_presence: bool
    enum: EnumDescriptor | None
    kind: str  # for an error


@cache
def _fields(descriptor: Any) -> list[_Field]:
    return [
        _Field(
            field=field.name,
            name=field.name.removesuffix(_JSON),
            is_json=field.name.endswith(_JSON),
            is_message=field.message_type is not None,
            has_presence=field.has_presence,
            enum=field.enum_type,
            kind=_KINDS.get(field.type, "its type"),
        )
        for field in descriptor.fields
    ]


def encode(model: BaseModel, message: Any) -> None:
    """Write the fields of a model that the message has into the message."""
    for field in _fields(message.DESCRIPTOR):
        value = getattr(model, field.name, None)
        if value is None:
            continue
        try:
            _set(message, field, value)
        except WireError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError):
            where = f"{type(model).__name__}.{field.name}"
            kind = "JSON" if field.is_json else field.kind
            raise WireError(f"{where}: the value does not fit {kind}") from None


def _set(message: Any, field: _Field, value: Any) -> None:
    if field.is_json:
        if value or field.has_presence:
            setattr(message, field.field, _json_text(value))
    elif field.enum is not None:
        setattr(message, field.field, _number(field.enum, value))
    elif is_list(value):
        target = getattr(message, field.field)
        if field.is_message:  # a list that may be absent
            target.SetInParent()
            target = target.items
        target.extend([i.to_proto() if hasattr(i, "to_proto") else i for i in value])
    elif isinstance(value, Mapping):
        getattr(message, field.field).update(value)
    elif field.is_message:
        target = getattr(message, field.field)
        target.SetInParent()
        target.CopyFrom(value.to_proto())
    else:
        setattr(message, field.field, value)


def decode(message: Any) -> dict[str, Any]:
    """The fields of a message as the models spell them; what is unset is left out."""
    values: dict[str, Any] = {}
    for field in _fields(message.DESCRIPTOR):
        if field.has_presence and not message.HasField(field.field):
            continue
        value = getattr(message, field.field)
        if field.is_json:
            if value or field.has_presence:
                where = f"{message.DESCRIPTOR.full_name}.{field.field}"
                values[field.name] = _json_object(value, where)
        elif field.enum is not None:
            if value:
                values[field.name] = _name(field.enum, value)
        elif isinstance(value, (bool, int, float, str)):
            values[field.name] = value
        elif isinstance(value, Message):
            listed = value.DESCRIPTOR.name.endswith("List")
            values[field.name] = _items(value) if listed else decode(value)
        else:
            values[field.name] = dict(value) if hasattr(value, "keys") else list(value)
    return values


def _items(message: Any) -> list[Any]:
    return [decode(item) if isinstance(item, Message) else item for item in message.items]


def _prefix(enum: EnumDescriptor) -> str:
    return enum.values_by_number[0].name.removesuffix("UNSPECIFIED")


def _number(enum: EnumDescriptor, value: Any) -> int:
    if isinstance(value, Unknown):
        return value.number
    return enum.values_by_name[_prefix(enum) + str(getattr(value, "value", value)).upper()].number


def _name(enum: EnumDescriptor, number: int) -> str:
    known = enum.values_by_number.get(number)
    return known.name.removeprefix(_prefix(enum)).lower() if known else Unknown(number)


def _json_text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _json_object(text: str, where: str) -> Any:
    def refuse(_: str) -> Any:
        raise ValueError

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise WireError(f"{where} is not the text of a JSON object") from None


def rest(message: Message) -> bytes:
    """The fields that the message's type does not have, as bytes; not those of messages in it."""
    if not unknown_numbers(message):
        return b""
    rest = type(message)()
    rest.CopyFrom(message)
    for field, _ in message.ListFields():
        rest.ClearField(field.name)
    return rest.SerializeToString()


def unknown_numbers(message: Message, wire_type: int | None = None) -> list[int]:
    """Numbers of the fields that the message's type does not have, in the order they came."""
    fields = cast("Iterable[Any]", UnknownFieldSet(message))
    return [f.field_number for f in fields if wire_type in (None, f.wire_type)]
