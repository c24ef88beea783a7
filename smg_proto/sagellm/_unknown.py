"""What stands in a closed set for a value that only a newer peer knows."""

from collections.abc import Callable
from enum import Enum
from typing import Any, get_args

from pydantic import GetCoreSchemaHandler, SerializationInfo
from pydantic_core import core_schema


class Unknown(str):
    """A value of a closed set that this release does not know: `unknown_77`, number 77 on the wire.

    It stands where a member of the set would, goes back to the wire as the same number and, like
    a member, has `name` and `value`. Only a message brings one in: the text "unknown_77", from a
    caller or from JSON, is refused like any other value outside the set.
    """

    number: int

    def __new__(cls, number: int) -> "Unknown":
        if not number or not -(2**31) <= number < 2**31:
            raise ValueError("the number of an enum value has 32 bits, and 0 stands for unset")
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

    def __getnewargs__(self) -> Any:  # for copy and pickle
        return (self.number,)

    @property
    def name(self) -> str:
        return f"UNKNOWN_{self.number}"

    @property
    def value(self) -> str:
        return str(self)


class _OrUnknown:
    """Validates `Closed | Unknown` as the closed set alone; only an object of Unknown passes."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        closed: Any = get_args(source)[0]
        members: dict[str, Any] = {m.value: m for m in getattr(closed, "__members__", {}).values()}

        def validate(value: Any, inner: Callable[[Any], Any]) -> Any:
            if isinstance(value, Unknown):
                return value
            # The value counts as the member also where pydantic is strict.
            known = members.get(value, value) if isinstance(value, str) else value
            return inner(known)

        def plain(value: Any, info: SerializationInfo) -> Any:
            as_text = isinstance(value, Enum) and info.mode_is_json()
            return value.value if as_text else value

        return core_schema.no_info_wrap_validator_function(
            validate,
            handler.generate_schema(closed),
            serialization=core_schema.plain_serializer_function_ser_schema(
                plain, info_arg=True, return_schema=core_schema.any_schema()
            ),
        )


OR_UNKNOWN = _OrUnknown()
