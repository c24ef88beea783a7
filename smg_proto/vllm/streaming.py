"""What sync and async streams of completions share: from messages to chunks."""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.vllm.accumulate import Delta
from smg_proto.vllm.build import Part, Plan
from smg_proto.vllm.errors import VLLMGrpcError
from smg_proto.vllm.results import (
    Completion,
    CompletionChunk,
    CompletionUsage,
)

# What model_validate() calls. A stream makes thousands of chunks, and its own cost would show.
_make_chunk: Callable[[object], CompletionChunk]
_make_chunk = CompletionChunk.__pydantic_validator__.validate_python


class Closable(Protocol):
    def close(self) -> None: ...


ReaderT = TypeVar("ReaderT", bound=Closable)


class ChunkMaker(Generic[ReaderT]):
    """Where a stream stands. `live` are the prompts whose answers have not ended, in turn."""

    __slots__ = ("_continuous", "_finished", "_head", "_owed", "cancelled", "error", "live", "plan")

    def __init__(self, plan: Plan, readers: list[ReaderT]) -> None:
        asked = plan.asked.stream_options
        self.plan: Plan = plan
        self.live: deque[tuple[ReaderT, Part]] = deque(zip(readers, plan.parts, strict=True))
        self.error: VLLMGrpcError | None = None
        self.cancelled: bool = False
        self._finished = False
        self._head: dict[str, object] = {
            "id": plan.request_id,
            "created": plan.created,
            "model": plan.model,
        }
        self._owed = asked is not None and asked.include_usage
        self._continuous = asked is not None and asked.continuous_usage_stats

    def chunk(self, delta: Delta, message: pb.GenerateResponse) -> CompletionChunk:
        fields: dict[str, object] = {**self._head, "choices": (delta,), "raw": message}
        if self._continuous:
            fields["usage"] = self.plan.usage()
        return _make_chunk(fields)

    def named(self, model: str) -> None:
        """The model's name has become known."""
        self.plan.model = model
        self._head["model"] = model

    def part_ended(self, part: Part) -> None:
        """The call of one prompt came to its end."""
        if not self._finished:
            part.answer.check_complete(part.request.request_id)
            self.live = deque(pair for pair in self.live if pair[1] is not part)

    def last(self) -> CompletionChunk | None:
        """After the last message: the usage, once, if the caller asked for it."""
        if self._finished:
            return None
        if not self._owed:
            self.end()
            return None
        self._owed = False
        return CompletionChunk.model_validate({**self._head, "usage": self.plan.usage()})

    def end(self, error: BaseException | None = None) -> None:
        """Nothing is wanted any more, or nothing can come."""
        if self._finished:
            return
        self._finished = True
        self.cancelled = bool(self.live)
        if isinstance(error, VLLMGrpcError):
            self.error = error
        for reader, _ in self.live:
            reader.close()
        self.live.clear()
        self.plan.end(error)


class CompletionStreamCore:
    """What a stream of chunks tells without waiting."""

    _state: ChunkMaker[Any]

    @property
    def request_id(self) -> str:
        return self._state.plan.request_id

    @property
    def completion(self) -> Completion:
        """What has come so far. A choice without finish_reason has not ended."""
        return self._state.plan.completion()

    @property
    def usage(self) -> CompletionUsage:
        """What has been counted so far."""
        return self._state.plan.usage()
