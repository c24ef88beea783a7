"""Streams of smg.v1, and the replies that they add up to or what is wrong with them.

stream_vectors.json has them, for the tests of every language. An event or a reply is proto JSON, or
hex where it has fields of a later release.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict
from random_messages import random_message

from smg_proto import smg_pb2
from smg_proto.streams import Stream, StreamError


@dataclass(frozen=True)
class StreamVector:
    name: str
    message: str  # the full name of an event's type
    events: list[Any]
    text: str = ""  # the text deltas, joined
    reply: Any = None
    error: str = ""


def stream_vectors() -> list[StreamVector]:
    found: list[StreamVector] = []
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    for vector in json.loads(text):
        kind = getattr(smg_pb2, vector["message"].rpartition(".")[2])
        vector["events"] = [_parsed(kind, event) for event in vector["events"]]
        if "reply" in vector:
            vector["reply"] = _parsed(type(kind().end), vector["reply"])
        found.append(StreamVector(**vector))
    return found


def _parsed(kind: Any, value: Any) -> Any:
    return (
        kind.FromString(bytes.fromhex(value))
        if isinstance(value, str)
        else ParseDict(value, kind())
    )


_EVENTS: list[Any] = [
    smg_pb2.ChatEvent,
    smg_pb2.CompletionEvent,
    smg_pb2.MessageEvent,
    smg_pb2.ResponseEvent,
]


def random_streams(count: int) -> Iterator[StreamVector]:
    """Streams of each type, from their numbers, and what Python makes of them."""
    for kind in _EVENTS:
        for number in range(count):
            name = f"{kind.DESCRIPTOR.name} {number}"
            events = _random_events(kind, number)
            try:
                stream: Stream[Any, Any] = Stream(events)
                text = "".join(stream.text_deltas)
                yield StreamVector(name, kind.DESCRIPTOR.full_name, events, text, stream.reply)
            except StreamError as error:
                message = kind.DESCRIPTOR.full_name
                yield StreamVector(name, message, events, error=str(error))


def _random_events(kind: Any, number: int) -> list[Any]:
    """Random events between a start and an end. One that fits nowhere is left in now and then."""
    chance = random.Random(f"{kind.DESCRIPTOR.name} {number}")
    start, end = kind(), kind()
    start.start.SetInParent()
    end.end.CopyFrom(random_message(end.end.__class__, number))
    events = [start, end]
    for seed in range(number * 1000, number * 1000 + 60):
        event: Any = random_message(kind, seed)
        which = event.WhichOneof("event")
        if which in ("start", "end"):
            continue
        if which:
            content = getattr(event, which)
            for field in ("index", "output_index", "content_index"):
                if field in content.DESCRIPTOR.fields_by_name:
                    setattr(content, field, chance.choice([0, 1, 5]))
        longer = [*events[:-1], event, end]
        try:
            stream: Stream[Any, Any] = Stream(longer)
            for _ in stream:
                pass
            _ = stream.reply
        except StreamError:
            if chance.random() > 0.02:
                continue
        events = longer
    return events
