"""The messages of one server-streaming call, sync: retries, time limits, errors."""

import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import grpc

from smg_proto.vllm import log
from smg_proto.vllm.errors import Metadata, VLLMGrpcError, pairs
from smg_proto.vllm.options import Attempts
from smg_proto.vllm.reading import SyncCall, Waits
from smg_proto.vllm.watch import WATCHDOG

M = TypeVar("M")


class Reader(Generic[M]):
    """An iterator of messages. The call is made at once, and again while no message has come."""

    def __init__(
        self,
        start: Callable[[float | None], SyncCall[M]],
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
        self.wait_until: float = math.inf
        self.patience: float = waits.shortest
        self._call = start(waits.deadline(attempts))
        if self.patience < math.inf:
            WATCHDOG.add(self)

    def __iter__(self) -> "Reader[M]":
        return self

    def __next__(self) -> M:
        if self.done:
            raise StopIteration
        if self._limit is not None:
            self.wait_until = time.monotonic() + self._limit
        while True:
            try:
                message = next(self._call)
            except StopIteration:
                self._end()
                raise
            except grpc.RpcError as cause:
                delay = self._failed(cause)
            except BaseException:  # such as KeyboardInterrupt
                self.close()
                raise
            else:
                if not self._begun:
                    self._begun, self._limit = True, self._waits.idle
                self.wait_until = math.inf
                return message
            time.sleep(delay)
            if self._expired or self.done:
                continue  # the ended call says so again
            self._call = self._start(self._waits.deadline(self._attempts))
            if self.done:  # closed from another thread in this very moment
                self._call.cancel()

    def _failed(self, cause: grpc.RpcError) -> float:
        """The seconds until another try, or an exception."""
        closed, expired = self.done, self._expired
        self._end()
        if closed:  # by close(), from another thread or while this one waited
            raise StopIteration
        if expired:
            raise self._waits.late(self._begun, self._attempts) from None
        error = self._client_closed() or self._attempts.error(cause)
        delay = None if self._begun else self._attempts.delay(error)
        if delay is None or time.monotonic() + delay >= self.wait_until:
            raise error from cause
        log.retry(error, delay)
        self.done = False
        if self.patience < math.inf:
            WATCHDOG.add(self)
        return delay

    def expire(self) -> None:
        """The wait was too long. Called by the watchdog."""
        self._expired = True
        self._call.cancel()

    def close(self) -> None:
        """Cancel the call, if it runs; the server then ends the request in the engine."""
        if not self.done:
            self._end()
            self._call.cancel()

    def _end(self) -> None:
        self.done = True
        if self.patience < math.inf:
            WATCHDOG.remove(self)

    def initial_metadata(self) -> Metadata:
        return pairs(self._call.initial_metadata())

    def trailing_metadata(self) -> Metadata:
        """Empty until the stream has ended."""
        return pairs(self._call.trailing_metadata()) if self.done else ()
