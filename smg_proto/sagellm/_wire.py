"""The base of the models: conversion to and from messages, strict validation, unknown fields."""

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Generic, TypeGuard, TypeVar, cast

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from smg_proto.sagellm._unknown import Unknown

M = TypeVar("M", bound=Message)
_JSON = "_json"  # the suffix of contract fields that hold JSON as text
_KINDS = {1: "double", 3: "int64, -2^63 to 2^63-1", 8: "bool", 9: "UTF-8 text"}
_KINDS[14] = "its enum: a member, or Unknown with a number that no member has"


class WireError(ValueError):
    """A value does not fit its message. The message names the field and why, never the value."""


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


class UnknownWarning(UserWarning):
    """A newer peer sent fields or values that this release does not know. They were kept."""


def _has_lone_surrogate(value: object) -> bool:
    """Whether a text, or a text inside lists and objects, cannot be encoded as UTF-8."""
    todo, seen = [value], set[int]()
    while todo:
        match todo.pop():
            case str() as text:
                if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
                    return True
            case holder if id(holder) not in seen and (items := _items_of(holder)):
                seen.add(id(holder))
                todo += [item for item in items if not isinstance(item, (int, float))]
            case _:
                pass
    return False


def _items_of(value: object) -> list[Any]:
    """The items of a list, or the keys and values of an object."""
    if is_list(value):
        return value
    return [*value, *value.values()] if _is_dict(value) else []


def _is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


