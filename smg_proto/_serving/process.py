"""A server as a process: it ends when told to, and has the descriptors that it needs."""

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
class Orders:
    """What a server is told: to drain, and to wait for the drain no longer."""

    drain: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def signalled(self) -> None:
        (self.stop if self.drain.is_set() else self.drain).set()


@asynccontextmanager
async def orders_by_signal() -> AsyncGenerator[Orders, None]:
    """SIGINT and SIGTERM as orders. Python delivers signals to the main thread only."""
    orders = Orders()
    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {}
    numbers = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
    try:
        for number in numbers:
            try:
                loop.add_signal_handler(number, orders.signalled)
            except NotImplementedError:  # Windows
                before[number] = signal.signal(
                    number, lambda _, __: loop.call_soon_threadsafe(orders.signalled) and None
                )
        yield orders
    finally:
        for number in numbers:
            if number in before:
                signal.signal(number, before[number])
            else:
                loop.remove_signal_handler(number)


async def serve_until_told(
    start: Callable[[], Coroutine[Any, Any, object]],
    stop: Callable[[float | None], Coroutine[Any, Any, object]],
    orders: Orders,
    *,
    started: Callable[[], object],
    stopping: Callable[[], object],
) -> None:
    """Start a server and stop it when told. An order while it starts ends the start.

    `stop` takes the seconds of the drain, or None for the server's own.
    """
    starting = asyncio.create_task(start())
    if not await _done_before(orders.drain, starting):
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        return
    await starting  # raises what went wrong
    started()
    await orders.drain.wait()
    stopping()
    draining = asyncio.create_task(stop(None))
    if not await _done_before(orders.stop, draining):
        await stop(0)
    await draining


async def _done_before(order: asyncio.Event, work: "asyncio.Task[object]") -> bool:
    """Wait for the work or the order; whether the work was done first."""
    waiting = asyncio.create_task(order.wait())
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return work.done()


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
        f"the limit of open files is {wanted}, and up to {needed} may be needed: "
        f"raise it (ulimit -n {needed}) or lower the number of RPCs in flight"
    )
