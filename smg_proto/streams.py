"""Reads streams of smg.v1, and builds the reply from their events.

    stream = Stream(stub.StreamChat(request))
    for text in stream.text_deltas:
        print(text, end="", flush=True)
    message = stream.reply.choices[0].message

`stream.reply` equals the reply of the unary RPC. Iterate over the stream itself for its events, or
use `collect(events)` for the reply alone. AsyncStream and collect_aio are for stubs of grpc.aio.
"""

from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from itertools import chain
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from smg_proto import smg_pb2 as pb

__all__ = ["AsyncStream", "Stream", "StreamError", "collect", "collect_aio"]

E = TypeVar("E")  # an event
R = TypeVar("R")  # a reply


class StreamError(ValueError):
    """The events are not a valid stream of smg.v1."""

    def __init__(self, what: str, event: int) -> None:
        super().__init__(what, event)
        self.what = what
        self.event = event
        """The number of the event, from 1. If the stream stopped too early, the last event."""

    def __str__(self) -> str:
        return f"event {self.event}: {self.what}"


# An event between start and end: its number, its kind and its content.
_Piece = tuple[int, str, Any]


# --- Reading ---


class _Events(Generic[E, R]):
    """Keeps the events of a stream to build the reply."""

    def __init__(self, events: Any) -> None:
        self._events = events
        self._count = 0
        self._start: Any = None
        self._end: Any = None
        self._between: list[_Piece] = []

    @property
    def reply(self) -> R:
        """The reply of the unary RPC, once the stream has been read to its end."""
        if self._end is None:
            raise self._error("the reply is not complete; read the stream to its end first")
        reply: R = type(self._end)()
        _JOIN[type(self._end)](reply, self._start, self._end, self._between)
        return reply

    def cancel(self) -> None:
        """End the call. The reply is available only if the stream has already ended."""
        cancel: Callable[[], object] | None = getattr(self._events, "cancel", None)
        if cancel:  # events may be any iterable
            cancel()

    def _take(self, event: Any) -> Any:
        """Keep an event. Returns the delta, if it is one."""
        self._count += 1
        kind = event.WhichOneof("event")
        if kind is None:  # a newer kind
            return None
        if self._end is not None:
            raise self._error(f"{kind} after end")
        if kind == "start":
            if self._start is not None:
                raise self._error("a second start")
            self._start = event.start
            return None
        if self._start is None:
            raise self._error(f"{kind} before start")
        if kind == "end":
            self._end = event.end
            return None
        content = getattr(event, kind)
        self._between.append((self._count, kind, content))
        return content if kind == "delta" else None

    def _finished(self) -> None:
        if self._end is None:
            raise self._error("the stream stopped before its end")

    def _error(self, what: str) -> StreamError:
        return StreamError(what, self._count)


def _text(delta: Any) -> str:
    """The text that a delta adds to the first choice."""
    if isinstance(delta, pb.ChatDelta):
        return "" if delta.index else delta.content
    if isinstance(delta, pb.CompletionDelta):
        return "" if delta.index else delta.text
    return str(delta.text)


class Stream(_Events[E, R]):
    """The events of a stub of grpc or of a list. Leaving its `with` block cancels the call."""

    @overload
    def __init__(
        self: "Stream[pb.ChatEvent, pb.ChatResponse]", events: Iterable[pb.ChatEvent]
    ) -> None: ...
    @overload
    def __init__(
        self: "Stream[pb.CompletionEvent, pb.CompletionResponse]",
        events: Iterable[pb.CompletionEvent],
    ) -> None: ...
    @overload
    def __init__(
        self: "Stream[pb.MessageEvent, pb.MessageResponse]", events: Iterable[pb.MessageEvent]
    ) -> None: ...
    @overload
    def __init__(
        self: "Stream[pb.ResponseEvent, pb.Response]", events: Iterable[pb.ResponseEvent]
    ) -> None: ...
    def __init__(self, events: Iterable[Any]) -> None:
        super().__init__(events)
        self._left = iter(events)

    def __iter__(self) -> Generator[E, None, None]:
        """The events. After a loop that ended early, another one continues with the next event."""
        for event in self._left:
            self._take(event)
            yield event
        self._finished()

    @property
    def text_deltas(self) -> Generator[str, None, None]:
        """The pieces of the first choice's text, without reasoning."""
        take = self._take
        for event in self._left:
            delta = take(event)
            if delta is not None and (text := _text(delta)):
                yield text
        self._finished()

    def __enter__(self) -> "Stream[E, R]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, where: TracebackType | None
    ) -> None:
        self.cancel()


