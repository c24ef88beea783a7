"""Runs a server as a process: shutdown by signals, and the limit of open files."""

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Shutdown:
    """Events that shut a server down: `drain` starts the drain, `stop` cuts it short."""

    drain: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def signalled(self) -> None:
        (self.stop if self.drain.is_set() else self.drain).set()


@asynccontextmanager
async def shutdown_by_signal() -> AsyncGenerator[Shutdown, None]:
    """Shut down on SIGINT and SIGTERM. Python delivers signals only to the main thread."""
    shutdown = Shutdown()
    loop = asyncio.get_running_loop()
    previous: dict[int, Any] = {}
    numbers = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
    try:
        for number in numbers:
            try:
                loop.add_signal_handler(number, shutdown.signalled)
            except NotImplementedError:  # Windows
                previous[number] = signal.signal(
                    number, lambda _, __: loop.call_soon_threadsafe(shutdown.signalled) and None
                )
        yield shutdown
    finally:
        for number in numbers:
            if number in previous:
                signal.signal(number, previous[number])
            else:
                loop.remove_signal_handler(number)


async def serve_until_shutdown(
    start: Callable[[], Coroutine[Any, Any, object]],
    stop: Callable[[float | None], Coroutine[Any, Any, object]],
    shutdown: Shutdown,
    *,
    started: Callable[[], object],
    stopping: Callable[[], object],
) -> None:
    """Start a server, and stop it on shutdown. A shutdown during startup cancels the startup.

    `stop` takes the seconds of the drain, or None for the server's default.
    """
    starting = asyncio.create_task(start())
    if not await _done_before(shutdown.drain, starting):
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        return
    await starting  # raises the error of a failed startup
    started()
    await shutdown.drain.wait()
    stopping()
    draining = asyncio.create_task(stop(None))
    if not await _done_before(shutdown.stop, draining):
        await stop(0)
    await draining


async def _done_before(event: asyncio.Event, work: "asyncio.Task[object]") -> bool:
    """Wait for the work or the event. Returns whether the work was done first."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return work.done()


def raise_descriptor_limit(needed: int) -> str:
    """Raise the limit of open files if needed. Returns a warning if the system forbids it."""
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
        f"limit of open files too low: {wanted}, but up to {needed} may be needed; "
        f"raise it (ulimit -n {needed}) or allow fewer RPCs in flight"
    )
