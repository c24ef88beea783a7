"""An event loop in its own thread."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from smg_proto._serving.loop import LoopThread


def test_coroutines_run_in_a_thread_that_does_not_keep_the_program_alive() -> None:
    async def thread() -> threading.Thread:
        return threading.current_thread()

    loop = LoopThread("some name")
    try:
        running = loop.run(thread())
        assert running.is_alive() and running.daemon and running.name == "some name"
    finally:
        loop.close()
    assert not running.is_alive()
    loop.close()  # once more does no harm


def test_close_lets_what_it_ends_clean_up() -> None:
    events: list[str] = []
    started = threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            events.append("cancelled")
            raise

    loop = LoopThread("work")
    loop.submit(work())
    assert started.wait(20)
    loop.close()
    assert events == ["cancelled"]


@pytest.mark.parametrize("unfinished", [0, 1])
def test_close_ends_generators(unfinished: int) -> None:
    events: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            events.append("closed")

    async def first() -> int:
        return await anext(generator)

    generator = numbers()
    loop = LoopThread("generator")
    for _ in range(unfinished):
        loop.submit(asyncio.sleep(60))
    assert loop.run(first()) == 1
    loop.close()
    assert events == ["closed"]


def test_close_waits_for_work_in_other_threads() -> None:
    started, ended = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        time.sleep(0.2)
        ended.set()

    loop = LoopThread("work")
    loop.submit(asyncio.to_thread(work))
    assert started.wait(20)
    loop.close()
    assert ended.is_set() and loop.loop.is_closed()
