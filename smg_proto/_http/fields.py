"""The language of the mapping: which field is which JSON member, written once, read both ways.

A `Table` names every field of a message that a route carries. A field that is set and not named is
refused with a violation, so nothing can be dropped in silence; a JSON member that is not named is
ignored, so the gateway may grow.
"""

import base64
import json
import math
from collections.abc import Callable, Collection, Mapping, MutableMapping, MutableSequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from smg_proto._http.failures import unreadable
from smg_proto._http.shapes import JsonObject, as_array, as_object, dig, is_a
from smg_proto.errors import FieldViolation, invalid

M = TypeVar("M", bound=Message)

NOT_CARRIED = "this route cannot carry it"


@dataclass(frozen=True)
class At:
    """Where in the request the writer is, and what it has found wrong so far."""

    found: list[FieldViolation]
    path: str = ""

    def field(self, name: str) -> "At":
        return At(self.found, f"{self.path}.{name}" if self.path else name)

    def item(self, number: int) -> "At":
        return At(self.found, f"{self.path}[{number}]")

    def refuse(self, why: str = NOT_CARRIED) -> None:
        self.found.append(FieldViolation(self.path, why))


class Codec(Protocol):
    """How one value is written as JSON, and read from it; None from `read` leaves it unset."""

    def write(self, value: Any, at: At) -> Any: ...

    def read(self, data: Any) -> Any: ...


class Same:
    """A value that is the same on both sides."""

    def write(self, value: Any, at: At) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            at.refuse("must be a finite number")
        return value

    def read(self, data: Any) -> Any:
        return data


class Only(Same):
    """The same on both sides, where JSON has this type; another type is another field's."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def read(self, data: Any) -> Any:
        return data if type(data) is self._kind else None


class Not(Same):
    """A flag that HTTP has the other way round."""

    def write(self, value: Any, at: At) -> Any:
        return not value


class Enum:
    """A closed set: proto number to JSON text."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names: dict[int, str] = dict(names)
        self._numbers = {name: number for number, name in names.items()}

    def write(self, value: Any, at: At) -> Any:
        if value not in self.names:
            at.refuse(f"must be one of {', '.join(self.names.values())} on this route")
        return self.names.get(value)

    def read(self, data: Any) -> Any:
        return self._numbers.get(data)


