"""A server's process: shutdown by signals, and the limit of open files."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
from support import async_eventually, unhandled_signals_fail

from smg_proto._serving.process import (
    Shutdown,
    raise_descriptor_limit,
    serve_until_shutdown,
    shutdown_by_signal,
)


@pytest.fixture(params=["Unix", "Windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Event loops of Windows do not handle signals."""
    with unhandled_signals_fail():
        if request.param == "Windows":

            def add_signal_handler(*_: object) -> None:
                raise NotImplementedError

            loop = asyncio.SelectorEventLoop
            monkeypatch.setattr(loop, "add_signal_handler", add_signal_handler)
        yield request.param


async def test_the_first_signal_starts_the_drain_and_the_second_stops_it(system: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with shutdown_by_signal() as shutdown:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(shutdown.drain.wait(), 20)
        assert not shutdown.stop.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(shutdown.stop.wait(), 20)
    after = signal.getsignal(signal.SIGTERM)
    assert after == (before if system == "Windows" else signal.SIG_DFL)


def test_a_server_in_another_thread_gets_no_signals() -> None:
    async def drain() -> bool:
        async with shutdown_by_signal() as shutdown:
            return shutdown.drain.is_set()

    assert asyncio.run(asyncio.to_thread(asyncio.run, drain())) is False


class Served:
    """Something that starts and stops, and what happened to it."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.may_start = asyncio.Event()
        self.may_stop = asyncio.Event()
        self.shutdown = Shutdown()

    async def run(self) -> list[object]:
        def note(event: str) -> None:
            self.events.append(event)

        before = asyncio.all_tasks()
        await serve_until_shutdown(
            self._start,
            self._stop,
            self.shutdown,
            started=lambda: note("started"),
            stopping=lambda: note("stopping"),
        )
        events = [*self.events]
        await async_eventually(lambda: asyncio.all_tasks() <= before, "no task is left", 5)
        return events

    async def _start(self) -> None:
        self.events.append("start")
        try:
            await self.may_start.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.events.append("cancelled")
            raise

    async def _stop(self, grace: float | None) -> None:
        self.events.append(grace)
        if grace is None:
            await self.may_stop.wait()
            self.events.append("stopped")
        else:
            self.may_stop.set()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    yield Served()


async def test_a_server_serves_until_the_drain(served: Served) -> None:
    served.may_start.set()
    served.may_stop.set()
    running = asyncio.create_task(served.run())
    await async_eventually(lambda: "started" in served.events)
    assert served.events == ["start", "started"]
    served.shutdown.signalled()
    assert await asyncio.wait_for(running, 10) == ["start", "started", "stopping", None, "stopped"]


async def test_a_second_signal_stops_without_grace(served: Served) -> None:
    served.may_start.set()
    running = asyncio.create_task(served.run())
    await async_eventually(lambda: "started" in served.events)
    served.shutdown.signalled()
    await async_eventually(lambda: None in served.events)
    served.shutdown.signalled()
    events = ["start", "started", "stopping", None, 0, "stopped"]
    assert await asyncio.wait_for(running, 10) == events


async def test_a_signal_while_it_starts_cancels_the_start(served: Served) -> None:
    running = asyncio.create_task(served.run())
    await async_eventually(lambda: served.events)
    served.shutdown.signalled()
    await async_eventually(lambda: "cancelled" in served.events, "the start is cancelled", 5)
    assert await asyncio.wait_for(running, 10) == ["start", "cancelled"]


async def test_a_failed_start_or_stop_is_raised() -> None:
    async def fail(*_: object) -> None:
        raise OSError

    async def work(*_: object) -> None:
        pass

    shutdown = Shutdown()
    for start, stop in ((fail, work), (work, fail)):
        with pytest.raises(OSError):
            await asyncio.wait_for(
                serve_until_shutdown(
                    start, stop, shutdown, started=shutdown.signalled, stopping=lambda: None
                ),
                10,
            )


def test_a_system_without_a_limit_of_open_files_has_no_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert raise_descriptor_limit(1 << 62) == ""


UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (UNLIMITED, UNLIMITED, UNLIMITED),
        (100, UNLIMITED, 500),
        (500, 500, 500),
        (501, 1000, 501),
        (100, 1000, 500),
        (100, 500, 500),
        (100, 499, 499),
        (100, 100, 100),
    ],
)
@pytest.mark.parametrize("forbidden", [False, True])
def test_the_limit_of_open_files_rises_if_needed_and_allowed(
    soft: int, hard: int, raised: int, forbidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = (soft, hard)

    def getrlimit(_: int) -> tuple[int, int]:
        return limits

    def setrlimit(_: int, changed: tuple[int, int]) -> None:
        nonlocal limits
        if forbidden:
            raise ValueError
        limits = changed

    monkeypatch.setattr(resource, "getrlimit", getrlimit)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    warning = raise_descriptor_limit(500)
    assert limits == (soft if forbidden else raised, hard)
    low = f"limit of open files too low: {limits[0]}, but up to 500 may be needed; "
    assert warning.startswith(low) if limits[0] in range(500) else warning == ""
