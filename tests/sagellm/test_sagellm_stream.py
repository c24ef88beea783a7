"""Stream events and metrics from the chunks of a vLLM stream, timed by a clock of the test's."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import grpc
import pytest

from smg_proto.sagellm import (
    BridgeError,
    ErrorCode,
    Request,
    StreamEvent,
    StreamEventDelta,
    StreamEventEnd,
    StreamEventStart,
    astream_events,
    response_from_events,
    stream_event_from_proto,
    stream_events,
)

REQUEST = Request(request_id="r", trace_id="t", model="m", prompt="Once", max_tokens=8)


@dataclass(frozen=True)
class Choice:
    delta_token_ids: list[int] = field(default_factory=list[int])
    delta_text: str = ""
    finish_reason: str | None = None
    index: int = 0


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Chunk:
    choices: list[Choice]
    usage: Usage | None = None


class Clock:
    """Stands still but for `pass_`."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


def _chunks(clock: Clock, failure: Exception | None = None) -> Iterator[Chunk]:
    """Five tokens in three chunks, at 0.5, 0.75 and 1.5 s; the end at 2 s."""
    clock.pass_(0.5)
    yield Chunk([Choice([1], "one")])
    clock.pass_(0.25)
    yield Chunk([Choice([2, 3], " two")], Usage(8, 6))
    clock.pass_(0.75)
    yield Chunk([Choice([4, 5], " three")])
    clock.pass_(0.5)
    if failure:
        raise failure
    yield Chunk([Choice(finish_reason="stop")], Usage(8, 6))
    yield Chunk([])


def _events(clock: Clock, failure: Exception | None = None) -> list[StreamEvent]:
    return list(stream_events(_chunks(clock, failure), REQUEST, engine_id="e", clock=clock))


def test_a_stream_is_start_then_deltas_then_end() -> None:
    start, *deltas, end = _events(Clock())
    assert start == StreamEventStart(request_id="r", trace_id="t", engine_id="e")
    assert [(d.content, d.content_tokens) for d in deltas if isinstance(d, StreamEventDelta)] == [
        ("one", [1]),
        (" two", [2, 3]),
        (" three", [4, 5]),
    ]
    assert isinstance(end, StreamEventEnd)
    assert (end.content, end.output_tokens, end.prompt_tokens) == (
        "one two three",
        [1, 2, 3, 4, 5],
        8,
    )
    assert (end.finish_reason, end.error) == ("stop", None)
    for event in (start, *deltas, end):
        assert event.check() == stream_event_from_proto(event.to_proto())


def test_the_metrics_are_measured() -> None:
    *_, end = _events(Clock())
    assert isinstance(end, StreamEventEnd)
    assert end.metrics.model_dump(exclude_defaults=True) == {
        "ttft_ms": 500.0,
        "itl_list": [250.0, 750.0],
        "tbt_ms": 500.0,  # 1000 ms over two gaps
        "tpot_ms": 250.0,  # 1000 ms over the four tokens after the first
        "throughput_tps": 2.5,  # five tokens in 2 s
        "peak_mem_mb": 0,  # cannot be seen from here
        "error_rate": 0.0,
        "prefix_hit_rate": 0.75,
    }


def test_the_clock_starts_with_the_call_or_at_the_given_time() -> None:
    clock = Clock()
    events = stream_events(_chunks(clock), REQUEST, engine_id="e", clock=clock)
    clock.pass_(1.0)  # before the first event is taken
    *_, late = events
    assert isinstance(late, StreamEventEnd)
    assert late.metrics.ttft_ms == 1500.0
    clock = Clock()
    *_, early = stream_events(
        _chunks(clock), REQUEST, engine_id="e", clock=clock, started=clock() - 2
    )
    assert isinstance(early, StreamEventEnd)
    assert early.metrics.ttft_ms == 2500.0


def test_a_start_in_the_future_is_rejected_at_once() -> None:
    clock = Clock()
    with pytest.raises(ValueError, match="started is in the future"):
        stream_events([], REQUEST, engine_id="e", clock=clock, started=clock() + 0.001)
    assert list(stream_events([], REQUEST, engine_id="e", clock=clock, started=clock()))


def test_an_engine_that_counts_wrongly_does_not_cost_the_text() -> None:
    chunks = [Chunk([Choice([1], "one", "stop")], Usage(4, 5))]
    *_, end = stream_events(chunks, REQUEST, engine_id="e")
    assert isinstance(end, StreamEventEnd)
    assert (end.content, end.metrics.prefix_hit_rate) == ("one", 1.0)