class AsyncStream(_Events[E, R]):
    """The events of a stub of grpc.aio. Leaving its `async with` block cancels the call."""

    @overload
    def __init__(
        self: "AsyncStream[pb.ChatEvent, pb.ChatResponse]", events: AsyncIterable[pb.ChatEvent]
    ) -> None: ...
    @overload
    def __init__(
        self: "AsyncStream[pb.CompletionEvent, pb.CompletionResponse]",
        events: AsyncIterable[pb.CompletionEvent],
    ) -> None: ...
    @overload
    def __init__(
        self: "AsyncStream[pb.MessageEvent, pb.MessageResponse]",
        events: AsyncIterable[pb.MessageEvent],
    ) -> None: ...
    @overload
    def __init__(
        self: "AsyncStream[pb.ResponseEvent, pb.Response]",
        events: AsyncIterable[pb.ResponseEvent],
    ) -> None: ...
    def __init__(self, events: AsyncIterable[Any]) -> None:
        super().__init__(events)
        self._left = aiter(events)

    async def __aiter__(self) -> AsyncGenerator[E, None]:
        """The events. After a loop that ended early, another one continues with the next event."""
        async for event in self._left:
            self._take(event)
            yield event
        self._finished()

    @property
    async def text_deltas(self) -> AsyncGenerator[str, None]:
        """The pieces of the first choice's text, without reasoning."""
        take = self._take
        async for event in self._left:
            delta = take(event)
            if delta is not None and (text := _text(delta)):
                yield text
        self._finished()

    async def __aenter__(self) -> "AsyncStream[E, R]":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, where: TracebackType | None
    ) -> None:
        self.cancel()


@overload
def collect(events: Iterable[pb.ChatEvent]) -> pb.ChatResponse: ...
@overload
def collect(events: Iterable[pb.CompletionEvent]) -> pb.CompletionResponse: ...
@overload
def collect(events: Iterable[pb.MessageEvent]) -> pb.MessageResponse: ...
@overload
def collect(events: Iterable[pb.ResponseEvent]) -> pb.Response: ...
def collect(events: Iterable[Any]) -> Any:
    """The reply that is built from the events of a stream."""
    stream: Stream[Any, Any] = Stream(events)
    for _ in stream:
        pass
    return stream.reply


@overload
async def collect_aio(events: AsyncIterable[pb.ChatEvent]) -> pb.ChatResponse: ...
@overload
async def collect_aio(events: AsyncIterable[pb.CompletionEvent]) -> pb.CompletionResponse: ...
@overload
async def collect_aio(events: AsyncIterable[pb.MessageEvent]) -> pb.MessageResponse: ...
@overload
async def collect_aio(events: AsyncIterable[pb.ResponseEvent]) -> pb.Response: ...
async def collect_aio(events: AsyncIterable[Any]) -> Any:
    """The reply that is built from the events of a stream."""
    stream: AsyncStream[Any, Any] = AsyncStream(events)
    async for _ in stream:
        pass
    return stream.reply


# --- The replies: `start`, `end`, and the pieces between them ---


def _chat(
    reply: pb.ChatResponse, start: pb.ChatResponse, end: pb.ChatResponse, pieces: Sequence[_Piece]
) -> None:
    _merge(reply, start, end, "choices")
    for choice, fields in _choices(pieces, end.choices, pb.ChatChoice):
        message = choice.message
        message.role = pb.ROLE_ASSISTANT
        for name in ("content", "reasoning_content", "refusal"):
            if text := "".join(fields[name]):
                setattr(message, name, getattr(message, name) + text)
        message.annotations.extend(chain(*fields["annotations"]))
        choice.logprobs.extend(chain(*fields["logprobs"]))
        choice.token_ids.extend(chain(*fields["token_ids"]))
        calls: defaultdict[int, list[pb.ToolCallDelta]] = defaultdict(list)
        for piece in chain(*fields["tool_calls"]):
            calls[piece.index].append(piece)
        for _, call in sorted(calls.items()):
            message.tool_calls.add(
                id=next((piece.id for piece in call if piece.id), ""),
                name=next((piece.name for piece in call if piece.name), ""),
                arguments="".join(piece.arguments for piece in call),
            )
        reply.choices.append(choice)


def _completion(
    reply: pb.CompletionResponse,
    start: pb.CompletionResponse,
    end: pb.CompletionResponse,
    pieces: Sequence[_Piece],
) -> None:
    _merge(reply, start, end, "choices")
    choices = _choices(pieces, end.choices, pb.CompletionChoice)
    for choice, fields in choices:
        choice.text += "".join(fields["text"])
        choice.logprobs.extend(chain(*fields["logprobs"]))
        choice.token_ids.extend(chain(*fields["token_ids"]))
    if choices:
        first = choices[0][0]
        reply.text = first.text
        for name in ("logprobs", "token_ids"):
            reply.ClearField(name)
            getattr(reply, name).extend(getattr(first, name))
    if end.choices or any(kind == "choice_end" for _, kind, _ in pieces):
        reply.choices.extend(choice for choice, _ in choices)


