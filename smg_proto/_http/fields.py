"""Tables that map the fields of a message to JSON members, for both directions.

A `Table` lists every field of a message that a route supports. A request that sets any other field
is rejected with a violation, so that no field is dropped silently. Unknown JSON members of replies
are ignored, so that the gateway may add some. Tables are immutable.
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

from smg_proto._http.failures import from_error_body, reading, unreadable
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

NOT_SUPPORTED = "is not supported by this route"
# Limits on one request. They are far above real requests, and keep a request that is made to be
# slow from delaying others.
MAX_VIOLATIONS = 100
MAX_ITEMS_IN_A_LIST = 100_000
MAX_NUMBERS_IN_A_LIST = 4_000_000
MAX_JSON_TEXT_BYTES = 4 << 20
# The front door itself decides whether a reply is streamed.
NEVER_EXTRA = frozenset({"stream", "stream_options"})
_ABSENT: Any = object()


@dataclass(frozen=True)
class Cursor:
    """The path of the field that is written, and the violations so far."""

    violations: list[FieldViolation]
    path: str = ""

    def field(self, name: str) -> "Cursor":
        return Cursor(self.violations, f"{self.path}.{name}" if self.path else name)

    def item(self, number: int) -> "Cursor":
        return Cursor(self.violations, f"{self.path}[{number}]")

    def reject(self, why: str = NOT_SUPPORTED) -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(FieldViolation(self.path, why))


# The known members of an object: None for a whole member, a mapping for the members inside it, a
# sequence for those of each object in an array. A function returns them if they depend on the kind.
Known = Mapping[str, "Known | Sequence[Known | KnownOf] | None"]
KnownOf = Callable[[Any], Known]
# Writes a value as JSON. Problems go to the cursor; the result is then meaningless.
Write = Callable[[Any, Cursor], Any]
# Reads a value from JSON; None leaves the field unset. May raise any of failures.SHAPE_ERRORS.
Read = Callable[[Any], Any]


@dataclass(frozen=True)
class Row:
    """The path of a field in the JSON, and how the field is written and read.

    The path lists the members from the outside in, separated by dots; a number is an index in an
    array. Without a path, the functions write and read the whole object, for a field that maps to
    several members. Without functions, the value is the same on both sides. With only one function,
    the field is only written or only read.
    """

    path: str = ""
    write: Write | None = None
    read: Read | None = None
    # `read` takes the array of a repeated field as a whole, not each element.
    whole: bool = False
    # The members that a row without a path writes.
    members: Collection[str] = ()

    def under(self, path: str) -> "Row":
        """The same row in a nested object."""
        return replace(self, path=f"{path}.{self.path}" if self.path else path)


Rows = Mapping[str, Row | str]
NO_ROWS: Rows = MappingProxyType({})


class Table(Generic[M]):
    """Maps one message to one JSON object.

    required: fields or oneofs that a request must set; "a|b" means one of the two.
    either: groups of fields of which a request may set only one.
    always: members that the JSON has by default.
    expected: paths of members that every such reply has.
    known: the members of a reply that are read or ignored; `extra_json` gets all others.

    A field `extra_body_json` adds members that no row writes.
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
                (row.path, _set_of(empty, name, row))
                for name, row in self.rows.items()
                if _is_read(row)
            ]
        )
        self._expected = _Member.tree([(path, _note_present) for path in expected])
        self._paths_expected = len(expected)

    # --- Writing ---

    def write(self, value: Any, cursor: Cursor) -> JsonObject:
        """The JSON of a message. It shares no part with the table."""
        out: JsonObject = {}
        fields: list[tuple[Any, Any]] = value.ListFields()
        if self._required:
            present = {descriptor.name for descriptor, _ in fields}
            for name in self._required:
                names = name.split("|")
                if not present.intersection(names) and not _has_oneof(value, name):
                    cursor.field(names[0]).reject("is required")
        for group in self._either:
            first, *others = [d.name for d, _ in fields if d.name in group] or [""]
            for name in others:
                cursor.field(name).reject(f"cannot be combined with {first}")
        for descriptor, content in fields:
            here = cursor.field(descriptor.name)
            if descriptor.name == "extra_body_json":
                self._write_extra(out, content, here)
                continue
            steps, write = self._writes.get(descriptor.name, ((), not_supported))
            _merge(out, steps, _written(write, content, here))
        _merge(out, (), self._always)
        return out

    def _write_extra(self, out: JsonObject, content: str, cursor: Cursor) -> None:
        """Add members that the contract has no field for."""
        extra: JsonObject = object_of_text(content, cursor) or {}
        for name, value in extra.items():
            if name in self.members or name in NEVER_EXTRA:
                cursor.reject(f"must not have the member {name!r}, which has a field of its own")
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
        """Whether a member of the top-level object is read."""
        return any(member.key == name for member in self._reads)

    def lacks_a_member(self, data: Any) -> bool:
        """Whether a member is missing that every such reply has."""
        seen: list[bool] = []
        for member in self._expected:
            member.follow(seen, data)
        return len(seen) < self._paths_expected


