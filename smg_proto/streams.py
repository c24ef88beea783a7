"""The events of a stream of smg.v1, and the reply that they add up to.

    stream = Stream(stub.StreamChat(request))
    for text in stream.text_deltas:
        print(text, end="", flush=True)
    message = stream.reply.choices[0].message

`stream.reply` is what the unary RPC would have returned. Iterate over the stream itself for the
events; `collect(events)` is for those who want the reply alone. AsyncStream and collect_aio do the
same with the stubs of grpc.aio.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar, overload

from smg_proto import smg_pb2 as pb

__all__ = ["AsyncStream", "Stream", "StreamError", "collect", "collect_aio"]

E = TypeVar("E")  # an event
R = TypeVar("R")  # the reply that its stream adds up to


class StreamError(ValueError):
    """Events that are no stream of smg.v1."""

    def __init__(self, what: str, event: int) -> None:
        super().__init__(what, event)
        self.what = what
        self.event = event
        """Which event, counted from 1; of a stream that stops too early the last."""

    def __str__(self) -> str:
        return f"event {self.event}: {self.what}"


class _Piece(NamedTuple):
    """What an event between start and end brings."""

    event: int
    kind: str
    content: Any


# --- Reading ---


class _Events(Generic[E, R]):
    """Takes each event of a stream, and holds what is needed to build the reply."""

    def __init__(self) -> None:
        self._count = 0
        self._start: Any = None
        self._end: Any = None
        self._between: list[_Piece] = []

    @property
    def reply(self) -> R:
        """What the unary RPC would have returned. Only once the stream has been read to its end."""
        if self._end is None:
            raise self._error("the reply is not whole yet; read the stream to its end first")
        reply: R = type(self._end)()
        _JOIN[type(self._end)](reply, self._start, self._end, self._between)
        return reply

    def _take(self, event: Any) -> str:
        """The text that an event brings for whoever reads along."""
        self._count += 1
        kind = event.WhichOneof("event")
        if kind is None:  # of a newer kind
            return ""
        if self._end is not None:
            raise self._error(f"{kind} after end")
        if kind == "start":
            if self._start is not None:
                raise self._error("a second start")
            self._start = event.start
            return ""
        if self._start is None:
            raise self._error(f"{kind} before start")
        if kind == "end":
            self._end = event.end
            return ""
        self._between.append(_Piece(self._count, kind, getattr(event, kind)))
        return _text(event.delta) if kind == "delta" else ""

    def _finished(self) -> None:
        if self._end is None:
            raise self._error("the stream stopped before its end")

    def _error(self, what: str) -> StreamError:
        return StreamError(what, self._count)


def _text(delta: Any) -> str:
    """The next piece of the text: of the first choice, where there are several."""
    if isinstance(delta, pb.ChatDelta):
        return "" if delta.index else delta.content
    if isinstance(delta, pb.CompletionDelta):
        return "" if delta.index else delta.text
    return str(delta.text)


class Stream(_Events[E, R]):
    """The events of a stub of grpc, or of a list. Leaving its `with` block cancels the call."""

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
        super().__init__()
        self._events = events
        self._pairs: Generator[tuple[E, str], None, None] = self._read()

    def _read(self) -> Generator[tuple[E, str], None, None]:
        take = self._take
        for event in self._events:
            yield event, take(event)
        self._finished()

    def __iter__(self) -> Generator[E, None, None]:
        """The events. A loop that was left goes on with the next one."""
        return (event for event, _ in self._pairs)

    @property
    def text_deltas(self) -> Generator[str, None, None]:
        """The text of the reply as it grows: of the first choice, and without reasoning."""
        return (text for _, text in self._pairs if text)

    def cancel(self) -> None:
        """End the call. The reply is only there if the stream has ended before."""
        _cancel(self._events)

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
        super().__init__()
        self._events = events
        self._pairs: AsyncGenerator[tuple[E, str], None] = self._read()

    async def _read(self) -> AsyncGenerator[tuple[E, str], None]:
        take = self._take
        async for event in self._events:
            yield event, take(event)
        self._finished()

    def __aiter__(self) -> AsyncGenerator[E, None]:
        """The events. A loop that was left goes on with the next one."""
        return (event async for event, _ in self._pairs)

    @property
    def text_deltas(self) -> AsyncGenerator[str, None]:
        """The text of the reply as it grows: of the first choice, and without reasoning."""
        return (text async for _, text in self._pairs if text)

    def cancel(self) -> None:
        """End the call. The reply is only there if the stream has ended before."""
        _cancel(self._events)

    async def __aenter__(self) -> "AsyncStream[E, R]":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, where: TracebackType | None
    ) -> None:
        self.cancel()


def _cancel(events: object) -> None:
    """End a call; of other iterators nothing is known."""
    cancel: Callable[[], object] | None = getattr(events, "cancel", None)
    if cancel:
        cancel()


@overload
def collect(events: Iterable[pb.ChatEvent]) -> pb.ChatResponse: ...
@overload
def collect(events: Iterable[pb.CompletionEvent]) -> pb.CompletionResponse: ...
@overload
def collect(events: Iterable[pb.MessageEvent]) -> pb.MessageResponse: ...
@overload
def collect(events: Iterable[pb.ResponseEvent]) -> pb.Response: ...
def collect(events: Iterable[Any]) -> Any:
    """The reply that the events of a stream add up to."""
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
    """The reply that the events of a stream add up to."""
    stream: AsyncStream[Any, Any] = AsyncStream(events)
    async for _ in stream:
        pass
    return stream.reply


# --- The replies: what `start` and `end` say, and between them what the pieces join to ---


def _chat(
    reply: pb.ChatResponse, start: pb.ChatResponse, end: pb.ChatResponse, pieces: Sequence[_Piece]
) -> None:
    _merge(reply, start, end, "choices")
    for choice, deltas in _choices(pieces, end.choices, pb.ChatChoice):
        message = choice.message
        message.role = pb.ROLE_ASSISTANT
        for name in ("content", "reasoning_content", "refusal"):
            if text := "".join(getattr(delta, name) for delta in deltas):
                setattr(message, name, text + getattr(message, name))
        calls: defaultdict[int, list[pb.ToolCallDelta]] = defaultdict(list)
        for delta in deltas:
            message.annotations.extend(delta.annotations)
            choice.logprobs.extend(delta.logprobs)
            choice.token_ids.extend(delta.token_ids)
            for piece in delta.tool_calls:
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
    for choice, deltas in choices:
        choice.text = "".join(delta.text for delta in deltas) + choice.text
        for delta in deltas:
            choice.logprobs.extend(delta.logprobs)
            choice.token_ids.extend(delta.token_ids)
    if choices:
        first = choices[0][0]
        reply.text = first.text
        for name in ("logprobs", "token_ids"):
            reply.ClearField(name)
            getattr(reply, name).extend(getattr(first, name))
    if end.choices or any(piece.kind == "choice_end" for piece in pieces):
        reply.choices.extend(choice for choice, _ in choices)


def _choices(
    pieces: Sequence[_Piece], ends: Iterable[Any], new: Callable[..., Any]
) -> list[tuple[Any, list[Any]]]:
    """Of each choice, in order, what its end says, and its deltas."""
    deltas: defaultdict[int, list[Any]] = defaultdict(list)
    said: dict[int, Any] = {}
    for piece in pieces:
        if piece.kind == "delta":
            deltas[piece.content.index].append(piece.content)
        else:
            said[piece.content.index] = piece.content
    said |= {choice.index: choice for choice in ends}  # what choice_end said, and perhaps more
    found: list[tuple[Any, list[Any]]] = []
    for index in sorted({*said, *deltas}):
        choice = new(index=index)
        if index in said:
            choice.CopyFrom(said[index])
        found.append((choice, deltas[index]))
    return found


# Of a delta's member, the member of its block, and the field in that.
_MEMBERS = {
    "reasoning": ("reasoning", "text"),
    "signature": ("reasoning", "signature"),
    "arguments": ("tool_call", "arguments"),
}


def _message(
    reply: pb.MessageResponse,
    start: pb.MessageResponse,
    end: pb.MessageResponse,
    pieces: Sequence[_Piece],
) -> None:
    _merge(reply, start, end, "blocks")
    blocks: dict[int, pb.MessageBlock] = {}
    ended: set[int] = set()
    texts: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for event, kind, content in pieces:
        index = content.index
        if kind == "block_start":
            if index in blocks:
                raise StreamError(f"block {index} starts twice", event)
            blocks[index] = pb.MessageBlock()
            blocks[index].CopyFrom(content.block)
            continue
        if index not in blocks or index in ended:
            what = "ended" if index in ended else "not started"
            raise StreamError(f"{kind} of block {index}, which has {what}", event)
        if kind == "block_end":
            ended.add(index)
            continue
        name = content.WhichOneof("delta")
        if name == "annotation":
            blocks[index].annotations.append(content.annotation)
        elif name:  # else of a newer kind
            member = _MEMBERS.get(name, (name,))[0]
            if (of := blocks[index].WhichOneof("block")) not in (member, None):
                raise StreamError(f"{name} of block {index}, which is {of}", event)
            texts[index, name].append(getattr(content, name))
    for (index, name), joined in texts.items():
        member, *field = _MEMBERS.get(name, (name,))
        target = getattr(blocks[index], member) if field else blocks[index]
        last = field[0] if field else member
        setattr(target, last, getattr(target, last) + "".join(joined))
    reply.blocks.extend(block for _, block in sorted(blocks.items()))


def _response(
    reply: pb.Response, start: pb.Response, end: pb.Response, pieces: Sequence[_Piece]
) -> None:
    _merge(reply, start, end, "output")
    items: dict[int, pb.ResponseItem] = {}
    growing: dict[int, list[pb.ResponseDelta]] = {}
    for event, kind, content in pieces:
        index = content.output_index
        if kind == "item_end":  # all of the item; resumed streams may lack its start
            items[index] = content.item
            growing.pop(index, None)
        elif kind == "item_start":
            if index in items:
                raise StreamError(f"item {index} starts twice", event)
            items[index], growing[index] = content.item, []
        elif index in growing:
            growing[index].append(content)
        else:
            what = "ended" if index in items else "not started"
            raise StreamError(f"{kind} of item {index}, which has {what}", event)
    for index, item in sorted(items.items()):
        reply.output.append(item)
        _grow(reply.output[-1], growing.get(index, ()))


def _grow(item: pb.ResponseItem, deltas: Iterable[pb.ResponseDelta]) -> None:
    """An item that the response ended in the middle of."""
    parts: defaultdict[int, pb.ContentPart] = defaultdict(pb.ContentPart)
    summaries: defaultdict[int, str] = defaultdict(str)
    for delta in deltas:
        match delta.WhichOneof("delta"):
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
            case "arguments":
                item.tool_call.arguments += delta.arguments
            case _:  # of a newer kind
                pass
    if parts:
        item.message.parts.extend(part for _, part in sorted(parts.items()))
    if summaries:
        item.reasoning.summary.extend(text for _, text in sorted(summaries.items()))


def _merge(reply: Any, start: Any, end: Any, without: str) -> None:
    """What the first and the last event say, without the field that the pieces fill."""
    reply.MergeFrom(start)
    reply.MergeFrom(end)
    reply.ClearField(without)


_JOIN: dict[type, Callable[[Any, Any, Any, Sequence[_Piece]], None]] = {
    pb.ChatResponse: _chat,
    pb.CompletionResponse: _completion,
    pb.MessageResponse: _message,
    pb.Response: _response,
}
