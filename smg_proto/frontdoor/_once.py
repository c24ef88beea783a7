"""Idempotency keys: a repeated request gets the reply of the first."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

MAX_KEYS = 10_000
MAX_KEY_LENGTH = 256
REMEMBERED_SECONDS = 600.0


class Once:
    """Remembers the replies to requests with a key for some minutes, but not failures."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, tuple[float, asyncio.Future[Any]]] = OrderedDict()

    async def run(self, key: Hashable, work: Callable[[], Awaitable[Any]]) -> Any:
        """The result of the work, which only the first caller with this key runs."""
        self._forget()
        while key in self._known:
            _, future = self._known[key]
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                if not future.cancelled():
                    raise  # this call was cancelled
            except Exception:
                pass  # the first caller gets the error; this one tries again
            if self._known.get(key, (0.0, None))[1] is future:
                del self._known[key]
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve_exception)
        self._known[key] = time.monotonic(), future
        try:
            reply = await work()
        except BaseException as error:
            self._known.pop(key, None)
            if isinstance(error, Exception):
                future.set_exception(error)
            else:
                future.cancel()
            raise
        future.set_result(reply)
        return reply

    def _forget(self) -> None:
        oldest = time.monotonic() - REMEMBERED_SECONDS
        while self._known:
            key, (began, future) = next(iter(self._known.items()))
            if began > oldest and len(self._known) < MAX_KEYS:
                break
            if not future.done() and began > oldest:
                break
            del self._known[key]


def _retrieve_exception(future: "asyncio.Future[Any]") -> None:
    """Keeps asyncio from logging an exception that nobody waits for: its caller gets it."""
    if not future.cancelled():
        future.exception()