class Variants:
    """Maps a message with several variants to a JSON object with a `type`.

    read_also: kinds that only the gateway sends.
    common: fields beside the variants.
    inner: for the tag of a kind, the known members inside some of its members.

    An unknown kind becomes `opaque`, unchanged, or None if the message has no such field.
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
        """The members of an object that are read, which depend on its kind."""
        kind = data.get("type") or ""
        table = self._reads.get(kind)
        if table is not None:
            return {**dict.fromkeys(table.members), **self._inner.get(kind, {})}
        return dict.fromkeys(data) if self._opaque else {}

    def write(self, value: Any, cursor: Cursor) -> Any:
        chosen = [d.name for d, _ in value.ListFields() if d.name not in self._common]
        if not chosen:
            cursor.reject("is empty")
        elif chosen[0] == "opaque":
            return object_of_text(value.opaque.json, cursor.field("opaque").field("json"))
        elif chosen[0] not in self._writes:
            cursor.field(chosen[0]).reject()
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
    """Maps the numbers of an enum to the texts in JSON."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.texts: Mapping[int, str] = MappingProxyType(dict(names))
        self._numbers = MappingProxyType({text: number for number, text in names.items()})

    def write(self, value: Any, cursor: Cursor) -> Any:
        if value not in self.texts:
            cursor.reject(f"must be one of {', '.join(self.texts.values())} on this route")
        return self.texts.get(value)

    def read(self, data: Any) -> Any:
        return self._numbers.get(data)

    def at(self, path: str) -> Row:
        return Row(path, self.write, self.read)


# --- Whole requests and replies ---


def write_request(table: Table[Any], message: Message) -> JsonObject:
    """The JSON of a request. Raises SmgError with all violations if there are any."""
    cursor = Cursor([])
    out = table.write(message, cursor)
    if cursor.violations:
        raise invalid(*cursor.violations)
    return out


def read_reply(table: Table[M], data: Any, what: str) -> M:
    """The message of a reply. Raises SmgError for an error with HTTP 200 or any other JSON."""
    if is_object(data):
        reports_error = bool(data.get("error")) and not table.reads_member("error")
        if reports_error or reading(what, table.lacks_a_member, data):
            raise from_error_body(data, unreadable(what).message)
    return reading(what, table.read, data)


def read_reply_with(read: Callable[[Any], T], data: Any, what: str) -> T:
    """Like `read_reply`, with a function instead of a table."""
    try:
        return reading(what, read, data)
    except SmgError as error:
        raise from_error_body(as_object(data), error.message) from None


# --- Rows and functions for tables ---


def same(*names: str) -> dict[str, Row]:
    """Fields with the same name and value over HTTP."""
    return {name: Row(name) for name in names}


def nested(path: str, table: "Table[Any] | Variants") -> Row:
    """A message as an object; a repeated one as an array of them."""
    members = table.members if isinstance(table, Table) and not path else ()
    return Row(path, table.write, table.read, members=members)


