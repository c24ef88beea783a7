"""Streams of chunks and events."""

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Generic, TypeVar

from typing_extensions import Self

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto._channel import Metadata
from smg_proto.vllm._async.call import AsyncCall, async_gather_calls
from smg_proto.vllm._async.connection import AsyncConnection
from smg_proto.vllm._completion import ChunkT, Delta, Job, Reply, ResultT
from smg_proto.vllm._errors import VLLMGrpcClosedError, VLLMGrpcFailedPreconditionError
from smg_proto.vllm._tokenizer import TokenDecoder
from smg_proto.vllm._types import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    CompletionUsage,
)
from smg_proto.vllm._wait import AsyncMerge, AsyncOwner, Ended

T = TypeVar("T")
_CLOSED = "the stream was closed"
_LOOP_LEFT = (
    "the stream was closed when its loop ended; to continue reading later, "
    "use `await anext(stream)` instead"
)


class AsyncStream(ABC, Generic[T]):
    """An async iterator that closes when its loop or `with` block ends.

    `await anext(stream)` returns one item without closing. Reading a closed stream raises
    VLLMGrpcClosedError, so that a part is never mistaken for the whole.
    """

    @abstractmethod
    async def __anext__(self) -> T: ...

    @abstractmethod
    def cancel(self, why: str = _CLOSED) -> None:
        """Cancel the call; the server then ends the request in the engine. Has no effect after the
        end."""

    @abstractmethod
    def _drop(self, why: str) -> None:
        """cancel() for destructors, which may run in any thread."""

    async def close(self) -> None:
        """The same as cancel()."""
        self.cancel()

    def __aiter__(self) -> AsyncIterator[T]:
        return AsyncLoop(self)

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
        with contextlib.suppress(Exception):  # not initialized, or the interpreter is exiting
            if not sys.is_finalizing():  # then a thread that never runs again may hold a lock
                self._drop("the stream was dropped")


class AsyncLoop(Generic[T]):
    """The iterator of a loop over a stream. However the loop ends, by `break` or an exception too,
    Python drops it and gives no other sign. Therefore its destructor ends the request."""

    __slots__ = ("_next", "_stream")

    def __init__(self, stream: AsyncStream[T]) -> None:
        self._stream = stream
        self._next = stream.__anext__

    def __aiter__(self) -> "AsyncLoop[T]":
        return self

    def __anext__(self) -> Awaitable[T]:
        return self._next()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            if not sys.is_finalizing():
                self._stream._drop(_LOOP_LEFT)  # pyright: ignore[reportPrivateUsage]


class AsyncRun(Generic[ResultT, ChunkT]):
    """The calls of one job, merged into one sequence in the order of their messages."""

    def __init__(
        self,
        connection: AsyncConnection,
        job: Job[ResultT, ChunkT],
        calls: list[AsyncCall[Reply]],
        words: Callable[[float | None], Awaitable[TokenDecoder | None]] | None,
        label: Callable[[float | None], Awaitable[str]],
        merged: bool,
    ) -> None:
        self.job = job
        self.owner: AsyncOwner = connection.owner
        self.first: AsyncCall[Reply] = calls[0]
        self._connection = connection
        self._calls = calls
        self._words = words  # gets the decoder, until it is needed
        self._label = label  # gets the model's name
        self._merged = merged  # whether to merge the calls
        self._merge: AsyncMerge[int, Reply] | None = None
        self._settled = False
        self._whole = False  # all messages have arrived, and they are complete
        self.ended: bool = False
        self.error: Exception | None = None
        self.closed: str | None = None  # the reason, if the client ended it

    async def begin(self) -> None:
        try:
            await self.first.begin()
        except BaseException as error:
            self.job.end(error)
            raise
        if self._merged and len(self._calls) > 1:
            self._merge = AsyncMerge(range(len(self._calls)), self._read)

    async def _read(self, number: int) -> AsyncIterator[Reply]:
        call = self._calls[number]
        if number:
            await call.begin()
        async for message in call:
            yield message

    async def next(self) -> tuple[Delta, Reply] | None:
        """The next message and what it adds. None after the last message."""
        job = self.job
        try:
            while True:
                number: int = 0
                message: Reply | None
                if self._merge is not None:
                    found = await self._merge.next()
                    if found is None:
                        break
                    number, message = found
                else:
                    try:
                        message = await self.first.__anext__()
                    except StopAsyncIteration:
                        message = None
                answer = job.parts[number].answer
                if message is None:
                    answer.check_complete()
                    if self._merge is None:
                        break
                    continue
                if not self._settled:
                    await self._settle(self._calls[number].left(), message)
                delta = answer.add(message)
                if delta is not None:
                    return delta, message
        except Ended:
            raise self.closed_error() from None
        except BaseException as error:
            self._fail(error)
            raise
        self._whole = True
        return None

    async def _settle(self, seconds: float | None, message: Reply) -> None:
        """Before the first message is read, set the decoder, and the model's name if known."""
        job = self.job
        if self._words is not None:
            words, self._words = self._words, None
            if isinstance(message, pb.GenerateResponse):
                job.decode_with(await words(seconds))
            else:
                job.decode_with(None, served=True)
        if not job.model and self._connection.model is not None:
            job.model = self._connection.model.id
        self._settled = bool(job.model)

    def _fail(self, error: BaseException) -> None:
        if not self.ended:
            if isinstance(error, Exception):
                self.error = error
            self.end("reading was interrupted", error)

    def end(self, why: str = _CLOSED, error: BaseException | None = None) -> None:
        """End the calls, unless they have ended."""
        if self.ended:
            return
        self.ended = True
        if not self._whole:
            self.closed = why
        for call in self._calls:
            call.close(why)
        if self._merge is not None:
            self._merge.close()
        self.job.end(error)

    def closed_error(self) -> VLLMGrpcClosedError:
        return VLLMGrpcClosedError(self.closed or _CLOSED, request_id=self.job.request_id)

    async def collect(self) -> ResultT:
        """Read all messages and return the result."""
        job = self.job
        try:
            if len(self._calls) == 1:
                while await self.next() is not None:
                    pass
            else:
                await self._gather()
            if not job.model:
                job.model = await self._label(self.first.left())
            job.initial_metadata = await self.first.initial_metadata()
            job.trailing_metadata = await self.first.trailing_metadata()
        except BaseException as error:
            self._fail(error)
            raise
        self.end()
        return job.result()

    async def _gather(self) -> None:
        """Read several calls concurrently."""
        calls, parts = self._calls, self.job.parts
        found: list[list[Reply]] = [[] for _ in calls]

        async def begin(number: int) -> None:
            if number:
                await calls[number].begin()

        async def read(number: int) -> None:
            async for message in calls[number]:
                found[number].append(message)

        await async_gather_calls(calls, begin, read)
        for call, part, messages in zip(calls, parts, found, strict=True):
            for message in messages:
                if not self._settled:
                    await self._settle(call.left(), message)
                part.answer.add(message)
            part.answer.check_complete()


