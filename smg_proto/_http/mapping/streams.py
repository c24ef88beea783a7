"""Turns the events of a route's stream into events of smg.v1, with one state machine per route."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

from google.protobuf.message import Message

from smg_proto._http.failures import from_error_body, reading, unreadable
from smg_proto._http.fields import Known, leftover
from smg_proto._http.shapes import JsonObject, is_list, is_object, parse, to_text
from smg_proto._http.sse import ServerSentEvent
from smg_proto.errors import SmgError

Event = TypeVar("Event")
# The choice, block or item of a delta, with its part if it has parts.
Place = int | tuple[int, int]

MAX_EXTRA_CHARACTERS = 1 << 20
FAILED = "the worker failed during the stream"


class StreamReader(Generic[Event]):
    """Reads one stream. `done` is true once `end` was returned; a stream that ends earlier is cut.

    Consecutive deltas of the same text that arrive together are merged, which saves messages under
    load.
    """

    def __init__(self) -> None:
        self.done: bool = False
        self._emitted: list[Event] = []
        # Text that will become one delta, with its place and field.
        self._text: list[str] = []
        self._text_of: tuple[Place, str] = (0, "")

    def read(self, events: Iterable[ServerSentEvent]) -> Iterator[Event]:
        """The events of a batch. Those before an error are still returned."""
        try:
            for event in events:
                if self.done:
                    break
                reading("event", self._event, event)
        except SmgError:
            yield from self._flush()
            raise
        yield from self._flush()

    # --- For subclasses ---

    def _event(self, event: ServerSentEvent) -> None:
        """Read one event, and call `_emit` or `_emit_text` for what it holds."""
        raise NotImplementedError

    def _text_delta(self, place: Place, field: str, text: str) -> Event:
        """An event with a delta of only text."""
        raise NotImplementedError

    def _emit(self, event: Event) -> None:
        self._end_of_text()
        if not (self._emitted and _merge_delta(self._emitted[-1], event)):
            self._emitted.append(event)

    def _emit_text(self, place: Place, field: str, text: str) -> None:
        if type(text) is not str:
            raise TypeError("not a text")
        if self._text_of != (place, field):
            self._end_of_text()
            self._text_of = (place, field)
        self._text.append(text)

    # --- Internals ---

    def _end_of_text(self) -> None:
        if self._text:
            text = "".join(self._text)
            self._text.clear()
            self._emitted.append(self._text_delta(*self._text_of, text))

    def _flush(self) -> list[Event]:
        reading("event", self._end_of_text)
        emitted, self._emitted = self._emitted, []
        return emitted


def _merge_delta(last: Any, event: Any) -> bool:
    """Append the delta of an event to the last one if it continues it. Returns whether it did.

    It does if both have the same place and the same fields, and no tool calls.
    """
    if not (last.HasField("delta") and event.HasField("delta")):
        return False
    ours, theirs = last.delta, event.delta
    fields = theirs.ListFields()
    if [field for field, _ in ours.ListFields()] != [field for field, _ in fields]:
        return False
    for field, value in fields:
        if isinstance(value, int):
            if value != getattr(ours, field.name):
                return False
        elif field.name == "tool_calls" or isinstance(value, Message):
            return False
    for field, value in fields:
        if isinstance(value, str):
            setattr(ours, field.name, getattr(ours, field.name) + value)
        elif not isinstance(value, int):
            getattr(ours, field.name).extend(value)
    return True


def object_of(event: ServerSentEvent) -> JsonObject:
    """The JSON object in an event."""
    data = parse(event.data.decode())
    if not is_object(data):
        raise TypeError("not a JSON object")
    return data


class Extras:
    """Collects the members of a stream's events that the contract has no field for.

    Objects are merged by member and list entries by `index`. Texts inside a `delta` are
    concatenated. Any other value replaces the previous one.
    """

    def __init__(self) -> None:
        self._members: JsonObject = {}
        self._size = 0

    def add(self, more: JsonObject) -> None:
        if more:
            self._size += len(to_text(more))
            if self._size > MAX_EXTRA_CHARACTERS:
                limit = f"{MAX_EXTRA_CHARACTERS} characters of unknown members"
                raise unreadable(f"stream: more than {limit}")
            _merge(self._members, more, in_delta=False)

    def text(self) -> str:
        """All members as JSON text; empty if there are none."""
        return to_text(_concatenated(self._members)) if self._members else ""


class _Fragments(list[str]):
    """The fragments of one text."""


def _merge(into: JsonObject, more: JsonObject, *, in_delta: bool) -> None:
    for name, value in more.items():
        old = into.get(name)
        if is_object(value):
            if not is_object(old):
                into[name] = old = {}
            _merge(old, value, in_delta=in_delta or name == "delta")
        elif is_list(value):
            if not is_list(old) or isinstance(old, _Fragments):
                into[name] = old = []
            _merge_lists(old, value, in_delta=in_delta)
        elif in_delta and isinstance(value, str):
            if not isinstance(old, _Fragments):
                into[name] = old = _Fragments()
            old.append(value)
        else:
            into[name] = value


def _merge_lists(into: list[Any], more: list[Any], *, in_delta: bool) -> None:
    for value in more:
        if not is_object(value):
            into.append(value)
            continue
        if not value:  # nothing unknown in this entry
            continue
        same = (old for old in into if is_object(old) and old.get("index") == value.get("index"))
        entry = next(same, None) if "index" in value else None
        if entry is None:
            entry = {}
            into.append(entry)
        _merge(entry, value, in_delta=in_delta)


def _concatenated(data: Any) -> Any:
    """The data with the fragments of texts concatenated."""
    if isinstance(data, _Fragments):
        return "".join(data)
    if is_object(data):
        return {name: _concatenated(value) for name, value in data.items()}
    return [_concatenated(value) for value in data] if is_list(data) else data


class ChunkReader(StreamReader[Event]):
    """Reads a stream of chunks that ends with [DONE]: completions, chat, generate."""

    # The members of a chunk that are read or ignored.
    KNOWN: ClassVar[Known] = {}

    def __init__(self) -> None:
        super().__init__()
        self._begun = False
        self._extras = Extras()

    def _event(self, event: ServerSentEvent) -> None:
        if event.data.startswith(b"[DONE]"):
            if self._complete():
                self._emit(self._end_event())
                self.done = True
            return
        data = object_of(event)
        if data.get("error") or event.name == b"error":
            raise from_error_body(data, FAILED)
        self._extras.add(leftover(data, self.KNOWN))
        self._chunk(data)

    def _chunk(self, data: JsonObject) -> None:
        """Read one chunk."""
        raise NotImplementedError

    def _complete(self) -> bool:
        """Whether every text has ended."""
        raise NotImplementedError

    def _end_event(self) -> Event:
        raise NotImplementedError
