"""Shared by all services of the fake gateway: how a call starts, generates and ends."""

import asyncio
import time
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Generator,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from smg_proto import smg_pb2 as pb
from smg_proto.errors import FieldViolation, SmgError, abort, invalid
from smg_proto.testing._generation import Piece, Sampling, Step, generate
from smg_proto.testing._model import Model, model
from smg_proto.testing._scripting import Answer, Fault, Injected, Record, Script, interrupted

Context = grpc.aio.ServicerContext[Any, Any]
WORKER_URL = "grpc://embedded"
PARSER = "embedded"
_GENERATING = frozenset(
    {
        *("Complete", "StreamComplete", "Chat", "StreamChat"),
        *("CreateMessage", "StreamMessage", "CreateResponse", "StreamResponse"),
    }
)

_Request = TypeVar("_Request", bound=Message)
_Event = TypeVar("_Event", bound=Message)
_Reply = TypeVar("_Reply", bound=Message)


@dataclass
class Call:
    """One RPC: its ids, its scripted answer and fault, and its times."""

    request_id: str
    tenant: str
    answer: Answer | None
    fault: Fault | None
    began: float = field(default_factory=time.monotonic)
    first_token: float | None = None

    def report(self, *, parser: str = "") -> pb.PipelineReport:
        report = pb.PipelineReport(worker_url=WORKER_URL, parser=parser)
        report.total_duration.FromTimedelta(timedelta(seconds=time.monotonic() - self.began))
        if self.first_token is not None:
            report.time_to_first_token.FromTimedelta(
                timedelta(seconds=self.first_token - self.began)
            )
        return report


@dataclass
class StoredConversation:
    """A conversation with its items, oldest first."""

    conversation: pb.Conversation
    items: list[pb.ResponseItem] = field(default_factory=list[pb.ResponseItem])


