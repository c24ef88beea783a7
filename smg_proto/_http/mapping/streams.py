"""How the events of a route's stream become events of smg.v1: one small state machine per route."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from smg_proto._http.failures import failed, unreadable
from smg_proto._http.shapes import JsonObject, as_object
from smg_proto._http.sse import ServerSentEvent
from smg_proto.errors import SmgError

Event_co = TypeVar("Event_co", covariant=True)


class EventStream(Protocol[Event_co]):
    """Reads one stream. `done` once `end` has been given out; a stream that stops before is cut."""

    done: bool

    def feed(self, event: ServerSentEvent) -> Iterator[Event_co]: ...


def fused(events: Iterable[Any]) -> Iterator[Any]:
    """The same events, but deltas that continue one another as one: fewer messages under load.

    Only events that came together are fused, so nothing waits; and only deltas of the same place
    that have the same fields, none of them messages but log probabilities.
    """
    last: Any = None
    try:
        for event in events:
            if last is not None:
                if _fuse(last, event):
                    continue
                yield last
            last = event
    except SmgError:
        if last is not None:
            yield last  # what came before the failure is still told
        raise
    if last is not None:
        yield last


def _fuse(last: Any, event: Any) -> bool:
    """Append the delta of an event to that of the last one, if it continues it."""
    if not (last.HasField("delta") and event.HasField("delta")):
        return False
    ours, theirs = last.delta, event.delta
    fields = theirs.ListFields()
    if [field for field, _ in ours.ListFields()] != [field for field, _ in fields]:
        return False
    for field, value in fields:
        if field.name == "tool_calls" or (
            isinstance(value, int) and value != getattr(ours, field.name)
        ):
            return False
    for field, value in fields:
        if isinstance(value, str):
            setattr(ours, field.name, getattr(ours, field.name) + value)
        elif not isinstance(value, int):
            getattr(ours, field.name).extend(value)
    return True


def json_of(event: ServerSentEvent) -> JsonObject:
    try:
        data: Any = json.loads(event.data)
    except (ValueError, RecursionError) as error:
        raise unreadable("an event") from error
    if not isinstance(data, dict):
        raise unreadable("an event")
    return as_object(data)


def failure_of(data: JsonObject) -> Exception:
    """The status of an error event."""
    error = data.get("error")
    message = as_object(error).get("message") or (error if isinstance(error, str) else "")
    return failed(str(message or "the worker failed in the middle of the stream"))


class Chunks(Generic[Event_co]):
    """A stream of chunks that ends with [DONE]: completions, chat, generate."""

    def __init__(self) -> None:
        self.done: bool = False

    def feed(self, event: ServerSentEvent) -> Iterator[Event_co]:
        if event.data == "[DONE]":
            if self.complete():
                self.done = True
                yield self.end()
            return
        data = json_of(event)
        if data.get("error") is not None:
            raise failure_of(data)
        try:
            yield from self.event(event.name, data)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise unreadable("an event") from error

    def event(self, name: str, data: JsonObject) -> Iterator[Event_co]:
        """The events that this chunk brings."""
        raise NotImplementedError

    def complete(self) -> bool:
        """Whether every text has ended."""
        raise NotImplementedError

    def end(self) -> Event_co:
        raise NotImplementedError