class AsyncCompletionStream(AsyncStream[ChunkT], Generic[ResultT, ChunkT]):
    """Chunks in the order in which they are generated.

    Each chunk has the new part of one choice. The chunk that ends a choice has its `finish_reason`.
    """

    def __init__(self, run: AsyncRun[ResultT, ChunkT]) -> None:
        self._run = run

    async def __anext__(self) -> ChunkT:
        run = self._run
        if not run.ended:
            found = await run.next()
            if found is not None:
                return run.job.chunk(*found)
            last = run.job.last_chunk()
            run.end()
            if last is not None:
                return last
        elif run.error is not None:
            raise run.error
        elif run.closed is not None:
            raise run.closed_error()
        raise StopAsyncIteration

    def cancel(self, why: str = _CLOSED) -> None:
        self._run.end(why)

    def _drop(self, why: str) -> None:
        run = self._run
        if not run.ended:
            run.owner.run(lambda: run.end(why))

    @property
    def request_id(self) -> str:
        return self._run.job.request_id

    @property
    def completion(self) -> ResultT:
        """The result so far. A choice without `finish_reason` is unfinished."""
        return self._run.job.result()

    @property
    def usage(self) -> CompletionUsage:
        """The usage so far."""
        return self._run.job.usage()

    @property
    def text_stream(self) -> AsyncIterator[str]:
        """The pieces of the first choice's text."""
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[str]:
        async for chunk in self:
            words = self._run.job.shape.words(chunk)
            if words is None:
                raise VLLMGrpcFailedPreconditionError(
                    "there is no text: the server does not have a tokenizer, or decoder is None"
                )
            if words:
                yield words

    async def get_final_completion(self) -> ResultT:
        """Read to the end, and return the whole result.

        After close(), returns the result so far. After an error, raises it again.
        """
        run = self._run
        with contextlib.suppress(StopAsyncIteration, VLLMGrpcClosedError):
            while not run.ended:
                await self.__anext__()
        if run.error is not None:
            raise run.error
        if run.closed is None:
            run.job.initial_metadata = await self.initial_metadata()
            run.job.trailing_metadata = await self.trailing_metadata()
        return run.job.result()

    async def initial_metadata(self) -> Metadata:
        """Waits for the metadata of the first prompt's call."""
        return await self._run.first.initial_metadata()

    async def trailing_metadata(self) -> Metadata:
        """The metadata of the first prompt's call; empty until it has ended."""
        return await self._run.first.trailing_metadata()


class AsyncGenerateStream(AsyncCompletionStream[Completion, CompletionChunk]):
    __doc__ = AsyncCompletionStream.__doc__


class AsyncChatStream(AsyncCompletionStream[ChatCompletion, ChatCompletionChunk]):
    __doc__ = AsyncCompletionStream.__doc__


class AsyncKvEventStream(AsyncStream[common_pb2.KvEventBatch]):
    """Changes of the KV cache and the load, until closed.

    `sequence_numbers` has the last number of each data-parallel rank, from which to continue.
    """

    def __init__(
        self, connection: AsyncConnection, call: AsyncCall[common_pb2.KvEventBatch]
    ) -> None:
        self._owner = connection.owner
        self._call = call
        self.sequence_numbers: dict[int, int] = {}

    async def __anext__(self) -> common_pb2.KvEventBatch:
        batch = await self._call.__anext__()
        if not batch.load.load_only:
            self.sequence_numbers[batch.dp_rank] = batch.sequence_number
        return batch

    def cancel(self, why: str = _CLOSED) -> None:
        self._call.close(why)

    def _drop(self, why: str) -> None:
        call = self._call
        if not call.done:
            self._owner.run(lambda: call.close(why))

    async def initial_metadata(self) -> Metadata:
        """Waits until the server accepts the subscription."""
        return await self._call.initial_metadata()
