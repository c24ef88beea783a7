"""The messages of one server-streaming call, async: retries, time limits, errors."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import grpc

from smg_proto.vllm import log
from smg_proto.vllm.errors import (
    Metadata,
    VLLMGrpcCancelledError,
    VLLMGrpcError,
    pairs,
)
from smg_proto.vllm.options import Attempts
from smg_proto.vllm.reading import AsyncCall, Waits

M = TypeVar("M")


class AsyncReader(Generic[M]):
    """An async iterator of messages. `begin` makes the call; it is made again while no message
    has come.

    Waits are limited by one timer, which is set again only when it goes off.
    """

    def __init__(
        self,
        start: Callable[[float | None], Awaitable[AsyncCall[M]]],
        attempts: Attempts,
        waits: Waits,
        closed: Callable[[], VLLMGrpcError | None],
    ) -> None:
        self._start = start
        self._attempts = attempts
        self._waits = waits
        self._client_closed = closed
        self._limit = waits.first_message
        self._expired = False
        self._begun = False
        self.done: bool = False
        self._wait_until = math.inf
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    async def begin(self) -> None:
        self._call = await self._start(self._waits.deadline(self._attempts))
        self._next = self._call.__aiter__().__anext__

    def __aiter__(self) -> "AsyncReader[M]":
        return self

    async def __anext__(self) -> M:
        if self.done:
            raise StopAsyncIteration
        if self._limit is not None:
            self._wait_until = self._loop.time() + self._limit
            if self._timer is None:  # early enough for the shorter of the two limits
                self._timer = self._loop.call_later(self._waits.shortest, self._look)
        while True:
            try:
                message = await self._next()
            except StopAsyncIteration:
                self._end()
                raise
            except grpc.RpcError as cause:
                delay = self._failed(self._attempts.error(cause), cause)
            except asyncio.CancelledError as cause:
                self._cancelled(cause)
                raise
            else:
                if not self._begun:
                    self._begun, self._limit = True, self._waits.idle
                self._wait_until = math.inf
                return message
            await self._again(delay)

    def _failed(self, error: VLLMGrpcError, cause: BaseException) -> float:
        """The seconds until another try, or an exception."""
        error = self._client_closed() or error
        delay = None if self._begun else self._attempts.delay(error)
        if delay is None or self._loop.time() + delay >= self._wait_until:
            self._end()
            raise error from cause
        log.retry(error, delay)
        return delay

    async def _again(self, delay: float) -> None:
        try:
            await asyncio.sleep(delay)
            if self.done:  # by close(), from another task
                raise StopAsyncIteration
            if self._expired:
                raise self._waits.late(self._begun, self._attempts)
            await self.begin()
        except BaseException:
            self.close()
            raise

    def _cancelled(self, cause: asyncio.CancelledError) -> None:
        """gRPC says the same for a call that was cancelled and for a task that is."""
        closed = self.done
        self.close()
        task = asyncio.current_task()
        if task is not None and getattr(task, "cancelling", int)():
            return
        if self._expired:
            raise self._waits.late(self._begun, self._attempts) from None
        if closed:
            raise StopAsyncIteration from None
        error = self._client_closed()
        if error is not None:
            raise error from cause

    def _look(self) -> None:
        """The timer went off: end the wait, or set the timer for the present one."""
        now = self._loop.time()
        if self._wait_until <= now:
            self._timer = None
            self._expired = True
            self._call.cancel()
        else:
            later = min(self._wait_until, now + self._waits.shortest)
            self._timer = self._loop.call_at(later, self._look)

    def close(self) -> None:
        """Cancel the call, if it runs; the server then ends the request in the engine."""
        if not self.done:
            self._end()
            self._call.cancel()

    def _end(self) -> None:
        self.done = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def initial_metadata(self) -> Metadata:
        try:
            return pairs(await self._call.initial_metadata())
        except asyncio.CancelledError:
            if self.done:
                raise VLLMGrpcCancelledError(
                    "the call was cancelled", code="CANCELLED", request_id=self._attempts.request_id
                ) from None
            raise

    async def trailing_metadata(self) -> Metadata:
        """Empty until the stream has ended."""
        return pairs(await self._call.trailing_metadata()) if self.done else ()