class Model(BaseModel):
    """A model of the protocol.

    `strict=True` rejects contradictions that the protocol itself allows. As always in pydantic, it
    also disables conversions such as "8" to 8.
    """

    # Errors name the field and the bound, but not the input, which may hold a prompt.
    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    @field_validator("*")
    @classmethod
    def _reject_lone_surrogates(cls, value: Any) -> Any:
        """JSON and messages are UTF-8, which cannot encode half of a surrogate pair."""
        if _has_lone_surrogate(value):
            raise PydanticCustomError("string_unicode", "Text has a lone surrogate, not UTF-8")
        return value

    @classmethod
    def model_validate(cls, obj: Any, *, strict: bool | None = None, **options: Any) -> Self:
        model = super().model_validate(obj, strict=strict, **options)
        return model.check() if strict else model

    @classmethod
    def model_validate_json(
        cls, json_data: str | bytes | bytearray, *, strict: bool | None = None, **options: Any
    ) -> Self:
        model = super().model_validate_json(json_data, strict=strict, **options)
        return model.check() if strict else model

    def check(self) -> Self:
        """Return the model, or raise ValidationError with every contradiction in it."""
        errors = [
            InitErrorDetails(
                type=PydanticCustomError("contradiction", "{problem}", {"problem": problem}),
                loc=place,
                input=None,
            )
            for place, problem in self._walk()
        ]
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors, hide_input=True)
        return self

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        """The contradictions in this model alone, as field and problem."""
        yield from ()

    def _walk(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for name, problem in self._contradictions():
            yield (name,), problem
        for place, value in self._values():
            match value:
                case Model():
                    yield from (((*place, *below), why) for below, why in value._walk())
                case float() if not math.isfinite(value):
                    yield place, "must be a finite number"
                case _:
                    pass

    def _values(self) -> Iterator[tuple[tuple[str | int, ...], Any]]:
        """Every field, and every item of a list."""
        for name, value in self:
            if is_list(value):
                yield from (((name, index), item) for index, item in enumerate(value))
            else:
                yield (name,), value


class Wire(Model, Generic[M]):
    """A model with a message in sagellm.v1."""

    _unknown: bytes = PrivateAttr(default=b"")  # unknown fields, serialized
    _message: ClassVar[type[Message]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for base in cls.__mro__:
            metadata = getattr(base, "__pydantic_generic_metadata__", {"args": ()})
            if metadata["args"] and isinstance(metadata["args"][0], type):
                cls._message = metadata["args"][0]
                return

    def to_proto(self) -> M:
        """The message. WireError if a value does not fit, such as an int beyond 64 bits."""
        message = self._message()
        self._encode(message)
        if self._unknown:
            message.MergeFromString(self._unknown)
        return cast("M", message)

    @classmethod
    def from_proto(cls, message: M, *, strict: bool = False, warn: bool = True) -> Self:
        """The model of a message. Unknown fields are kept, with a warning that names them.

        warn=False is for servers, where peers must not cause warnings; use `unknown()` instead.
        Raises pydantic's ValidationError for values that the protocol does not allow, and WireError
        for text that is not JSON.
        """
        if not isinstance(message, cls._message):  # pyright: ignore[reportUnnecessaryIsInstance]
            wanted = cls._message.DESCRIPTOR.full_name
            raise TypeError(f"{cls.__name__}.from_proto takes a {wanted}, not {type(message)}")
        model = cls.model_validate(cls._decode(message))
        model._keep_unknown(message)
        if warn and (unknown := model.unknown()):
            text = f"unknown to this release, but kept: {'; '.join(unknown)}"
            warnings.warn(text, UnknownWarning, stacklevel=2)
        return model.check() if strict else model

    def unknown(self) -> list[str]:
        """The names of the fields and values that this release does not know, without content."""
        names = [
            f"field {number} of {message.DESCRIPTOR.full_name}"
            for message in self._unknown_messages()
            for number in sorted(set(unknown_numbers(message)))
        ]
        for name, value in self:
            if isinstance(value, Unknown):
                names.append(f"{type(self).__name__}.{name}: value {value.number}")
            for index, model in _models(value):
                place = name if index is None else f"{name}.{index}"
                names += [f"{place}: {text}" for text in model.unknown()]
        return names

    def _unknown_messages(self) -> list[Message]:
        """Messages with only the unknown fields."""
        return [self._message.FromString(self._unknown)] if self._unknown else []

    def _encode(self, message: Message) -> None:
        encode(self, message)

    @classmethod
    def _decode(cls, message: Message) -> dict[str, Any]:
        return decode(message)

    def _keep_unknown(self, message: Any) -> None:
        """Keep the unknown fields of a message, in this model and the models inside it."""
        self._unknown = rest(message)
        self._keep_unknown_inside(message)

    def _keep_unknown_inside(self, message: Any) -> None:
        for name, value in self:
            for index, model in _models(value):
                part = getattr(message, name)
                model._keep_unknown(part if index is None else part.items[index])


def _is_wire(value: object) -> TypeGuard[Wire[Any]]:
    return isinstance(value, Wire)


def _models(value: object) -> Iterator[tuple[int | None, Wire[Any]]]:
    """The models in the value of a field: the value, or a list's items with their index."""
    if _is_wire(value):
        yield None, value
    elif is_list(value) and value and _is_wire(value[0]):
        yield from enumerate(value)


# --- conversion, field by field ------------------------------------------------------------------


@dataclass(frozen=True)
class _Field:
    """How a field of a message maps to the field of a model."""

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
    """Write the fields of a model to a message."""
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
        getattr(message, field.field).CopyFrom(value.to_proto())
    else:
        setattr(message, field.field, value)


def decode(message: Any) -> dict[str, Any]:
    """The set fields of a message, by their names in the models."""
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
        if value.number in enum.values_by_number:
            raise ValueError
        return value.number
    return enum.values_by_name[_prefix(enum) + str(getattr(value, "value", value)).upper()].number


def _name(enum: EnumDescriptor, number: int) -> str:
    known = enum.values_by_number.get(number)
    return known.name.removeprefix(_prefix(enum)).lower() if known else Unknown(number)


def _json_text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _json_object(text: str, where: str) -> Any:
    def reject(_: str) -> Any:
        raise ValueError

    try:
        return json.loads(text, parse_constant=reject)
    except (ValueError, RecursionError):
        raise WireError(f"{where}: not a JSON object") from None


def rest(message: Message) -> bytes:
    """The unknown fields of a message, as bytes, without those of messages inside it."""
    if not unknown_numbers(message):
        return b""
    rest = type(message)()
    rest.CopyFrom(message)
    for field, _ in message.ListFields():
        rest.ClearField(field.name)
    return rest.SerializeToString()


def unknown_numbers(message: Message, wire_type: int | None = None) -> list[int]:
    """The numbers of a message's unknown fields, in their order on the wire."""
    fields = cast("Iterable[Any]", UnknownFieldSet(message))
    return [f.field_number for f in fields if wire_type in (None, f.wire_type)]
