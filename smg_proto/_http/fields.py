"""The language of the mapping: which field is which JSON member, written once, read both ways.

A `Table` names every field of a message that a route carries. A field that is set and not named is
refused with a violation, so nothing can be dropped in silence; a JSON member that is not named is
ignored, so the gateway may grow. Tables are immutable: reading and writing change nothing in them.
"""

import base64
import math
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Mapping,
    MutableMapping,
    MutableSequence,
    Sequence,
)
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from smg_proto import smg_pb2 as smg
from smg_proto._http.failures import from_error_body, reading
from smg_proto._http.shapes import (
    JsonObject,
    Unsendable,
    as_list,
    as_object,
    is_list,
    is_object,
    parse_to_send,
    to_text,
)
from smg_proto.errors import FieldViolation, SmgError, invalid

M = TypeVar("M", bound=Message)
T = TypeVar("T")

NOT_CARRIED = "this route cannot carry it"
# What one request may hold. Each is far above any real request, and keeps one that is made to be
# slow from holding up the others.
MAX_VIOLATIONS = 100
MAX_ITEMS_IN_A_LIST = 100_000
MAX_NUMBERS_IN_A_LIST = 4_000_000
MAX_JSON_TEXT_BYTES = 4 << 20
# What a request says of how it is answered is the front door's, whatever a client wants.
NEVER_EXTRA = frozenset({"stream", "stream_options"})
_ABSENT: Any = object()


@dataclass(frozen=True)
class Cursor:
    """Where in the request the writer is, and what it has found wrong so far."""

    found: list[FieldViolation]
    path: str = ""

    def field(self, name: str) -> "Cursor":
        return Cursor(self.found, f"{self.path}.{name}" if self.path else name)

    def item(self, number: int) -> "Cursor":
        return Cursor(self.found, f"{self.path}[{number}]")

    def refuse(self, why: str = NOT_CARRIED) -> None:
        if len(self.found) < MAX_VIOLATIONS:
            self.found.append(FieldViolation(self.path, why))


# Members of an object that are known: None for the whole member, or those inside of it, or of
# each object in an array; a function tells them of an object whose kind matters.
Known = Mapping[str, "Known | Sequence[Known | KnownOf] | None"]
KnownOf = Callable[[Any], Known]
# A value as JSON. What is wrong with it goes to the cursor; what is returned then is of no use.
Write = Callable[[Any, Cursor], Any]
# A value from JSON; None leaves the field unset. It may raise whatever `failures.reading` knows.
Read = Callable[[Any], Any]


@dataclass(frozen=True)
class Row:
    """Where a field is in the JSON, and how it is written and read there.

    The path has the members from the outside in, with dots between them; a number is a place in an
    array. Without a path, the functions write and read the whole object: for a field that is
    several members. With neither function the value is the same on both sides; with one of them
    the field is only written, or only read.
    """

    path: str = ""
    write: Write | None = None
    read: Read | None = None
    # `read` takes the whole array of a repeated field, not each element.
    whole: bool = False
    # The members that a row without a path writes.
    members: Collection[str] = ()

    def under(self, path: str) -> "Row":
        """The same in an object further in."""
        return replace(self, path=f"{path}.{self.path}" if self.path else path)


Rows = Mapping[str, Row | str]
NO_ROWS: Rows = MappingProxyType({})


