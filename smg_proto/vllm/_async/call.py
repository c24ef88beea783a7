"""One RPC with its retries and time limits."""

import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import grpc

from smg_proto._channel import Metadata
from smg_proto.vllm._async.connection import AsyncConnection
from smg_proto.vllm._config import MAX_PUSHBACK, AsyncToken, Options, check_secret, merge_metadata
from smg_proto.vllm._errors import (
    RETRYABLE,
    VLLMGrpcClosedError,
    VLLMGrpcError,
    VLLMGrpcTimeoutError,
    from_rpc_error,
    pairs,
)
from smg_proto.vllm._telemetry import log_retry
from smg_proto.vllm._wait import (
    AsyncCancelled,
    AsyncPause,
    AsyncReplies,
    AsyncTimer,
    Late,
    async_cancellations,
    async_connected,
    async_gather,
    async_on_failure,
    async_resolved,
)

M = TypeVar("M")


class Limits(NamedTuple):
    """The time limits of a call, in seconds for the wait for a message."""

    first_message: float | None = None
    idle: float | None = None
    ends: float | None = None
    """The deadline of the whole call, by time.monotonic()."""

    @classmethod
    def of_call(cls, options: Options, began: float, at_least: float = 0.0) -> "Limits":
        """For a reply without streaming. at_least: the minimum of the default limit."""
        limit = options.timeout.call
        if limit is not None and not options.timeout_given:
            limit = max(limit, at_least)
        return cls(ends=None if limit is None else began + limit)

    @classmethod
    def of_stream(cls, options: Options, began: float) -> "Limits":
        timeout = options.timeout
        ends = None if timeout.stream is None else began + timeout.stream
        return cls(timeout.first_message, timeout.idle, ends)


