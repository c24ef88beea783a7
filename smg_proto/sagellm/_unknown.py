"""Values of enums that only a newer peer knows."""

from collections.abc import Callable
from enum import Enum
from typing import Any, get_args

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SerializationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema


class Unknown(str):
    """An enum value that this release does not know: `unknown_77`, number 77 on the wire.

    It takes the place of a member, is written with the same number and, like a member, has `name`
    and `value`. It can only come from a message: the text "unknown_77" from a caller or from JSON
    is rejected like any other invalid value.
    """

    number: int

    def __new__(cls, number: int) -> "Unknown":
        if not number or not -(2**31) <= number < 2**31:
            raise ValueError("invalid enum number: must have 32 bits and not be 0, which is unset")
        self = super().__new__(cls, f"unknown_{number}")
        self.number = number
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> Any:
        return core_schema.is_instance_schema(
            cls,
            serialization=core_schema.plain_serializer_function_ser_schema(
                str, return_schema=core_schema.str_schema(), when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # No JSON can become one.
        return handler(schema) if handler.mode == "serialization" else {"not": {}}

    def __getnewargs__(self) -> Any:  # for copy and pickle
        return (self.number,)

    @property
    def name(self) -> str:
        return f"UNKNOWN_{self.number}"

    @property
    def value(self) -> str:
        return str(self)


class _OrUnknown:
    """Validates `Closed | Unknown` like the enum alone, except that Unknown objects pass."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        closed: Any = get_args(source)[0]
        members: dict[str, Any] = {m.value: m for m in getattr(closed, "__members__", {}).values()}

        def validate(value: Any, inner: Callable[[Any], Any]) -> Any:
            if isinstance(value, Unknown):
                return value
            # Accept a member's value even if pydantic is strict.
            known = members.get(value, value) if isinstance(value, str) else value
            return inner(known)

        def plain(value: Any, info: SerializationInfo) -> Any:
            as_text = isinstance(value, Enum) and info.mode_is_json()
            return value.value if as_text else value

        return core_schema.no_info_wrap_validator_function(
            validate,
            handler.generate_schema(closed),
            serialization=core_schema.plain_serializer_function_ser_schema(plain, info_arg=True),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        known = handler(schema)
        if handler.mode == "validation":
            return known
        return {"anyOf": [known, {"type": "string", "pattern": "^unknown_-?[0-9]+$"}]}


OR_UNKNOWN = _OrUnknown()