def parts(path: str, items: "Table[Any] | Variants") -> Row:
    """A repeated message as an array. A text in its place in the JSON belongs to another field."""

    def read(data: Any) -> Any:
        if not is_list(data):
            return ()
        return [item for item in map(items.read, data) if item is not None]

    return Row(path, items.write, read, whole=True)


def _known(of: Any, item: JsonObject) -> Known:
    """The known members of an item: the same for all items, or depending on the item."""
    return cast(Known, of(item) if callable(of) else of)


def leftover(data: JsonObject, known: Known) -> JsonObject:
    """The unknown members of an object, with the objects around them. Nulls are left out."""
    rest: JsonObject = {}
    for name, value in data.items():
        inner: Any = known.get(name, _ABSENT)
        if inner is _ABSENT:
            unknown = value
        elif isinstance(inner, _MAPPING) and is_object(value):
            unknown = leftover(value, cast(Known, inner)) or None
        elif isinstance(inner, tuple) and is_list(value):
            of = cast(Any, inner)[0]
            each = [_entry(item, _known(of, item)) if is_object(item) else {} for item in value]
            unknown = each if any(each) else None
        else:
            unknown = None
        if unknown is not None:
            rest[name] = unknown
    return rest


def _entry(item: JsonObject, known: Known) -> JsonObject:
    """The unknown members of a list entry, with its index if there are any."""
    rest = leftover(item, known)
    return {"index": item["index"], **rest} if rest and "index" in item else rest


def ids(path: str) -> Row:
    """Token ids as a plain array."""

    def write(value: Any, cursor: Cursor) -> Any:
        return _written(unchanged, value.ids, cursor.field("ids"))

    return Row(path, write)


def text_only(path: str) -> Row:
    """A text. If the JSON has anything else, it belongs to another field."""

    def read(data: Any) -> Any:
        return data if type(data) is str else None

    return Row(path, unchanged, read)


def json_text(path: str) -> Row:
    """A JSON object, which the proto holds as text."""
    return Row(path, object_of_text, to_text)


def unchanged(value: Any, cursor: Cursor) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        cursor.reject("must be a finite number")
    return value


def not_supported(value: Any, cursor: Cursor) -> Any:
    cursor.reject()


def object_of_text(value: str, cursor: Cursor) -> Any:
    """Parse a text as a JSON object."""
    if len(value) > MAX_JSON_TEXT_BYTES:
        cursor.reject(f"must be at most {MAX_JSON_TEXT_BYTES} bytes")
        return None
    try:
        data = parse_to_send(value)
    except Unsendable as error:
        cursor.reject(str(error))
    except (ValueError, RecursionError):
        cursor.reject("is not JSON")
    else:
        if is_object(data):
            return data
        cursor.reject("must be a JSON object")
    return None


def count(data: Any) -> int:
    """A count or an index: a whole number, at least 0."""
    if type(data) is not int or data < 0:
        raise ValueError("not a count")
    return data


def timestamp(data: Any) -> Timestamp | None:
    """A time from seconds since 1970. 0 means unset."""
    return Timestamp(seconds=int(data)) if data else None


def iso_timestamp(data: Any) -> Timestamp:
    time = Timestamp()
    time.FromJsonString(data)
    return time


def bytes_of_numbers(data: Any) -> bytes:
    # as_list, because bytes(n) of a number would be n zero bytes.
    return bytes(as_list(data))


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- Internals ---

# Typed as Any so that isinstance narrows nothing: protobuf's containers are untyped.
_LIST: Any = MutableSequence
_MAP: Any = MutableMapping
_MESSAGE: Any = Message
_MAPPING: Any = Mapping

Set = Callable[[Any, Any], None]