class AsyncCall(Generic[M]):
    """An iterator of the messages of an RPC; a unary one has one. It retries the call until the
    first message.

    gRPC's own retries are limited in number, do not renew tokens, end with the server's headers,
    and are not logged.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        rpc: str,
        request: Any,
        options: Options,
        limits: Limits,
        token: AsyncToken | None,
        metadata: Metadata,
        request_id: str | None = None,
    ) -> None:
        self._connection = connection
        self._rpc = rpc
        self._inference = False  # the current try uses vLLM's own protocol
        self._unknown: VLLMGrpcError | None = None  # UNIMPLEMENTED in the other protocol
        self._request = request
        self._options = options
        self._limits = limits
        self._token = token
        self._metadata = metadata
        self._request_id = request_id
        self._replies: AsyncReplies | None = None
        self._limit = limits.first_message  # of the next wait
        self._begun = False  # a message has arrived
        self._spare = math.inf  # seconds between the first message and its time limit
        self._tries = 0
        self._pause: AsyncPause | None = None
        self.done: bool = False
        """Whether no message will follow."""
        self._cut: VLLMGrpcError | None = None  # the reason for which the client ended the call
        first, idle = limits.first_message, limits.idle
        self._timer: AsyncTimer | None = None
        if first is not None or idle is not None:
            self._timer = AsyncTimer(min(first or math.inf, idle or math.inf), self._late)

    async def begin(self) -> None:
        """Start the call. The time for this, as for a token function, counts."""
        began = time.monotonic()
        self._connection.calls.add(self)
        if self._timer is not None:
            self._timer.start()
        try:
            await self._try(math.inf if self._limit is None else began + self._limit)
        except BaseException:
            self.finish()
            raise
        if self._limit is not None:
            self._limit = max(self._limit - (time.monotonic() - began), 0.001)

    async def _try(self, until: float) -> None:
        """Make one try, unless `until` has passed."""
        ends = self._limits.ends
        if ends is not None and ends < until:
            until = ends
        metadata = self._metadata
        if self._token is not None:
            metadata = await self._with_token(metadata, until)
        if self._cut is not None:
            return
        self._connection.check()
        self._inference = self._connection.inference or self._unknown is not None
        method, request = self._connection.method(self._rpc, self._request, self._inference)
        left = None if ends is None else ends - time.monotonic()
        if left is not None and left <= 0:
            raise self._too_late("before it was made")
        replies = method(
            request,
            timeout=left,
            metadata=metadata,
            wait_for_ready=self._options.wait_for_ready,
        )
        self._replies = replies
        self._next = replies.__aiter__().__anext__
        if self._cut is not None:  # by another thread in the meantime
            replies.cancel()

    async def _with_token(self, metadata: Metadata, until: float) -> Metadata:
        """The metadata with the token, unless they already have an authorization header."""
        token: Any = self._token
        if callable(token):
            left = until - time.monotonic()
            try:
                token = await async_resolved(token(), None if left == math.inf else left)
            except Late:
                left = 0.0
            if left <= 0 or time.monotonic() >= until:
                raise self._too_late("while the token function was running")
        header = ("authorization", f"Bearer {check_secret('token', token)}")
        return merge_metadata((header,), metadata)

    def __aiter__(self) -> "AsyncCall[M]":
        return self

    async def __anext__(self) -> M:
        if self.done:
            if self._cut is not None:
                raise self._cut
            raise StopAsyncIteration
        timer, limit = self._timer, self._limit
        if timer is not None and limit is not None:
            timer.until = time.monotonic() + limit
        before = async_cancellations()
        while True:
            try:
                message: M = await self._next()
            except StopAsyncIteration:
                self.finish()
                raise
            except AsyncCancelled as cause:  # of this task, or of the call by the client
                if self._cut is None or async_cancellations() > before:
                    self.close()
                    raise
                raise self._cut from cause
            except grpc.RpcError as cause:
                delay = await self._failed(cause)
            except BaseException:  # such as KeyboardInterrupt
                self.close()
                raise
            else:
                if not self._begun:
                    self._begun, self._limit = True, self._limits.idle
                    if self._connection.unsure:
                        self._connection.settle(self._inference)
                    if timer is not None:
                        self._spare = timer.left()
                if timer is not None:
                    timer.until = math.inf
                return message
            await self._again(delay)

    async def _failed(self, cause: grpc.RpcError) -> float:
        """The seconds until the next try. Raises an error if there is none."""
        error = self._cut
        if error is None:
            unreachable = getattr(cause, "code", lambda: None)() is grpc.StatusCode.UNAVAILABLE
            error = from_rpc_error(
                cause,
                target=self._connection.address.target,
                connected=await async_connected(self._connection.channel) if unreachable else None,
                hint=self._connection.address.hint,
                begun=self._begun,
                request_id=self._request_id,
            )
            delay = self._delay(error)
            if error.code == "UNIMPLEMENTED" and not self._begun:
                if self._unknown is not None:
                    error = self._unknown
                elif not self._inference and self._connection.may_switch(self._rpc):
                    self._unknown, delay = error, 0.0
            if delay is not None:
                log_retry(error, delay)
                return delay
            error = self._cut or error
        self.finish()
        raise error from cause

    def _delay(self, error: VLLMGrpcError) -> float | None:
        """The seconds until the next try, or None."""
        if self._begun or not error.retryable or self._tries >= self._options.max_retries:
            return None
        delay = error.pushback
        if delay is not None and delay > MAX_PUSHBACK:
            return None
        if delay is None:
            backoff = self._options.initial_backoff * 2.0 ** min(self._tries, 60)
            # Jitter, so that clients that failed together do not retry together.
            delay = min(backoff, self._options.max_backoff) * random.uniform(0.5, 1.0)
        ends = self._limits.ends
        if ends is not None and time.monotonic() + delay >= ends:
            return None
        if self._timer is not None and delay >= self._timer.left():
            return None
        self._tries += 1
        return delay

    async def _again(self, delay: float) -> None:
        """Wait, then make the next try. close() and time limits end the wait."""
        try:
            self._pause = pause = AsyncPause()
            if self._cut is None:
                await pause.sleep(delay)
            self._pause = None
            if self._cut is None:
                left = math.inf if self._timer is None else self._timer.left()
                await self._try(time.monotonic() + left)
        except BaseException:
            self.close()
            raise
        if self._cut is not None:
            raise self._cut

    def _late(self) -> None:
        """End the call because a message is late."""
        which, limit, name = (
            ("further", self._limits.idle, "Timeout.idle")
            if self._begun
            else ("first", self._limits.first_message, "Timeout.first_message")
        )
        self._end(self._timeout(f"no {which} message within {limit or 0:g} s ({name})"))

    def _too_late(self, when: str) -> VLLMGrpcTimeoutError:
        return self._timeout(f"the time limit of the call was exceeded {when}")

    def _timeout(self, message: str) -> VLLMGrpcTimeoutError:
        return VLLMGrpcTimeoutError(message, code="DEADLINE_EXCEEDED", request_id=self._request_id)

    def left(self) -> float | None:
        """Seconds left for work that counts as part of the first message. None: no limit."""
        ends = self._limits.ends
        left = self._spare if ends is None else min(self._spare, ends - time.monotonic())
        return None if left == math.inf else max(left, 0.0)

    def close(self, why: str = "the stream was closed") -> None:
        """Cancel the call if it is running. The server then ends the request in the engine."""
        if not self.done:
            self._end(VLLMGrpcClosedError(why, request_id=self._request_id))

    def _end(self, why: VLLMGrpcError) -> None:
        """End the call. A reader that waits for a message gets the reason."""
        if self.done:
            return
        if self._cut is None:
            self._cut = why
        self.finish()
        if self._replies is not None:
            self._replies.cancel()
        if self._pause is not None:
            self._pause.wake()

    def finish(self) -> None:
        self.done = True
        if self._timer is not None:
            self._timer.stop()
        self._connection.calls.discard(self)

    async def result(self) -> M:
        """Make a unary call and return its message."""
        await self.begin()
        try:
            return await self.__anext__()
        finally:
            self.finish()

    def watch(self, failed: Callable[[], None]) -> None:
        """Call `failed`, in another thread, if the current try fails permanently."""
        async_on_failure(self._replies, RETRYABLE | {"UNIMPLEMENTED"}, failed)

    async def initial_metadata(self) -> Metadata:
        """Waits for the headers, with the time limit of the first message."""
        timer, limit = self._timer, self._limit
        if timer is None or limit is None or self._begun or timer.left() < math.inf:
            timer = None  # no limit, or it is already running
        elif not self.done:
            timer.until = time.monotonic() + limit
        try:
            assert self._replies is not None
            found = pairs(await self._replies.initial_metadata())
        except AsyncCancelled:
            if self._cut is None:
                raise
            found = ()
        finally:
            if timer is not None:
                self._limit = max(timer.left(), 0.001)
                timer.until = math.inf
        if self._cut is not None and not found:
            raise self._cut
        return found

    async def trailing_metadata(self) -> Metadata:
        """Empty until the call has ended."""
        if not self.done or self._replies is None:
            return ()
        return pairs(await self._replies.trailing_metadata())


async def async_gather_calls(
    calls: Sequence[AsyncCall[Any]],
    begin: Callable[[int], Awaitable[None]],
    read: Callable[[int], Awaitable[None]],
) -> None:
    """Read several calls concurrently to their ends. The first that fails ends the others, and its
    error is raised."""
    failed: list[AsyncCall[Any]] = []

    def end(first: AsyncCall[Any]) -> None:
        if not failed:  # the calls that it ends call this too
            failed.append(first)
            for call in calls:
                if call is not first:
                    call.close("another call failed")

    def watch(number: int) -> None:
        calls[number].watch(lambda: end(calls[number]))

    try:
        await async_gather(len(calls), begin, watch, read)
    except VLLMGrpcClosedError:
        if failed:
            await failed[0].__anext__()  # raises its own error
        raise
    finally:
        for call in calls:
            call.close()
