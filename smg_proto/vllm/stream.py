"""Streams of the sync client."""

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from typing_extensions import Self

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.vllm.build import Plan
from smg_proto.vllm.errors import Metadata
from smg_proto.vllm.reader import Reader
from smg_proto.vllm.results import Completion, CompletionChunk
from smg_proto.vllm.streaming import ChunkMaker, CompletionStreamCore

T = TypeVar("T")


class Stream(Generic[T]):
    """An iterator that can be closed, and that closes when its loop or `with` block is left.

    `next(stream)` takes one item without closing.
    """

    def __next__(self) -> T:
        raise NotImplementedError

    def close(self) -> None:
        """Cancel the call; the server then ends the request in the engine. Harmless at the end."""
        raise NotImplementedError

    def cancel(self) -> None:
        """The same as close()."""
        self.close()

    def __iter__(self) -> Iterator[T]:
        return _Loop(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # half-made, or the interpreter is going down
            self.close()


class _Loop(Generic[T]):
    """What a `for` statement holds: dropped when the loop is left, by whatever way."""

    __slots__ = ("_next", "_stream")

    def __init__(self, stream: Stream[T]) -> None:
        self._stream = stream
        self._next = stream.__next__

    def __iter__(self) -> "_Loop[T]":
        return self

    def __next__(self) -> T:
        return self._next()

    def __del__(self) -> None:
        self._stream.close()


class GenerateStream(CompletionStreamCore, Stream[CompletionChunk]):
    """Chunks of a completion as they are made.

    Every chunk names one choice and what is new of it; the chunk that ends a choice has its
    `finish_reason`. With several prompts their chunks take turns.
    """

    def __init__(
        self, plan: Plan, readers: list[Reader[pb.GenerateResponse]], name: Callable[[], str]
    ) -> None:
        self._state: ChunkMaker[Reader[pb.GenerateResponse]] = ChunkMaker(plan, readers)
        self._first = readers[0]
        self._name: Callable[[], str] | None = None if plan.model else name

    def __next__(self) -> CompletionChunk:
        state = self._state
        try:
            while live := state.live:
                reader, part = live[0]
                try:
                    message = reader.__next__()
                except StopIteration:
                    state.part_ended(part)
                    continue
                if len(live) > 1:
                    live.rotate(-1)
                delta = part.answer.add(message)
                if delta is not None:
                    if self._name is not None:
                        name, self._name = self._name, None
                        state.named(name())
                    return state.chunk(delta, message)
        except BaseException as error:
            state.end(error)
            raise
        if (last := state.last()) is not None:
            return last
        raise StopIteration

    def close(self) -> None:
        self._state.end()

    def get_final_completion(self) -> Completion:
        """Read to the end, and return everything that came, text and usage included.

        After close(): what had come by then. After an error: that error again.
        """
        with contextlib.suppress(StopIteration):
            while True:
                self.__next__()
        state = self._state
        if state.error is not None:
            raise state.error
        if not state.cancelled:
            state.plan.initial_metadata = self.initial_metadata()
            state.plan.trailing_metadata = self.trailing_metadata()
        return state.plan.completion()

    def initial_metadata(self) -> Metadata:
        """Of the first prompt's call; waits for it."""
        return self._first.initial_metadata()

    def trailing_metadata(self) -> Metadata:
        """Of the first prompt's call; empty until it has ended."""
        return self._first.trailing_metadata()


class KvEventStream(Stream[common_pb2.KvEventBatch]):
    """Changes of the KV cache and the load, until closed.

    `sequence_numbers` has the last number of each data-parallel rank, the place to go on from.
    """

    def __init__(self, reader: Reader[common_pb2.KvEventBatch]) -> None:
        self._reader = reader
        self.sequence_numbers: dict[int, int] = {}

    def __next__(self) -> common_pb2.KvEventBatch:
        batch = next(self._reader)
        if not batch.load.load_only:
            self.sequence_numbers[batch.dp_rank] = batch.sequence_number
        return batch

    def close(self) -> None:
        self._reader.close()

    def initial_metadata(self) -> Metadata:
        """Waits for the server to accept the subscription."""
        return self._reader.initial_metadata()