def test_the_events_contain_the_complete_output() -> None:
    events = _events(Clock())
    response = response_from_events(events)
    assert (response.output_text, response.output_tokens) == ("one two three", [1, 2, 3, 4, 5])
    assert response.metrics.ttft_ms == 500.0
    assert response.error is None
    failed = response_from_events(_events(Clock(), StatusError("UNAVAILABLE")))
    assert failed.error is not None and failed.error.code is ErrorCode.UNAVAILABLE
    with pytest.raises(BridgeError, match="no end"):
        response_from_events(events[:-1])


async def test_the_async_stream_gives_the_same_events() -> None:
    clock = Clock()

    async def chunks() -> AsyncIterator[Chunk]:
        for chunk in _chunks(clock):
            yield chunk

    stream = astream_events(chunks(), REQUEST, engine_id="e", clock=clock)
    assert [event async for event in stream] == _events(Clock())


class StatusError(Exception):
    """Like the errors of smg_proto.vllm: `code` is the status's name."""

    def __init__(self, code: str) -> None:
        super().__init__("a secret")
        self.code = code


class CallError(grpc.RpcError):
    """Like the errors of grpc."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("failure", "code", "retryable"),
    [
        (StatusError("UNAVAILABLE"), ErrorCode.UNAVAILABLE, True),
        (CallError(), ErrorCode.UNAVAILABLE, True),
        (StatusError("RESOURCE_EXHAUSTED"), ErrorCode.RESOURCE_EXHAUSTED, True),
        (StatusError("DEADLINE_EXCEEDED"), ErrorCode.DEADLINE_EXCEEDED, None),
        (StatusError("INVALID_ARGUMENT"), ErrorCode.INVALID_ARGUMENT, False),
        (StatusError("UNIMPLEMENTED"), ErrorCode.NOT_IMPLEMENTED, False),
    ],
)
def test_a_failure_of_the_protocol_ends_the_stream_with_an_error(
    failure: Exception, code: ErrorCode, retryable: bool | None
) -> None:
    *_, delta, end = _events(Clock(), failure)
    assert isinstance(delta, StreamEventDelta)
    assert isinstance(end, StreamEventEnd)
    assert end.error is not None
    assert (end.finish_reason, end.error.code, end.error.retryable) == ("error", code, retryable)
    assert "secret" not in end.model_dump_json()
    assert (end.content, end.metrics.error_rate) == ("one two three", 1.0)


@pytest.mark.parametrize("failure", [StatusError("INTERNAL"), RuntimeError("mine")])
def test_any_other_failure_passes_through(failure: Exception) -> None:
    with pytest.raises(type(failure)) as caught:
        _events(Clock(), failure)
    assert caught.value is failure


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("stop", "stop"), ("length", "length"), ("repetition", "stop"), ("abort", "error")],
)
def test_reasons_of_vllm_become_those_of_the_protocol(reason: str, expected: str) -> None:
    chunks = [Chunk([Choice([1], "x", reason)])]
    *_, end = stream_events(chunks, REQUEST, engine_id="e")
    assert isinstance(end, StreamEventEnd)
    assert (end.finish_reason, end.error) == (expected, None)


def test_a_stream_that_stops_without_a_reason_is_unavailable() -> None:
    _, end = stream_events([], REQUEST, engine_id="e")
    assert isinstance(end, StreamEventEnd)
    assert end.error is not None
    assert (end.finish_reason, end.error.code) == ("error", ErrorCode.UNAVAILABLE)
    assert end.metrics.model_dump(include={"ttft_ms", "tpot_ms", "throughput_tps"}) == {
        "ttft_ms": 0.0,
        "tpot_ms": 0.0,
        "throughput_tps": 0.0,
    }


def test_tokens_without_text_and_text_without_tokens_are_output() -> None:
    clock = Clock()

    def chunks() -> Iterator[Chunk]:
        yield Chunk([Choice([1])])
        clock.pass_(0.25)
        yield Chunk([Choice([2])])
        yield Chunk([Choice([], "end", "stop")])

    _, *deltas, end = stream_events(chunks(), REQUEST, engine_id="e", clock=clock)
    assert [(d.content, d.content_tokens) for d in deltas if isinstance(d, StreamEventDelta)] == [
        ("", [1]),
        ("", [2]),
        ("end", []),
    ]
    assert isinstance(end, StreamEventEnd)
    assert end.metrics.tpot_ms == 250.0  # the one token after the first


def test_several_choices_are_rejected() -> None:
    with pytest.raises(BridgeError, match="several choices"):
        list(stream_events([Chunk([Choice([1], index=1)])], REQUEST, engine_id="e"))


def test_leaving_the_loop_closes_the_stream() -> None:
    closed: list[Any] = []

    def chunks() -> Iterator[Chunk]:
        try:
            yield from _chunks(Clock())
        finally:
            closed.append(True)

    events = stream_events(chunks(), REQUEST, engine_id="e")
    for event, _ in pairwise(events):
        assert event.event == "start"
        break
    del events
    assert closed