@dataclass(frozen=True)
class _Member:
    """A member of an object, or an entry of an array, and the functions that store its value."""

    key: str | int | None  # None: the object itself
    sets: Sequence[Set]
    inner: "Sequence[_Member]"

    @classmethod
    def tree(cls, pairs: Iterable[tuple[str, Set]]) -> "tuple[_Member, ...]":
        """The members of all paths, each once."""
        sets: dict[str | int | None, list[Set]] = {}
        inner: dict[str | int | None, list[tuple[str, Set]]] = {}
        for path, set_value in pairs:
            first, _, rest = path.partition(".")
            key = None if not path else int(first) if first.isdecimal() else first
            sets.setdefault(key, [])
            inner.setdefault(key, [])
            if rest:
                inner[key].append((rest, set_value))
            else:
                sets[key].append(set_value)
        return tuple(cls(key, tuple(sets[key]), cls.tree(inner[key])) for key in sets)

    def follow(self, target: Any, data: Any) -> None:
        key = self.key
        if type(key) is str:
            data = data.get(key)
        elif type(key) is int:
            items = as_list(data)
            data = items[key] if key < len(items) else None
        if data is not None:
            for set_value in self.sets:
                set_value(target, data)
            for member in self.inner:
                member.follow(target, data)


def _is_read(row: Row) -> bool:
    return row.read is not None or row.write is None


def _set_of(empty: Message, name: str, row: Row) -> Set:
    """The function that stores a JSON value in a field, which depends on the field's kind."""
    current: Any = getattr(empty, name)
    read = row.read
    if isinstance(current, _MAP):

        def set_value(message: Any, data: Any) -> None:
            if not is_object(data):
                raise TypeError("not a JSON object")
            getattr(message, name).update(data)

    elif isinstance(current, _LIST):
        items = _items_of(row)

        def set_value(message: Any, data: Any) -> None:
            getattr(message, name).extend(items(data))

    elif isinstance(current, _MESSAGE):
        if read is None:
            raise TypeError(f"{name} needs a function that reads it")
        read_message = read

        def set_value(message: Any, data: Any) -> None:
            value = read_message(data)
            if value is not None:
                inner = getattr(message, name)
                inner.SetInParent()
                inner.CopyFrom(value)

    else:

        def set_value(message: Any, data: Any) -> None:
            value = read(data) if read else data
            if value is not None:
                setattr(message, name, value)

    return set_value


def _items_of(row: Row) -> Callable[[Any], Iterable[Any]]:
    """The function that reads the elements of a repeated field."""
    read = row.read
    if read is None:
        return as_list
    if row.whole:
        return read
    return lambda data: [item for item in map(read, as_list(data)) if item is not None]


def _write_of(row: Row) -> Write:
    return row.write or (not_supported if row.read else unchanged)


def _written(write: Write, content: Any, cursor: Cursor) -> Any:
    """The JSON of a field's content; an array if the field is repeated."""
    if isinstance(content, _MAP):
        return dict(content)
    if not isinstance(content, _LIST):
        return write(content, cursor)
    first = next(iter(content), None)
    limit = MAX_NUMBERS_IN_A_LIST if isinstance(first, int) else MAX_ITEMS_IN_A_LIST
    if len(content) > limit:
        cursor.reject(f"must have at most {limit} items")
        return []
    if write is unchanged and isinstance(first, int | str):
        return list(content)
    return [write(item, cursor.item(number)) for number, item in enumerate(content)]


def _merge(out: JsonObject, steps: Sequence[str], value: Any) -> None:
    """Add a value at a path. Objects are merged; other values that exist already stay."""
    if steps:
        for name in steps[:-1]:
            out = out.setdefault(name, {})
        _join(out, steps[-1], value)
    elif isinstance(value, _MAPPING):
        for name, content in value.items():
            _join(out, name, content)


def _join(out: Any, name: str, content: Any) -> None:
    if isinstance(content, _MAPPING):
        target = out.setdefault(name, {})  # a copy, because `content` may be shared
        if is_object(target):
            _merge(target, (), content)
    elif content == ():
        out.setdefault(name, [])
    else:
        out.setdefault(name, content)


def _frozen(data: Any) -> Any:
    """An immutable copy. An empty array is written as ()."""
    if is_object(data):
        return MappingProxyType({name: _frozen(content) for name, content in data.items()})
    return data


def _has_oneof(message: Any, name: str) -> bool:
    return name in message.DESCRIPTOR.oneofs_by_name and message.WhichOneof(name) is not None


def _note_present(seen: Any, _: Any) -> None:
    seen.append(True)