class Table(Generic[M]):
    """One message as one JSON object.

    `required` are fields, or oneofs, that a request has to set: "a|b" one of the two; `either` are
    fields of which a request may set one; `always` is what the JSON of every request has, where
    the request says nothing else; `expected` are members, as paths, without which the JSON is no
    such reply. A field `extra_body_json` takes the members that no row writes. With `known`, the
    members of a reply that are read or of no interest, `extra_json` gets all others.
    """

    def __init__(
        self,
        message: type[M],
        rows: Rows,
        *,
        required: Collection[str] = (),
        either: Collection[Sequence[str]] = (),
        always: Mapping[str, Any] | None = None,
        expected: Collection[str] = (),
        known: Known | None = None,
    ) -> None:
        self.message = message
        self._known = known
        self._either = tuple(either)
        self.rows: Mapping[str, Row] = MappingProxyType(
            {name: Row(row) if isinstance(row, str) else row for name, row in rows.items()}
        )
        named = message.DESCRIPTOR.fields_by_name
        if unknown := self.rows.keys() - named.keys():
            raise TypeError(f"{message.DESCRIPTOR.full_name} has no field {min(unknown)}")
        self._required = tuple(required)
        self._always: Mapping[str, Any] = _frozen(always or {})
        self.members: frozenset[str] = frozenset(self._always).union(
            *(
                (row.path.partition(".")[0],) if row.path else row.members
                for row in self.rows.values()
            )
        )
        self._writes: Mapping[str, tuple[tuple[str, ...], Write]] = MappingProxyType(
            {
                name: (tuple(row.path.split(".")) if row.path else (), _write_of(row))
                for name, row in self.rows.items()
            }
        )
        empty = message()
        self._reads: tuple[_Member, ...] = _Member.tree(
            [
                (row.path, _put_of(empty, name, row))
                for name, row in self.rows.items()
                if _is_read(row)
            ]
        )
        self._expected = _Member.tree([(path, _is_there) for path in expected])
        self._paths_expected = len(expected)

    # --- Writing ---

    def write(self, value: Any, cursor: Cursor) -> JsonObject:
        """The JSON of a message, of which no part is shared with anything."""
        out: JsonObject = {}
        fields: list[tuple[Any, Any]] = value.ListFields()
        if self._required:
            there = {descriptor.name for descriptor, _ in fields}
            for name in self._required:
                names = name.split("|")
                if not there.intersection(names) and not _has_oneof(value, name):
                    cursor.field(names[0]).refuse("is required")
        for group in self._either:
            first, *others = [d.name for d, _ in fields if d.name in group] or [""]
            for name in others:
                cursor.field(name).refuse(f"cannot go with {first}")
        for descriptor, content in fields:
            here = cursor.field(descriptor.name)
            if descriptor.name == "extra_body_json":
                self._write_extra(out, content, here)
                continue
            steps, write = self._writes.get(descriptor.name, ((), not_carried))
            _merge(out, steps, _written(write, content, here))
        _merge(out, (), self._always)
        return out

    def _write_extra(self, out: JsonObject, content: str, cursor: Cursor) -> None:
        """Members that the contract has no field for, beside those that it has."""
        extra: JsonObject = object_of_text(content, cursor) or {}
        for name, value in extra.items():
            if name in self.members or name in NEVER_EXTRA:
                cursor.refuse(f"has the member {name!r}, which has a field of its own")
            else:
                out[name] = value

    # --- Reading ---

    def read(self, data: Any) -> M:
        """The message of a JSON object."""
        message = self.message()
        self.read_into(message, data)
        return message

    def read_into(self, message: Message, data: Any) -> None:
        if type(data) is not dict:
            raise TypeError("not a JSON object")
        for member in self._reads:
            member.follow(message, data)
        members = cast(JsonObject, data)
        if self._known is not None and (rest := leftover(members, self._known)):
            setattr(message, "extra_json", to_text(rest))  # noqa: B010

    def reads_member(self, name: str) -> bool:
        """Whether a member of the outermost object is read."""
        return any(member.key == name for member in self._reads)

    def lacks_a_member(self, data: Any) -> bool:
        """Whether the JSON is without a member that every such reply has."""
        seen: list[bool] = []
        for member in self._expected:
            member.follow(seen, data)
        return len(seen) < self._paths_expected


