"""How the events of a route's stream become events of smg.v1: one small state machine per route."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

from google.protobuf.message import Message

from smg_proto._http.failures import from_error_body, reading, unreadable
from smg_proto._http.fields import Known, leftover
from smg_proto._http.shapes import JsonObject, is_list, is_object, parse, to_text
from smg_proto._http.sse import ServerSentEvent
from smg_proto.errors import SmgError

Event = TypeVar("Event")
# Which choice, block or item a delta belongs to; with its part, if it has parts.
Place = int | tuple[int, int]

MAX_EXTRA_CHARACTERS = 1 << 20
FAILED = "the worker failed in the middle of the stream"


class StreamReader(Generic[Event]):
    """Reads one stream. `done` once `end` has been returned; a stream that stops earlier is cut.

    Deltas that come together and continue one another become one: fewer messages under load.
    """

    def __init__(self) -> None:
        self.done: bool = False
        self._emitted: list[Event] = []
        # Text that is to become one delta, and of what: a place and a field.
        self._text: list[str] = []
        self._text_of: tuple[Place, str] = (0, "")

    def read(self, events: Iterable[ServerSentEvent]) -> Iterator[Event]:
        """What a batch of events says. What came before a failure is still returned."""
        try:
            for event in events:
                if self.done:
                    break
                reading("an event", self._event, event)
        except SmgError:
            yield from self._take()
            raise
        yield from self._take()

    # --- For the route ---

    def _event(self, event: ServerSentEvent) -> None:
        """Read one event, and `_emit` or `_emit_text` what it says."""
        raise NotImplementedError

    def _text_delta(self, place: Place, field: str, text: str) -> Event:
        """A delta that is only text."""
        raise NotImplementedError

    def _emit(self, event: Event) -> None:
        self._end_of_text()
        if not (self._emitted and _joined(self._emitted[-1], event)):
            self._emitted.append(event)

    def _emit_text(self, place: Place, field: str, text: str) -> None:
        if type(text) is not str:
            raise TypeError("not a text")
        if self._text_of != (place, field):
            self._end_of_text()
            self._text_of = (place, field)
        self._text.append(text)

    # --- Inside ---

    def _end_of_text(self) -> None:
        if self._text:
            text = "".join(self._text)
            self._text.clear()
            self._emitted.append(self._text_delta(*self._text_of, text))

    def _take(self) -> list[Event]:
        reading("an event", self._end_of_text)
        emitted, self._emitted = self._emitted, []
        return emitted


def _joined(last: Any, event: Any) -> bool:
    """Append the delta of an event to that of the last one, if it continues it.

    It does if it is of the same place and has the same fields, none of them pieces of tool calls.
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
    """The JSON object that an event brings."""
    data = parse(event.data.decode())
    if not is_object(data):
        raise TypeError("not a JSON object")
    return data


class Extras:
    """What the events of a stream had that the contract has no field for, put together.

    Objects join member by member, entries of lists by their `index`, and texts within a `delta` are
    pieces of one. Of anything else that comes again, the last one holds.
    """

    def __init__(self) -> None:
        self._found: JsonObject = {}
        self._size = 0

    def add(self, more: JsonObject) -> None:
        if more:
            self._size += len(to_text(more))
            if self._size > MAX_EXTRA_CHARACTERS:
                raise unreadable(f"over {MAX_EXTRA_CHARACTERS} characters of unknown members")
            _join(self._found, more, pieces=False)

    def text(self) -> str:
        """All of it, as JSON text. Empty: there was nothing."""
        return to_text(_whole(self._found)) if self._found else ""


class _Pieces(list[str]):
    """A text that comes in pieces."""


def _join(into: JsonObject, more: JsonObject, *, pieces: bool) -> None:
    for name, value in more.items():
        old = into.get(name)
        if is_object(value):
            if not is_object(old):
                into[name] = old = {}
            _join(old, value, pieces=pieces or name == "delta")
        elif is_list(value):
            if not is_list(old) or isinstance(old, _Pieces):
                into[name] = old = []
            _join_lists(old, value, pieces=pieces)
        elif pieces and isinstance(value, str):
            if not isinstance(old, _Pieces):
                into[name] = old = _Pieces()
            old.append(value)
        else:
            into[name] = value


def _join_lists(into: list[Any], more: list[Any], *, pieces: bool) -> None:
    for value in more:
        if not is_object(value):
            into.append(value)
            continue
        if not value:  # of this entry, there is nothing
            continue
        same = (old for old in into if is_object(old) and old.get("index") == value.get("index"))
        entry = next(same, None) if "index" in value else None
        if entry is None:
            entry = {}
            into.append(entry)
        _join(entry, value, pieces=pieces)


def _whole(found: Any) -> Any:
    """The same, with the pieces of texts put together."""
    if isinstance(found, _Pieces):
        return "".join(found)
    if is_object(found):
        return {name: _whole(value) for name, value in found.items()}
    return [_whole(value) for value in found] if is_list(found) else found


class ChunkReader(StreamReader[Event]):
    """A stream of chunks that ends with [DONE]: completions, chat, generate."""

    # The members of a chunk that are read, or of no interest.
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
