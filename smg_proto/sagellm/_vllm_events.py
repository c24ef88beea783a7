"""Converts the chunks of a smg_proto.vllm stream to stream events with metrics.

Metrics are measured on the client, from the call of `stream_events` on. Make that call before or
right after sending the request, or pass the time as `started`. A chunk's time is when it is read
from the stream, so a reader that is slower than the engine measures its own speed.
"""

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

from smg_proto.sagellm._bridge import BridgeError
from smg_proto.sagellm._events import (
    StreamEvent,
    StreamEventDelta,
    StreamEventEnd,
    StreamEventStart,
)
from smg_proto.sagellm._models import Error, ErrorCode, FinishReason, Metrics, Request, Response

Clock = Callable[[], float]

# gRPC status names with a code in the protocol, and whether a retry may help.
_CODES: dict[str, tuple[ErrorCode, bool | None]] = {
    "INVALID_ARGUMENT": (ErrorCode.INVALID_ARGUMENT, False),
    "RESOURCE_EXHAUSTED": (ErrorCode.RESOURCE_EXHAUSTED, True),
    "UNAVAILABLE": (ErrorCode.UNAVAILABLE, True),
    "DEADLINE_EXCEEDED": (ErrorCode.DEADLINE_EXCEEDED, None),
    "UNIMPLEMENTED": (ErrorCode.NOT_IMPLEMENTED, False),
}
# vLLM's other reasons, such as "abort", become "error".
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "repetition": "stop"}


class EngineChoice(Protocol):
    """The attributes of a chunk's choice that are used."""

    @property
    def index(self) -> int: ...
    @property
    def delta_token_ids(self) -> Sequence[int]: ...
    @property
    def delta_text(self) -> str | None: ...
    @property
    def finish_reason(self) -> str | None: ...


class EngineUsage(Protocol):
    """The attributes of a chunk's usage that are used."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...


class EngineChunk(Protocol):
    """The attributes of a chunk that are used. smg_proto.vllm.CompletionChunk has them."""

    @property
    def choices(self) -> Sequence[EngineChoice]: ...
    @property
    def usage(self) -> EngineUsage | None: ...


def stream_events(
    chunks: Iterable[EngineChunk],
    request: Request,
    *,
    engine_id: str,
    started: float | None = None,
    clock: Clock = time.perf_counter,
) -> Iterator[StreamEvent]:
    """Yield one start, a delta for each chunk with output, and one end with metrics.

    A gRPC error that has a code in the protocol becomes an end with `error`. Other exceptions pass
    through. A stream that ends without a reason becomes UNAVAILABLE. Without a decoder, tokens have
    empty text.
    """
    meter = _Meter(request, engine_id, clock, started)

    def events() -> Iterator[StreamEvent]:
        yield meter.start()
        try:
            for chunk in chunks:
                if (delta := meter.add(chunk)) is not None:
                    yield delta
        except Exception as error:
            yield meter.fail(error)
        else:
            yield meter.end()

    return events()


def astream_events(
    chunks: AsyncIterable[EngineChunk],
    request: Request,
    *,
    engine_id: str,
    started: float | None = None,
    clock: Clock = time.perf_counter,
) -> AsyncIterator[StreamEvent]:
    """stream_events for the async client."""
    meter = _Meter(request, engine_id, clock, started)

    async def events() -> AsyncIterator[StreamEvent]:
        yield meter.start()
        try:
            async for chunk in chunks:
                if (delta := meter.add(chunk)) is not None:
                    yield delta
        except Exception as error:
            yield meter.fail(error)
        else:
            yield meter.end()

    return events()


def response_from_events(events: Iterable[Any]) -> Response:
    """The complete reply from a stream's events, which the last event holds."""
    for event in events:
        if isinstance(event, StreamEventEnd):
            return Response(
                request_id=event.request_id,
                trace_id=event.trace_id,
                output_text=event.content,
                output_tokens=event.output_tokens,
                prompt_tokens=event.prompt_tokens,
                finish_reason=event.finish_reason,
                metrics=event.metrics,
                error=event.error,
            )
    raise BridgeError("incomplete events: there is no end event")


class _Meter:
    """Records the chunks of a stream and the times of their arrival."""

    def __init__(
        self, request: Request, engine_id: str, clock: Clock, started: float | None
    ) -> None:
        self._ids: dict[str, Any] = {
            "request_id": request.request_id,
            "trace_id": request.trace_id,
            "engine_id": engine_id,
        }
        self._clock = clock
        now = clock()
        self._started = now if started is None else started
        if self._started > now:
            raise ValueError("started is in the future: pass a time of clock, time.perf_counter()")
        self._arrivals: list[float] = []
        self._texts: list[str] = []
        self._tokens: list[int] = []
        self._reason: str | None = None
        self._usage: EngineUsage | None = None

    def start(self) -> StreamEventStart:
        return StreamEventStart(**self._ids)

    def add(self, chunk: EngineChunk) -> StreamEventDelta | None:
        """The delta of a chunk; None if it has no output."""
        now = self._clock()
        self._usage = chunk.usage or self._usage
        text, tokens = "", list[int]()
        for choice in chunk.choices:
            if choice.index:
                raise BridgeError("the stream has several choices, but sageLLM has one; set n to 1")
            text += choice.delta_text or ""
            tokens += choice.delta_token_ids
            self._reason = choice.finish_reason or self._reason
        if not text and not tokens:
            return None
        self._arrivals.append(now)
        self._texts.append(text)
        self._tokens += tokens
        return StreamEventDelta(**self._ids, content=text, content_tokens=tokens)

    def end(self) -> StreamEventEnd:
        if self._reason is None:
            text = "the stream ended without a finish reason"
            return self._end("error", Error(code=ErrorCode.UNAVAILABLE, message=text))
        return self._end(_REASONS.get(self._reason, "error"), None)

    def fail(self, error: Exception) -> StreamEventEnd:
        """The end event for a gRPC error. Raises any other error again."""
        status: Any = getattr(error, "code", None)
        status = status() if callable(status) else status
        name = str(getattr(status, "name", status))
        if name not in _CODES:
            raise error
        code, retryable = _CODES[name]
        text = f"the engine ended the stream with {name}"
        return self._end("error", Error(code=code, message=text, retryable=retryable))

    def _end(self, reason: FinishReason, error: Error | None) -> StreamEventEnd:
        return StreamEventEnd(
            **self._ids,
            prompt_tokens=self._usage.prompt_tokens if self._usage else None,
            content="".join(self._texts),
            output_tokens=self._tokens,
            finish_reason=reason,
            metrics=self._metrics(failed=reason == "error"),
            error=error,
        )

    def _metrics(self, *, failed: bool) -> Metrics:
        """What a client can measure, without the engine's memory, cache and phases."""
        duration = self._clock() - self._started
        arrivals, count = self._arrivals, len(self._tokens)
        gaps = [1000 * (b - a) for a, b in pairwise(arrivals)]
        usage = self._usage
        return Metrics(
            ttft_ms=1000 * (arrivals[0] - self._started) if arrivals else 0.0,
            tbt_ms=sum(gaps) / len(gaps) if gaps else 0.0,
            tpot_ms=sum(gaps) / (count - 1) if count > 1 else 0.0,
            throughput_tps=count / duration if duration > 0 else 0.0,
            peak_mem_mb=0,
            error_rate=float(failed),
            prefix_hit_rate=(
                min(usage.cached_tokens / usage.prompt_tokens, 1.0)  # whatever the engine says
                if usage and usage.prompt_tokens
                else 0.0
            ),
            itl_list=gaps,
        )
