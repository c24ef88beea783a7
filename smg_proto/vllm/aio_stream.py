"""Streams of the async client."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Generic, TypeVar

from typing_extensions import Self

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.vllm.aio_reader import AsyncReader
from smg_proto.vllm.build import Plan
from smg_proto.vllm.errors import Metadata
from smg_proto.vllm.results import Completion, CompletionChunk
from smg_proto.vllm.streaming import ChunkMaker, CompletionStreamCore

T = TypeVar("T")


class AsyncStream(Generic[T]):
    """An async iterator that can be closed, and that closes when its loop or block is left.

    `await anext(stream)` takes one item without closing.
    """

    async def __anext__(self) -> T:
        raise NotImplementedError

    def cancel(self) -> None:
        """Cancel the call; the server then ends the request in the engine. Harmless at the end."""
        raise NotImplementedError

    async def close(self) -> None:
        """The same as cancel()."""
        self.cancel()

    def __aiter__(self) -> AsyncIterator[T]:
        return _Loop(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # half-made, or the loop is gone
            self.cancel()


class _Loop(Generic[T]):
    """What an `async for` statement holds: dropped when the loop is left, by whatever way."""

    __slots__ = ("_next", "_stream")

    def __init__(self, stream: AsyncStream[T]) -> None:
        self._stream = stream
        self._next = stream.__anext__

    def __aiter__(self) -> "_Loop[T]":
        return self

    def __anext__(self) -> Awaitable[T]:
        return self._next()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._stream.cancel()


class AsyncGenerateStream(CompletionStreamCore, AsyncStream[CompletionChunk]):
    """Chunks of a completion as they are made.

    Every chunk names one choice and what is new of it; the chunk that ends a choice has its
    `finish_reason`. With several prompts their chunks take turns.
    """

    def __init__(
        self,
        plan: Plan,
        readers: list[AsyncReader[pb.GenerateResponse]],
        name: Callable[[], Awaitable[str]],
    ) -> None:
        self._state: ChunkMaker[AsyncReader[pb.GenerateResponse]] = ChunkMaker(plan, readers)
        self._first = readers[0]
        self._name: Callable[[], Awaitable[str]] | None = None if plan.model else name

    async def __anext__(self) -> CompletionChunk:
        state = self._state
        try:
            while live := state.live:
                reader, part = live[0]
                try:
                    message = await reader.__anext__()
                except StopAsyncIteration:
                    state.part_ended(part)
                    continue
                if len(live) > 1:
                    live.rotate(-1)
                delta = part.answer.add(message)
                if delta is not None:
                    if self._name is not None:
                        name, self._name = self._name, None
                        state.named(await name())
                    return state.chunk(delta, message)
        except BaseException as error:
            state.end(error)
            raise
        if (last := state.last()) is not None:
            return last
        raise StopAsyncIteration

    def cancel(self) -> None:
        self._state.end()

    async def get_final_completion(self) -> Completion:
        """Read to the end, and return everything that came, text and usage included.

        After close(): what had come by then. After an error: that error again.
        """
        with contextlib.suppress(StopAsyncIteration):
            while True:
                await self.__anext__()
        state = self._state
        if state.error is not None:
            raise state.error
        if not state.cancelled:
            state.plan.initial_metadata = await self.initial_metadata()
            state.plan.trailing_metadata = await self.trailing_metadata()
        return state.plan.completion()

    async def initial_metadata(self) -> Metadata:
        """Of the first prompt's call; waits for it."""
        return await self._first.initial_metadata()

    async def trailing_metadata(self) -> Metadata:
        """Of the first prompt's call; empty until it has ended."""
        return await self._first.trailing_metadata()


class AsyncKvEventStream(AsyncStream[common_pb2.KvEventBatch]):
    """Changes of the KV cache and the load, until closed.

    `sequence_numbers` has the last number of each data-parallel rank, the place to go on from.
    """

    def __init__(self, reader: AsyncReader[common_pb2.KvEventBatch]) -> None:
        self._reader = reader
        self.sequence_numbers: dict[int, int] = {}

    async def __anext__(self) -> common_pb2.KvEventBatch:
        batch = await self._reader.__anext__()
        if not batch.load.load_only:
            self.sequence_numbers[batch.dp_rank] = batch.sequence_number
        return batch

    def cancel(self) -> None:
        self._reader.close()

    async def initial_metadata(self) -> Metadata:
        """Waits for the server to accept the subscription."""
        return await self._reader.initial_metadata()
