"""A server as a process: it ends when told to, and has the descriptors that it needs."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@asynccontextmanager
async def stop_signals() -> "AsyncGenerator[asyncio.Queue[int], None]":
    """SIGINT and SIGTERM, as they come."""
    told: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {}
    try:
        for number in _SIGNALS:
            try:
                loop.add_signal_handler(number, told.put_nowait, int(number))
            except NotImplementedError:  # Windows
                before[number] = signal.signal(
                    number, lambda got, _: loop.call_soon_threadsafe(told.put_nowait, got) and None
                )
        yield told
    finally:
        for number in _SIGNALS:
            if number in before:
                signal.signal(number, before[number])
            else:
                loop.remove_signal_handler(number)


async def serve_until_told(
    start: Callable[[], Awaitable[object]],
    stop: Callable[[float | None], Awaitable[object]],
    *,
    started: Callable[[], object],
    stopping: Callable[[], object],
) -> None:
    """Start a server, and stop it at the first signal; the second one ends the drain.

    A signal while it starts ends the start. `stop` takes the seconds of the drain, or None for the
    server's own.
    """
    async with stop_signals() as told:
        starting = asyncio.ensure_future(start())
        if not await _first(starting, told):
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            return
        await starting  # raises what went wrong
        started()
        await told.get()
        stopping()
        draining = asyncio.ensure_future(stop(None))
        if not await _first(draining, told):
            await stop(0)
        await draining


async def _first(work: "asyncio.Future[object]", told: "asyncio.Queue[int]") -> bool:
    """Whether the work ended before a signal came."""
    signalled = asyncio.ensure_future(told.get())
    await asyncio.wait({work, signalled}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        signalled.cancel()
        return True
    return False


def raise_descriptor_limit(needed: int) -> str:
    """Allow this process as many open files as it may need; what to do where that is forbidden."""
    if sys.platform == "win32":
        return ""  # no such limit
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ""
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        wanted = soft
    if wanted >= needed:
        return ""
    return (
        f"the limit of open files is {wanted}, and up to {needed} may be needed; "
        f"raise it (ulimit -n {needed}) or lower --max-active"
    )