class Workers:
    """The failed workers, and events for changes. Safe to use from any thread."""

    def __init__(self) -> None:
        self.failed: dict[str, Failed] = {}  # by the worker's URL
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @contextmanager
    def changes(self) -> Generator[asyncio.Event, None, None]:
        """An event that is set when a worker changes."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        self._waiting.add(waiter)
        try:
            yield waiter[1]
        finally:
            self._waiting.discard(waiter)

    def changed(self) -> None:
        for loop, event in tuple(self._waiting):
            loop.call_soon_threadsafe(event.set)


@dataclass
class Failed:
    """Why a worker failed, and when."""

    message: str
    time: Timestamp


def set_now(timestamp: Timestamp) -> None:
    """Timestamp.GetCurrentTime(), without its warning on Python 3.12 with protobuf 4 and 5."""
    timestamp.FromNanoseconds(time.time_ns())


Events = Callable[[_Request, Call], AsyncGenerator[_Event, None]]


def combine(events: Sequence[_Event], fold: Callable[[Sequence[_Event]], _Reply]) -> _Reply:
    """The unary reply for the events of a stream. It has no time to the first token."""
    reply = fold(events)
    pipeline: pb.PipelineReport = getattr(reply, "pipeline")  # noqa: B009
    pipeline.ClearField("time_to_first_token")
    return reply


class Core:
    """The model, the script, the record, and the common parts of all RPCs."""

    def __init__(self, token_delay: float, media: Collection[str]) -> None:
        self.model: Model = model()
        self.media = frozenset(media)
        self.workers = Workers()
        self.token_delay = token_delay
        self.script: Script = Script(_GENERATING)
        self.record: Record = Record()
        # By tenant and id.
        self.conversations: dict[tuple[str, str], StoredConversation] = {}
        self._done: dict[tuple[str, str, str], Message] = {}

    async def begin(self, rpc: str, request: Message, context: Context) -> Call:
        """Record a request and send the headers of the reply."""
        metadata = self.record.note(rpc, request, context)
        request_id = str(metadata.get("x-request-id") or f"req-{uuid.uuid4().hex}")
        await context.send_initial_metadata((("x-request-id", request_id),))
        return Call(
            request_id,
            str(metadata.get("x-smg-tenant-id", "")),
            self.script.answer(rpc, request),
            self.script.fault(rpc, request),
        )

    def once(self, rpc: str, call: Call, key: str, work: Callable[[], _Reply]) -> _Reply:
        """The reply of `work`. With a key: the reply to the tenant's first request with it."""
        if not key:
            return work()
        first = (rpc, call.tenant, key)
        if first not in self._done:
            self._done[first] = work()
        return self._done[first]  # type: ignore[return-value]

    async def plain(
        self,
        rpc: str,
        request: _Request,
        context: Context,
        answer: Callable[[_Request], _Reply],
    ) -> _Reply:
        """An RPC that generates nothing."""
        return await self.plain_with_call(rpc, request, context, lambda call: answer(request))

    async def plain_with_call(
        self, rpc: str, request: Message, context: Context, answer: Callable[[Call], _Reply]
    ) -> _Reply:
        """An RPC that generates nothing and depends on the call, for example on the tenant."""
        call = await self.begin(rpc, request, context)

        async def once() -> AsyncGenerator[_Reply, None]:
            yield answer(call)

        async with AbortOnError(context):
            (reply,) = [reply async for reply in interrupted(once(), call.fault)]
            return reply

    async def unary(
        self,
        rpc: str,
        request: _Request,
        context: Context,
        events: Events[_Request, _Event],
        fold: Callable[[Sequence[_Event]], _Reply],
    ) -> _Reply:
        """A unary RPC that generates: combines the events that the stream would send."""
        call = await self.begin(rpc, request, context)
        async with AbortOnError(context):
            with self.counted():
                sent = interrupted(events(request, call), call.fault)
                return combine([event async for event in sent], fold)

    async def stream(
        self,
        rpc: str,
        request: _Request,
        context: Context,
        events: Events[_Request, _Event],
    ) -> AsyncIterator[_Event]:
        """A streaming RPC that generates."""
        call = await self.begin(rpc, request, context)
        async with AbortOnError(context):
            with self.counted():
                async for event in interrupted(events(request, call), call.fault):
                    yield event

    @contextmanager
    def counted(self) -> Generator[None, None, None]:
        """Count a generation as started, and when it ends, by its outcome."""
        counters = self.record.counters
        counters.started += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            counters.cancelled += 1
            raise
        except BaseException:
            counters.failed += 1
            raise
        else:
            counters.finished += 1

    def check_length(self, prompt: Sequence[int], field: str) -> None:
        """Reject a prompt that fills the context. `field` is the field that it comes from."""
        maximum = self.model.context_length
        if len(prompt) >= maximum:
            found = FieldViolation(field, f"has {len(prompt)} tokens; the context is {maximum}")
            raise invalid(found, reason="CONTEXT_LENGTH_EXCEEDED")

    async def generate(
        self, call: Call, prompt: Sequence[int], sampling: Sampling, n: int = 1
    ) -> AsyncGenerator[tuple[int, Piece], None]:
        """The pieces of all choices in turn, each with the index of its choice."""
        sources = {index: generate(self.model, prompt, sampling, index) for index in range(n)}
        while sources:
            for index, source in list(sources.items()):
                await asyncio.sleep(self.token_delay)
                piece = next(source)
                if call.first_token is None:
                    call.first_token = time.monotonic()
                if piece.finish_reason:
                    del sources[index]
                yield index, piece

    def logprobs(self, steps: Sequence[Step], *, with_bytes: bool) -> list[pb.TokenLogprob]:
        return [self._logprob(step, with_bytes=with_bytes) for step in steps]

    def _logprob(self, step: Step, *, with_bytes: bool) -> pb.TokenLogprob:
        data = self.model.tokenizer.token_bytes(step.token, skip_special=False)
        return pb.TokenLogprob(
            token=data.decode(errors="replace"),
            logprob=step.logprob,
            bytes=data if with_bytes else b"",
            top=[self._logprob(Step(*top), with_bytes=with_bytes) for top in step.top],
        )


class AbortOnError:
    """Ends the RPC with the status and the details of an error that is raised inside."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Injected):
            error = injected(error.fault)
        if isinstance(error, SmgError):
            await abort(self._context, error)


def injected(fault: Fault) -> SmgError:
    if fault.status in (None, grpc.StatusCode.OK):
        message = "the stream ended too early"
        return SmgError(grpc.StatusCode.UNAVAILABLE, message, reason="STREAM_TRUNCATED")
    assert fault.status is not None
    return SmgError(fault.status, fault.details, reason=fault.reason)


def unsupported(message: str) -> SmgError:
    return SmgError(grpc.StatusCode.UNIMPLEMENTED, message, reason="UNSUPPORTED_BY_BACKEND")


def not_found(reason: str, message: str) -> SmgError:
    return SmgError(grpc.StatusCode.NOT_FOUND, message, reason=reason)


def matched_stop(matched: str | int | None) -> pb.MatchedStop | None:
    match matched:
        case None:
            return None
        case str():
            return pb.MatchedStop(text=matched)
        case int():
            return pb.MatchedStop(token_id=matched)