class Variants:
    """A message that is one of several things, as a JSON object with a `type`.

    `read_also` are kinds that only come from the gateway; `common` are fields beside the variants.
    A kind that is not known becomes `opaque`, as it came, or None if the message has no such field.
    `inner` has, by the tag of a kind, what is known inside of some of its members.
    """

    def __init__(
        self,
        message: type[Message],
        kinds: Mapping[str, tuple[str, Rows]],
        *,
        read_also: Mapping[str, tuple[str, Rows]] = MappingProxyType({}),
        common: Rows = NO_ROWS,
        inner: Mapping[str, Known] = MappingProxyType({}),
    ) -> None:
        def table(tag: str, rows: Rows) -> Table[Any]:
            return Table(message, {**common, **rows}, always={"type": tag})

        self._message = message
        self._opaque = "opaque" in message.DESCRIPTOR.fields_by_name
        self._beside = Table(message, common)
        self._common = frozenset(common)
        self._inner = inner
        self._writes = MappingProxyType(
            {field: table(tag, rows) for field, (tag, rows) in kinds.items()}
        )
        self._reads = MappingProxyType(
            {tag: self._writes[field] for field, (tag, _) in kinds.items()}
            | {tag: table(tag, rows) for tag, rows in read_also.values()}
        )

    def known(self, data: JsonObject) -> Known:
        """The members that are read of an object, by its kind."""
        kind = data.get("type") or ""
        table = self._reads.get(kind)
        if table is not None:
            return {**dict.fromkeys(table.members), **self._inner.get(kind, {})}
        return dict.fromkeys(data) if self._opaque else {}

    def write(self, value: Any, cursor: Cursor) -> Any:
        chosen = [d.name for d, _ in value.ListFields() if d.name not in self._common]
        if not chosen:
            cursor.refuse("is empty")
        elif chosen[0] == "opaque":
            return object_of_text(value.opaque.json, cursor.field("opaque").field("json"))
        elif chosen[0] not in self._writes:
            cursor.field(chosen[0]).refuse()
        else:
            return self._writes[chosen[0]].write(value, cursor)
        return None

    def read(self, data: Any) -> Any:
        kind = data.get("type")
        table = self._reads.get(kind)
        if table:
            return table.read(data)
        if not (self._opaque and isinstance(kind, str)):
            return None
        message: Any = self._beside.read(data)
        message.opaque.type, message.opaque.json = kind, to_text(data)
        return message


class Names:
    """A closed set: proto numbers, and the texts that JSON has for them."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.texts: Mapping[int, str] = MappingProxyType(dict(names))
        self._numbers = MappingProxyType({text: number for number, text in names.items()})

    def write(self, value: Any, cursor: Cursor) -> Any:
        if value not in self.texts:
            cursor.refuse(f"must be one of {', '.join(self.texts.values())} on this route")
        return self.texts.get(value)

    def read(self, data: Any) -> Any:
        return self._numbers.get(data)

    def at(self, path: str) -> Row:
        return Row(path, self.write, self.read)


# --- Requests and replies as a whole ---


def write_request(table: Table[Any], message: Message) -> JsonObject:
    """The JSON of a request; a status with the violations if there are any."""
    found: list[FieldViolation] = []
    out = table.write(message, Cursor(found))
    if found:
        raise invalid(*found)
    return out


def read_reply(table: Table[M], data: Any, what: str) -> M:
    """The message of a reply; a status if it is an error with HTTP 200, or no such reply."""
    unreadable = f"{what} of the gateway cannot be read"
    if is_object(data):
        reports_failure = bool(data.get("error")) and not table.reads_member("error")
        if reports_failure or reading(what, table.lacks_a_member, data):
            raise from_error_body(data, unreadable)
    return reading(what, table.read, data)


def read_whole(read: Callable[[Any], T], data: Any, what: str) -> T:
    """As `read_reply`, of what no table reads as it is."""
    try:
        return reading(what, read, data)
    except SmgError as error:
        raise from_error_body(as_object(data), error.message) from None


# --- Rows and functions that the tables are made of ---


def same(*names: str) -> dict[str, Row]:
    """Fields that have the same name and value over HTTP."""
    return {name: Row(name) for name in names}


def nested(path: str, table: "Table[Any] | Variants") -> Row:
    """A message as an object; a repeated one as an array of them."""
    members = table.members if isinstance(table, Table) and not path else ()
    return Row(path, table.write, table.read, members=members)


def parts(path: str, items: "Table[Any] | Variants") -> Row:
    """A repeated message as an array, where the JSON may have a text that is another field's."""

    def read(data: Any) -> Any:
        if not is_list(data):
            return ()
        return [item for item in map(items.read, data) if item is not None]

    return Row(path, items.write, read, whole=True)


