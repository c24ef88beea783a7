"""Fast text is sent in larger pieces, and in still larger ones while the machine is busy."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from frontdoor.replay import sse
from smg_proto._http.mapping.chat import ChatChunks
from smg_proto._http.sse import Decoder, ServerSentEvent
from smg_proto.frontdoor import _pace, _routes
from smg_proto.frontdoor._pace import MAX_PAUSE, MIN_PAUSE, Pace
from smg_proto.frontdoor._routes import relay


class Clock:
    """Time that passes when something is waited for."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (_routes, _pace):
        monkeypatch.setattr(module, "time", found)
    return found


def chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return sse([None, {"id": "1", "choices": [choice]}])


class Tokens:
    """A stream whose tokens come at a pace, and wait if nobody reads them."""

    def __init__(self, clock: Clock, number: int, apart: float, late: float = 0.0) -> None:
        self._clock, self._late = clock, late
        texts = [chunk("x") for _ in range(number)] + [chunk("", "stop"), b"data: [DONE]\n\n"]
        begin = clock.now + 1
        self._coming = [(begin + n * apart, text) for n, text in enumerate(texts)]
        self._decoder = Decoder()
        self.waits = 0

    async def read(self) -> list[ServerSentEvent]:
        self._clock.now = max(self._clock.now, self._coming[0][0])
        there = [text for when, text in self._coming if when <= self._clock.now]
        del self._coming[: len(there)]
        return self._decoder.feed(b"".join(there))

    async def wait(self, seconds: float) -> bool:
        self.waits += 1
        self._clock.now += seconds + self._late
        return self._late >= 0

    def finish(self) -> None:
        pass


class Call:
    def __init__(self, stream: Tokens, pace: Pace) -> None:
        self._stream, self.pace = stream, pace

    @asynccontextmanager
    async def stream(self, path: str, body: Any) -> AsyncIterator[Tokens]:
        yield self._stream

    def got_token(self) -> None:
        pass

    def report(self) -> Any:
        from smg_proto import smg_pb2 as smg

        return smg.PipelineReport()


async def deltas(stream: Tokens, pace: Pace | None = None) -> list[str]:
    call: Any = Call(stream, pace or Pace())
    events = [event async for event in relay(call, "/", {}, ChatChunks())]
    assert events[-1].HasField("end")
    return [event.delta.content for event in events if event.HasField("delta")]


async def test_text_at_the_speed_of_a_model_is_sent_as_it_arrives(clock: Clock) -> None:
    stream = Tokens(clock, 50, apart=0.02)
    assert await deltas(stream) == ["x"] * 50
    assert stream.waits == 0


async def test_faster_text_is_sent_in_larger_pieces(clock: Clock) -> None:
    found = await deltas(Tokens(clock, 1000, apart=0.001))
    assert "".join(found) == "x" * 1000
    assert len(found) <= 1000 * 0.001 / MIN_PAUSE + 3
    assert found[0] == "x"  # the first token waits for nothing


async def test_a_busy_machine_gets_larger_pieces_and_an_idle_one_no_longer(clock: Clock) -> None:
    pace = Pace()
    busy = await deltas(Tokens(clock, 500, apart=0.02, late=0.01), pace)
    fast = await deltas(Tokens(clock, 2000, apart=0.001, late=0.01), pace)
    assert busy == ["x"] * 500  # no timer is late without a wait
    assert pace.pause > 0.05
    assert len(fast) < 60
    busy = await deltas(Tokens(clock, 500, apart=0.02, late=0.01), pace)
    assert "".join(busy) == "x" * 500 and len(busy) < 170
    await deltas(Tokens(clock, 2000, apart=0.001), pace)
    assert pace.pause < MIN_PAUSE * 1.1
    assert await deltas(Tokens(clock, 50, apart=0.02), pace) == ["x"] * 50


async def test_no_token_waits_for_long_however_busy_the_machine_is(clock: Clock) -> None:
    pace = Pace()
    await deltas(Tokens(clock, 2000, apart=0.001, late=5), pace)
    assert pace.pause == MAX_PAUSE


async def test_the_end_of_a_stream_ends_the_wait(clock: Clock) -> None:
    """A wait that is cut short says nothing about the machine."""
    pace = Pace()
    await deltas(Tokens(clock, 2000, apart=0.001, late=-0.004), pace)
    assert pace.pause == MIN_PAUSE