class JsonText:
    """JSON as text in the proto, as an object (or as any value) over HTTP."""

    def __init__(self, kind: type = dict) -> None:
        self._kind = kind

    def write(self, value: Any, at: At) -> Any:
        try:
            data = json.loads(value, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            at.refuse("is not JSON")
            return None
        if not isinstance(data, self._kind):
            at.refuse("must be a JSON object")
        return data

    def read(self, data: Any) -> Any:
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


class Seconds:
    """Seconds since 1970; 0 is unset."""

    def write(self, value: Any, at: At) -> Any:
        raise NotImplementedError("times are read only")

    def read(self, data: Any) -> Any:
        return Timestamp(seconds=int(data)) if data else None


class IsoTime(Seconds):
    """A time as text."""

    def read(self, data: Any) -> Any:
        time = Timestamp()
        time.FromJsonString(data)
        return time


class ByteNumbers:
    """Bytes, as an array of numbers over HTTP."""

    def write(self, value: Any, at: At) -> Any:
        return list(value)

    def read(self, data: Any) -> Any:
        return bytes(data)


class Base64:
    """Bytes, as base64 over HTTP."""

    def write(self, value: Any, at: At) -> Any:
        return base64.b64encode(value).decode()

    def read(self, data: Any) -> Any:
        return base64.b64decode(data)


SAME, TEXT, JSON_OBJECT, SECONDS = Same(), Only(str), JsonText(), Seconds()


@dataclass(frozen=True)
class Row:
    """Where a field is in the JSON: members from the outside in, dots between them.

    A number is a place in an array. Without a path the codec writes and reads the whole object: for
    a field that is several members. `whole`: it reads all elements of a repeated field at once.
    """

    path: str = ""
    codec: Codec = SAME
    whole: bool = False


Rows = Mapping[str, Row | str]
NO_ROWS: Rows = {}


class Table(Generic[M]):
    """One message as one JSON object."""

    def __init__(
        self,
        message: type[M],
        rows: Rows,
        *,
        required: Collection[str] = (),
        always: JsonObject | None = None,
    ) -> None:
        self.message, self._required, self._always = message, required, always or {}
        self.rows: dict[str, Row] = {
            k: Row(row) if isinstance(row, str) else row for k, row in rows.items()
        }
        known = message.DESCRIPTOR.fields_by_name
        if unknown := self.rows.keys() - known.keys():
            raise TypeError(f"{message.DESCRIPTOR.full_name} has no field {min(unknown)}")
        empty = message()
        self._reads = [(name, row, _set_of(empty, name)) for name, row in self.rows.items()]

    def write(self, value: Any, at: At) -> JsonObject:
        """The JSON of a message. `at` takes the violations; the JSON is of no use if there are."""
        out: JsonObject = {}
        for name in self._required:
            if not _has(value, name):
                at.field(name).refuse("is required")
        for descriptor, content in value.ListFields():
            here = at.field(descriptor.name)
            row = self.rows.get(descriptor.name)
            if row is None:
                here.refuse()
            else:
                merge(out, row.path, _write_each(row.codec, content, here))
        merge(out, "", self._always)
        return out

    def read(self, data: Any) -> M:
        """The message of a JSON object."""
        message = self.message()
        self.read_into(message, data)
        return message

    def read_into(self, message: Message, data: Any) -> None:
        for name, row, put in self._reads:
            found = dig(data, row.path)
            if found is not None:
                put(message, name, row, found)


class Variants:
    """A message that is one of several things, as a JSON object with a `type`."""

    def __init__(
        self,
        message: type[Message],
        variants: Mapping[str, tuple[str, Rows]],
        common: Rows = NO_ROWS,
    ) -> None:
        self._message, self._common = message, common
        self._tables = {
            field: Table(message, {**common, **rows}, always={"type": tag})
            for field, (tag, rows) in variants.items()
        }
        self._by_tag = {tag: self._tables[field] for field, (tag, _) in variants.items()}

    def write(self, value: Any, at: At) -> Any:
        chosen = [d.name for d, _ in value.ListFields() if d.name not in self._common]
        if not chosen:
            at.refuse("is empty")
        elif chosen[0] not in self._tables:
            at.field(chosen[0]).refuse()
        else:
            return self._tables[chosen[0]].write(value, at)
        return None

    def read(self, data: Any) -> Any:
        table = self._by_tag.get(data.get("type"))
        return table.read(data) if table else None

    def reading_also(self, variants: Mapping[str, tuple[str, Rows]]) -> "Variants":
        """The same, with variants that only come from the gateway."""
        more = Variants(self._message, variants, self._common)
        both = Variants(self._message, {}, self._common)
        both._tables, both._by_tag = self._tables, self._by_tag | more._by_tag
        return both


class Wrapped:
    """A message with one repeated field, as the bare array."""

    def __init__(self, message: type[Message], field: str, codec: Codec = SAME) -> None:
        self._message, self._field, self._codec = message, field, codec

    def write(self, value: Any, at: At) -> Any:
        return _write_each(self._codec, getattr(value, self._field), at.field(self._field))

    def read(self, data: Any) -> Any:
        if not isinstance(data, list):
            return None
        items = map(self._codec.read, as_array(data))
        return self._message(**{self._field: [item for item in items if item is not None]})


def same(*names: str) -> dict[str, Row]:
    """Fields that have the same name and value over HTTP."""
    return {name: Row(name) for name in names}


def write_request(table: Table[Any], message: Message) -> JsonObject:
    """The JSON of a request; a status with every violation if there is one."""
    found: list[FieldViolation] = []
    out = table.write(message, At(found))
    if found:
        raise invalid(*found)
    return out


def read_reply(table: Table[M], data: Any, what: str) -> M:
    """The message of a reply; a status if it is not such a reply."""
    if not is_a(data, dict):
        raise unreadable(what)
    try:
        return table.read(data)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise unreadable(what) from error


def merge(out: JsonObject, path: str, value: Any) -> None:
    """Put a value at a path. Objects grow together; what is already there stays."""
    if path:
        *outer, last = path.split(".")
        for name in outer:
            out = out.setdefault(name, {})
        value = {last: value}
    for name, content in as_object(value).items():
        there = out.setdefault(name, content)
        if there is not content and isinstance(there, dict):
            merge(as_object(there), "", as_object(content))


def _set_of(empty: Message, name: str) -> Callable[[Any, str, Row, Any], None]:
    """How a field of this kind takes what was found for it."""
    current: Any = getattr(empty, name)
    if is_a(current, MutableSequence):
        return _extend
    if is_a(current, MutableMapping):
        return _update
    return _copy if is_a(current, Message) else _set


def _extend(message: Any, name: str, row: Row, found: Any) -> None:
    items = row.codec.read(found) if row.whole else map(row.codec.read, found)
    getattr(message, name).extend(item for item in items or () if item is not None)


def _update(message: Any, name: str, row: Row, found: Any) -> None:
    getattr(message, name).update(row.codec.read(found))


def _copy(message: Any, name: str, row: Row, found: Any) -> None:
    value = row.codec.read(found)
    if value is not None:
        current = getattr(message, name)
        current.SetInParent()
        current.CopyFrom(value)


def _set(message: Any, name: str, row: Row, found: Any) -> None:
    value = row.codec.read(found)
    if value is not None:
        setattr(message, name, value)


def _write_each(codec: Codec, content: Any, at: At) -> Any:
    if is_a(content, MutableMapping):
        return dict(content)
    if is_a(content, MutableSequence):
        return [codec.write(item, at.item(number)) for number, item in enumerate(content)]
    return codec.write(content, at)


def _has(message: Any, name: str) -> bool:
    if name in message.DESCRIPTOR.oneofs_by_name:
        return message.WhichOneof(name) is not None
    return any(descriptor.name == name for descriptor, _ in message.ListFields())


def _no_constant(name: str) -> Any:
    raise ValueError(name)