def _known(of: Any, item: JsonObject) -> Known:
    """What is known of an item of a list: the same of all, or told by the item."""
    return cast(Known, of(item) if callable(of) else of)


def leftover(data: JsonObject, known: Known) -> JsonObject:
    """The members of an object that are not known, with what is around them; nulls are left out."""
    rest: JsonObject = {}
    for name, value in data.items():
        inner: Any = known.get(name, _ABSENT)
        if inner is _ABSENT:
            found = value
        elif isinstance(inner, _MAPPING) and is_object(value):
            found = leftover(value, cast(Known, inner)) or None
        elif isinstance(inner, tuple) and is_list(value):
            of = cast(Any, inner)[0]
            each = [_entry(item, _known(of, item)) if is_object(item) else {} for item in value]
            found = each if any(each) else None
        else:
            found = None
        if found is not None:
            rest[name] = found
    return rest


def _entry(item: JsonObject, known: Known) -> JsonObject:
    """Of an entry of a list: with its index, if it has one and there is something to tell."""
    rest = leftover(item, known)
    return {"index": item["index"], **rest} if rest and "index" in item else rest


def ids(path: str) -> Row:
    """Token ids as the bare array."""

    def write(value: Any, cursor: Cursor) -> Any:
        return _written(as_it_is, value.ids, cursor.field("ids"))

    def read(data: Any) -> Any:
        return smg.TokenIds(ids=as_list(data))

    return Row(path, write, read)


def text_only(path: str) -> Row:
    """A text, where the JSON may have something else that is another field's."""

    def read(data: Any) -> Any:
        return data if type(data) is str else None

    return Row(path, as_it_is, read)


def json_text(path: str) -> Row:
    """A JSON object, as a text in the proto."""
    return Row(path, object_of_text, to_text)


def as_it_is(value: Any, cursor: Cursor) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        cursor.refuse("must be a finite number")
    return value


def not_carried(value: Any, cursor: Cursor) -> Any:
    cursor.refuse()


def object_of_text(value: str, cursor: Cursor) -> Any:
    """The JSON object that a text is."""
    if len(value) > MAX_JSON_TEXT_BYTES:
        cursor.refuse(f"must be at most {MAX_JSON_TEXT_BYTES} bytes")
        return None
    try:
        data = parse_to_send(value)
    except Unsendable as error:
        cursor.refuse(str(error))
    except (ValueError, RecursionError):
        cursor.refuse("is not JSON")
    else:
        if is_object(data):
            return data
        cursor.refuse("must be a JSON object")
    return None


def count(data: Any) -> int:
    """A number that counts or is a place: from 0 on."""
    if type(data) is not int or data < 0:
        raise ValueError("not a count")
    return data


def timestamp(data: Any) -> Timestamp | None:
    """A time from seconds since 1970; 0 is unset."""
    return Timestamp(seconds=int(data)) if data else None


def iso_timestamp(data: Any) -> Timestamp:
    found = Timestamp()
    found.FromJsonString(data)
    return found


def bytes_of_numbers(data: Any) -> bytes:
    # bytes(n) of a number would be n zero bytes.
    return bytes(as_list(data))


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- Inside ---

# As Any, they narrow nothing: what protobuf's containers hold is of no known type.
_LIST: Any = MutableSequence
_MAP: Any = MutableMapping
_MESSAGE: Any = Message
_MAPPING: Any = Mapping

Put = Callable[[Any, Any], None]