def _choices(
    pieces: Sequence[_Piece], ends: Iterable[Any], new: Callable[..., Any]
) -> list[tuple[Any, defaultdict[str, list[Any]]]]:
    """The choices in order: their ends, and the values of each field in their deltas."""
    deltas: defaultdict[int, defaultdict[str, list[Any]]]
    deltas = defaultdict(lambda: defaultdict(list))
    ended: dict[int, Any] = {}
    for _, kind, content in pieces:
        if kind == "delta":
            fields = deltas[content.index]
            for field, value in content.ListFields():
                fields[field.name].append(value)
        else:
            ended[content.index] = content
    ended |= {choice.index: choice for choice in ends}  # include the content of choice_end
    found: list[tuple[Any, defaultdict[str, list[Any]]]] = []
    for index in sorted({*ended, *deltas}):
        choice = new(index=index)
        if index in ended:
            choice.CopyFrom(ended[index])
        found.append((choice, deltas[index]))
    return found


def _message(
    reply: pb.MessageResponse,
    start: pb.MessageResponse,
    end: pb.MessageResponse,
    pieces: Sequence[_Piece],
) -> None:
    _merge(reply, start, end, "blocks")
    for content, deltas in _parts("block", _BLOCKS, pieces):
        block = reply.blocks.add()
        block.CopyFrom(content)
        texts: defaultdict[str, list[str]] = defaultdict(list)
        for name, delta in deltas:
            if name == "annotation":
                block.annotations.append(delta.annotation)
            else:
                texts[name].append(getattr(delta, name))
        for name, joined in texts.items():
            text = "".join(joined)
            if name == "text":
                block.text += text
            elif name == "arguments":
                block.tool_call.arguments += text
            elif name == "reasoning":
                block.reasoning.text += text
            else:
                block.reasoning.signature += text


def _response(
    reply: pb.Response, start: pb.Response, end: pb.Response, pieces: Sequence[_Piece]
) -> None:
    _merge(reply, start, end, "output")
    for content, deltas in _parts("item", _ITEMS, pieces):
        item = reply.output.add()
        item.CopyFrom(content)
        parts: defaultdict[int, pb.ContentPart] = defaultdict(pb.ContentPart)
        summaries: defaultdict[int, str] = defaultdict(str)
        for name, delta in deltas:
            match name:
                case "text":
                    parts[delta.content_index].text += delta.text
                case "refusal":
                    parts[delta.content_index].refusal += delta.refusal
                case "annotation":
                    parts[delta.content_index].annotations.append(delta.annotation)
                case "reasoning":
                    item.reasoning.text += delta.reasoning
                case "reasoning_summary":
                    summaries[delta.content_index] += delta.reasoning_summary
                case _:
                    item.tool_call.arguments += delta.arguments
        if parts:
            item.message.parts.extend(part for _, part in sorted(parts.items()))
        if summaries:
            item.reasoning.summary.extend(text for _, text in sorted(summaries.items()))


def _parts(
    what: str, kinds: Mapping[str, str], pieces: Sequence[_Piece]
) -> list[tuple[Any, list[tuple[str, Any]]]]:
    """The blocks or items in order, each with the deltas to append to it."""
    known: dict[int, Any] = {}
    deltas: defaultdict[int, list[tuple[int, Any]]] = defaultdict(list)
    ended: set[int] = set()
    for event, kind, content in pieces:
        index = content.index if what == "block" else content.output_index
        if kind == f"{what}_start":
            if index in known:
                raise StreamError(f"{what} {index} starts twice", event)
            known[index] = getattr(content, what)
            continue
        if kind == "item_end":  # has the whole item; resumed streams may lack its start
            known[index] = content.item
            deltas[index].clear()
        elif index not in known or index in ended:
            state = "ended" if index in ended else "not started"
            raise StreamError(f"{kind} of {what} {index}, which has {state}", event)
        if kind == "delta":
            deltas[index].append((event, content))
        else:
            ended.add(index)
    found: list[tuple[Any, list[tuple[str, Any]]]] = []
    for index, content in sorted(known.items()):
        is_now = content.WhichOneof(what)
        fitting: list[tuple[str, Any]] = []
        for event, delta in deltas[index]:
            name = delta.WhichOneof("delta")
            if name not in kinds:  # opaque, or a newer kind
                continue
            is_now = is_now or kinds[name]
            if kinds[name] not in (is_now, ""):
                raise StreamError(f"{name} of {what} {index}, which is {is_now}", event)
            fitting.append((name, delta))
        found.append((content, fitting))
    return found


# The kind of block or item for each kind of delta. Blocks of any kind can have annotations.
_BLOCKS = {
    "text": "text",
    "reasoning": "reasoning",
    "signature": "reasoning",
    "arguments": "tool_call",
    "annotation": "",
}
_ITEMS = {
    "text": "message",
    "refusal": "message",
    "annotation": "message",
    "reasoning": "reasoning",
    "reasoning_summary": "reasoning",
    "arguments": "tool_call",
}


def _merge(reply: Any, start: Any, end: Any, without: str) -> None:
    """Merge the first and the last event, without the field that the pieces fill."""
    reply.MergeFrom(start)
    reply.MergeFrom(end)
    reply.ClearField(without)


_JOIN: dict[type, Callable[[Any, Any, Any, Sequence[_Piece]], None]] = {
    pb.ChatResponse: _chat,
    pb.CompletionResponse: _completion,
    pb.MessageResponse: _message,
    pb.Response: _response,
}
