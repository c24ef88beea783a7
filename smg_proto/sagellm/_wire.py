"""The base of the models: to the wire and back, strict validation, what a newer peer added."""

import math
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar, Generic, TypeGuard, TypeVar, cast

from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from smg_proto.sagellm._codec import decode, encode, is_list, rest, unknown_numbers
from smg_proto.sagellm._enums import Unknown

M = TypeVar("M", bound=Message)


class UnknownWarning(UserWarning):
    """A newer peer sent what this release does not know. It was kept."""


class Model(BaseModel):
    """A model of the protocol.

    `strict=True` refuses contradictions that the protocol itself lets pass, and like everywhere
    in pydantic it also switches off conversions such as "8" to 8.
    """

    # An error names the field and the bound; the input may hold somebody's prompt.
    model_config = ConfigDict(hide_input_in_errors=True)

    @classmethod
    def model_validate(cls, obj: Any, *, strict: bool | None = None, **options: Any) -> Self:
        made = super().model_validate(obj, strict=strict, **options)
        return made.check() if strict else made

    @classmethod
    def model_validate_json(
        cls, json_data: str | bytes | bytearray, *, strict: bool | None = None, **options: Any
    ) -> Self:
        made = super().model_validate_json(json_data, strict=strict, **options)
        return made.check() if strict else made

    def check(self) -> Self:
        """Itself, or pydantic's ValidationError with every contradiction in it and below it."""
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
        """Field and problem, for what a strict reader refuses in this model alone."""
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
        """Every field, and every item of every list."""
        for name, value in self:
            if is_list(value):
                yield from (((name, index), item) for index, item in enumerate(value))
            else:
                yield (name,), value


class Wire(Model, Generic[M]):
    """A model that has a message in sagellm.v1."""

    _unknown: bytes = PrivateAttr(default=b"")  # fields of a newer peer, as they came
    _message: ClassVar[type[Message]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for base in cls.__mro__:
            metadata = getattr(base, "__pydantic_generic_metadata__", {"args": ()})
            if metadata["args"] and isinstance(metadata["args"][0], type):
                cls._message = metadata["args"][0]
                return

    def to_proto(self) -> M:
        """The message. WireError: a value has no place in it, such as an int beyond 64 bits."""
        message = self._message()
        self._encode(message)
        if self._unknown:
            message.MergeFromString(self._unknown)
        return cast("M", message)

    @classmethod
    def from_proto(cls, message: M, *, strict: bool = False) -> Self:
        """The model of a message. What a newer peer added is kept, and warned of by name.

        Raises pydantic's ValidationError for what the protocol does not allow, WireError for text
        that is not JSON.
        """
        if not isinstance(message, cls._message):  # pyright: ignore[reportUnnecessaryIsInstance]
            wanted = cls._message.DESCRIPTOR.full_name
            raise TypeError(f"{cls.__name__}.from_proto takes a {wanted}, not {type(message)}")
        made = cls.model_validate(cls._decode(message))
        made._adopt(message)
        if unknown := made.unknown():
            text = f"kept, but not known to this release: {'; '.join(unknown)}"
            warnings.warn(text, UnknownWarning, stacklevel=2)
        return made.check() if strict else made

    def unknown(self) -> list[str]:
        """What a newer peer sent and this release does not know, by name; without the contents."""
        found = [
            f"field {number} of {message.DESCRIPTOR.full_name}"
            for message in self._kept()
            for number in sorted(set(unknown_numbers(message)))
        ]
        for name, value in self:
            if isinstance(value, Unknown):
                found.append(f"{type(self).__name__}.{name}: value {value.number}")
            for index, model in _models(value):
                place = name if index is None else f"{name}.{index}"
                found += [f"{place}: {text}" for text in model.unknown()]
        return found

    def _kept(self) -> list[Message]:
        """Messages that consist of what this release does not know."""
        return [self._message.FromString(self._unknown)] if self._unknown else []

    def _encode(self, message: Message) -> None:
        encode(self, message)

    @classmethod
    def _decode(cls, message: Message) -> dict[str, Any]:
        return decode(message)

    def _adopt(self, message: Any) -> None:
        """Keep the fields that this release does not know, here and in the models below."""
        self._unknown = rest(message)
        self._adopt_below(message)

    def _adopt_below(self, message: Any) -> None:
        for name, value in self:
            for index, model in _models(value):
                part = getattr(message, name)
                model._adopt(part if index is None else part.items[index])


def _is_wire(value: object) -> TypeGuard[Wire[Any]]:
    return isinstance(value, Wire)


def _models(value: object) -> Iterator[tuple[int | None, Wire[Any]]]:
    """The models in the value of a field: itself, or a list's items with their index."""
    if _is_wire(value):
        yield None, value
    elif is_list(value) and value and _is_wire(value[0]):
        yield from enumerate(value)