@dataclass(frozen=True)
class _Member:
    """A member of an object, or a place in an array, and who takes what is there."""

    key: str | int | None  # None: the object itself
    puts: Sequence[Put]
    inner: "Sequence[_Member]"

    @classmethod
    def tree(cls, pairs: Iterable[tuple[str, Put]]) -> "tuple[_Member, ...]":
        """The members of all paths, each once."""
        puts: dict[str | int | None, list[Put]] = {}
        inner: dict[str | int | None, list[tuple[str, Put]]] = {}
        for path, put in pairs:
            first, _, rest = path.partition(".")
            key = None if not path else int(first) if first.isdecimal() else first
            puts.setdefault(key, [])
            inner.setdefault(key, [])
            if rest:
                inner[key].append((rest, put))
            else:
                puts[key].append(put)
        return tuple(cls(key, tuple(puts[key]), cls.tree(inner[key])) for key in puts)

    def follow(self, target: Any, data: Any) -> None:
        key = self.key
        if type(key) is str:
            data = data.get(key)
        elif type(key) is int:
            items = as_list(data)
            data = items[key] if key < len(items) else None
        if data is not None:
            for put in self.puts:
                put(target, data)
            for member in self.inner:
                member.follow(target, data)


def _is_read(row: Row) -> bool:
    return row.read is not None or row.write is None


def _put_of(empty: Message, name: str, row: Row) -> Put:
    """How a field of this kind takes what was found for it."""
    current: Any = getattr(empty, name)
    read = row.read
    if isinstance(current, _MAP):

        def put(message: Any, found: Any) -> None:
            if not is_object(found):
                raise TypeError("not a JSON object")
            getattr(message, name).update(found)

    elif isinstance(current, _LIST):
        take = _items_of(row)

        def put(message: Any, found: Any) -> None:
            getattr(message, name).extend(take(found))

    elif isinstance(current, _MESSAGE):
        if read is None:
            raise TypeError(f"{name} needs a function that reads it")
        read_message = read

        def put(message: Any, found: Any) -> None:
            value = read_message(found)
            if value is not None:
                inner = getattr(message, name)
                inner.SetInParent()
                inner.CopyFrom(value)

    else:

        def put(message: Any, found: Any) -> None:
            value = read(found) if read else found
            if value is not None:
                setattr(message, name, value)

    return put


def _items_of(row: Row) -> Callable[[Any], Iterable[Any]]:
    """The elements of a repeated field."""
    read = row.read
    if read is None:
        return as_list
    if row.whole:
        return read
    return lambda found: [item for item in map(read, as_list(found)) if item is not None]


def _write_of(row: Row) -> Write:
    return row.write or (not_carried if row.read else as_it_is)


def _written(write: Write, content: Any, cursor: Cursor) -> Any:
    """The JSON of what a field holds; of a repeated one an array."""
    if isinstance(content, _MAP):
        return dict(content)
    if not isinstance(content, _LIST):
        return write(content, cursor)
    first = next(iter(content), None)
    limit = MAX_NUMBERS_IN_A_LIST if isinstance(first, int) else MAX_ITEMS_IN_A_LIST
    if len(content) > limit:
        cursor.refuse(f"must have at most {limit} items")
        return []
    if write is as_it_is and isinstance(first, int | str):
        return list(content)
    return [write(item, cursor.item(number)) for number, item in enumerate(content)]


def _merge(out: JsonObject, steps: Sequence[str], value: Any) -> None:
    """Put a value at a path. Objects grow together; what is already there stays."""
    if steps:
        for name in steps[:-1]:
            out = out.setdefault(name, {})
        _join(out, steps[-1], value)
    elif isinstance(value, _MAPPING):
        for name, content in value.items():
            _join(out, name, content)


def _join(out: Any, name: str, content: Any) -> None:
    if isinstance(content, _MAPPING):
        there = out.setdefault(name, {})  # never the object itself: others may have it too
        if is_object(there):
            _merge(there, (), content)
    elif content == ():
        out.setdefault(name, [])
    else:
        out.setdefault(name, content)


def _frozen(data: Any) -> Any:
    """The same, so that nobody can change it. An empty array is written ()."""
    if is_object(data):
        return MappingProxyType({name: _frozen(content) for name, content in data.items()})
    return data


def _has_oneof(message: Any, name: str) -> bool:
    return name in message.DESCRIPTOR.oneofs_by_name and message.WhichOneof(name) is not None


def _is_there(seen: Any, found: Any) -> None:
    seen.append(True)
