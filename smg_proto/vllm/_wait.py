"""Waiting, sleeping and background work, which differ between sync and async code.

The clients are written once, for asyncio, and the sync ones are generated. Everything here comes in
pairs for the two: `X` and `AsyncX`, `x` and `async_x`.
"""

import asyncio
import inspect
import logging
import math
import queue
import sys
import threading
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

import grpc

T = TypeVar("T")
J = TypeVar("J")

AT_ONCE: Final = 256  # calls of one `create` in flight; vLLM runs as many requests by default
_AHEAD: Final = 8  # messages that a call may be ahead of the reader
_LINGER: Final = 0.5  # seconds without timers after which the watchdog's thread ends


class Late(Exception):
    """The time limit of a wait was exceeded."""


class Ended(Exception):
    """The client ended what was waited for."""


# Time limits of waits.
#
# gRPC's deadline is for a whole call, but a stream must end when one message is late. Only
# cancelling the call ends a blocked read. Therefore a thread watches the time limits of all sync
# streams, and a timer of the event loop those of each async stream. A message costs only one
# assignment, since neither is restarted for it.


class Timer:
    """Calls `late` when a wait takes too long. shortest: the shortest limit of a wait."""

    __slots__ = ("late", "shortest", "until")

    def __init__(self, shortest: float, late: Callable[[], None]) -> None:
        self.shortest = shortest
        self.late = late
        self.until: float = math.inf
        """The deadline of the current wait, by time.monotonic(). Each wait sets it."""

    def start(self) -> None:
        _WATCHDOG.add(self)

    def left(self) -> float:
        return self.until - time.monotonic()

    def stop(self) -> None:
        _WATCHDOG.remove(self)


class _Watchdog:
    """Watches the timers of all sync streams in one thread, which ends when there are none."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._timers: set[Timer] = set()
        self._thread: threading.Thread | None = None
        self._wakes = math.inf

    def add(self, timer: Timer) -> None:
        with self._changed:
            self._timers.add(timer)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="smg_proto.vllm timeouts", daemon=True
                )
                self._thread.start()
            elif time.monotonic() + timer.shortest < self._wakes:
                self._changed.notify()

    def remove(self, timer: Timer) -> None:
        """Without the lock, since destructors call this, which run at any time in any thread."""
        self._timers.discard(timer)

    def _run(self) -> None:
        while self._look():
            pass

    def _look(self) -> bool:
        """Call late timers, or wait until one can be late. False if there are no timers.

        It does not refer to timers while it waits, since they refer to their calls.
        """
        with self._changed:
            now = time.monotonic()
            # Copies, since destructors remove timers.
            late = [timer for timer in list(self._timers) if timer.until <= now]
            self._timers.difference_update(late)
            if not late:
                # A wait that begins from now on takes at least `shortest` to be late.
                ends = [min(timer.until, now + timer.shortest) for timer in list(self._timers)]
                self._wakes = min(ends, default=now + _LINGER)
                pause = min(self._wakes - now, threading.TIMEOUT_MAX)
                if not self._changed.wait(pause) and not ends and not self._timers:
                    self._thread = None
                    return False
        for timer in late:
            try:
                timer.late()
            except Exception:  # must not affect other timers
                logging.getLogger("smg_proto.vllm").exception("time limit failed")
        return True


_WATCHDOG: Final = _Watchdog()


class AsyncTimer(Timer):
    __slots__ = ("_handle", "_loop")

    def __init__(self, shortest: float, late: Callable[[], None]) -> None:
        super().__init__(shortest, late)
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(self.shortest, self._look)

    def _look(self) -> None:
        if (left := self.left()) <= 0:
            self.late()
        else:
            self._handle = self._loop.call_later(min(left, self.shortest), self._look)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


# Sleeping.


class Pause:
    """A sleep that wake() ends, even before it begins."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def sleep(self, seconds: float) -> None:
        self._woken.wait(seconds)

    def wake(self) -> None:
        self._woken.set()


class AsyncPause:
    def __init__(self) -> None:
        self._woken = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)

    def wake(self) -> None:
        self._woken.set()


# Cancellation. grpc.aio raises CancelledError for a call that the client cancelled, as asyncio does
# for a cancelled task. Sync calls have a status for the former, and the latter does not exist.

Cancelled: tuple[type[BaseException], ...] = ()
AsyncCancelled = asyncio.CancelledError


def cancellations() -> int:
    return 0


def async_cancellations() -> int:
    """How often the current task was cancelled. Always 0 on Python 3.10, which does not count."""
    if sys.version_info < (3, 11):
        return 0
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


class Owner:
    """The event loop that a client belongs to. Sync clients do not have one."""

    def is_current(self) -> bool:
        return True

    def run(self, end: Callable[[], None]) -> None:
        """Call a function in the event loop, from any thread, for destructors."""
        end()


class AsyncOwner:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def is_current(self) -> bool:
        return asyncio.get_running_loop() is self._loop

    def run(self, end: Callable[[], None]) -> None:
        try:
            current = self.is_current()
        except RuntimeError:  # this thread does not have a running loop
            current = False
        if current:
            end()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(end)


# Calls.


class Replies(Protocol):
    """A server stream of a stub, for which grpc does not have a public type."""

    def __iter__(self) -> Iterator[Any]: ...
    def cancel(self) -> object: ...
    def initial_metadata(self) -> Any: ...
    def trailing_metadata(self) -> Any: ...


class AsyncReplies(Protocol):
    def __aiter__(self) -> AsyncIterator[Any]: ...
    def cancel(self) -> object: ...
    async def initial_metadata(self) -> Any: ...
    async def trailing_metadata(self) -> Any: ...


class Single:
    """A unary call as a stream of one message."""

    def __init__(self, future: Any) -> None:
        self._future = future
        self._read = False
        self.add_done_callback = future.add_done_callback
        self.cancel = future.cancel
        self.initial_metadata = future.initial_metadata
        self.trailing_metadata = future.trailing_metadata

    @classmethod
    def of(cls, method: Any) -> "Callable[..., Single]":
        def call(request: Any, **options: Any) -> Single:
            return cls(method.future(request, **options))

        return call

    def __iter__(self) -> "Single":
        return self

    def __next__(self) -> Any:
        if self._read:
            raise StopIteration
        self._read = True
        try:
            return self._future.result()
        except grpc.FutureCancelledError:
            raise self._future from None  # the future is a grpc.RpcError with the status


class AsyncSingle:
    def __init__(self, call: Any) -> None:
        self._call = call
        self._read = False
        self.cancel = call.cancel
        self.initial_metadata = call.initial_metadata
        self.trailing_metadata = call.trailing_metadata

    @classmethod
    def of(cls, method: Any) -> "Callable[..., AsyncSingle]":
        def call(request: Any, **options: Any) -> AsyncSingle:
            return cls(method(request, **options))

        return call

    def __aiter__(self) -> "AsyncSingle":
        return self

    async def __anext__(self) -> Any:
        if self._read:
            raise StopAsyncIteration
        self._read = True
        return await self._call


def connected(channel: Any) -> bool | None:
    """Whether a channel is currently connected. None if unknown.

    Not from channel.subscribe(), whose thread prints an error if the channel is closed meanwhile.
    """
    try:
        while not hasattr(channel, "check_connectivity_state"):
            channel = channel._channel  # inside gRPC's own channel, and those with interceptors
        state: int = channel.check_connectivity_state(False)
        return state == grpc.ChannelConnectivity.READY.value[0]
    except Exception:
        return None


async def async_connected(channel: Any) -> bool | None:
    try:
        return channel.get_state() is grpc.ChannelConnectivity.READY
    except Exception:
        return None


def on_failure(replies: Any, passing: Collection[str], failed: Callable[[], None]) -> None:
    """Call `failed`, in one of gRPC's threads, if a call fails with a status not in `passing`."""

    def check(ended: Any) -> None:
        if ended.code().name not in passing and ended.code() is not grpc.StatusCode.OK:
            failed()

    if replies is not None:
        replies.add_done_callback(check)


def async_on_failure(replies: Any, passing: Collection[str], failed: Callable[[], None]) -> None:
    """Nothing to do, since the task that reads the call notices."""


def resolved(value: Any, seconds: float | None) -> Any:
    """The result of a function of the caller, which cannot be interrupted."""
    return value


async def async_resolved(value: Any, seconds: float | None) -> Any:
    """The result of a function of the caller, awaited if it is awaitable. Late: after `seconds`."""
    if not inspect.isawaitable(value):
        return value
    task = asyncio.ensure_future(value)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
    if task.cancelled() or not task.done():
        raise Late
    return task.result()


def run_blocking(work: Callable[..., T], *arguments: Any) -> T:
    """Call a function that takes long, without blocking the event loop."""
    return work(*arguments)


async def async_run_blocking(work: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.to_thread(work, *arguments)


# Background work.


class Once(Generic[T]):
    """Runs work once, in the background, for all that wait for its result. After a failure, the
    next caller starts it again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run: Future[T] | None = None

    def begin(self, work: Callable[[], T]) -> None:
        """Start the work, unless it is running or done."""
        with self._lock:
            run = self._run
            if run is None or (run.done() and run.exception() is not None):
                self._run = run = Future[T]()
                name = "smg_proto.vllm background"
                threading.Thread(target=_do, args=(run, work), name=name, daemon=True).start()

    def value(self) -> T | None:
        """The result so far, or None."""
        run = self._run
        return run.result() if run is not None and run.done() and not run.exception() else None

    def get(self, work: Callable[[], T], seconds: float | None) -> T:
        """Wait for the result, and raise Late after `seconds`."""
        self.begin(work)
        run = self._run
        assert run is not None
        if not wait([run], seconds).done:
            raise Late
        return run.result()

    def forget(self) -> None:
        """Let the next caller start the work again."""
        self._run = None

    def stop(self) -> None:
        """Nothing to do, since the client's close() ends the calls of the work."""


def _do(run: Future[T], work: Callable[[], T]) -> None:
    try:
        run.set_result(work())
    except BaseException as error:
        run.set_exception(error)


class AsyncOnce(Generic[T]):
    def __init__(self) -> None:
        self._task: asyncio.Task[T] | None = None

    def begin(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        task = self._task
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            self._task = asyncio.get_running_loop().create_task(work())
            self._task.add_done_callback(_retrieve_exception)

    def value(self) -> T | None:
        task = self._task
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    async def get(self, work: Callable[[], Coroutine[Any, Any, T]], seconds: float | None) -> T:
        self.begin(work)
        task = self._task
        assert task is not None
        await asyncio.wait({task}, timeout=seconds)
        if not task.done() or task.cancelled():
            raise Late
        return task.result()

    def forget(self) -> None:
        self._task = None

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _retrieve_exception(task: "asyncio.Task[Any]") -> None:
    """Keep asyncio from logging a failure that nothing waited for."""
    if not task.cancelled():
        task.exception()


def gather(
    count: int,
    begin: Callable[[int], None],
    watch: Callable[[int], None],
    read: Callable[[int], None],
) -> None:
    """Start several calls, up to AT_ONCE at a time, and read each to its end. `watch` makes the
    failure of one end the read of another."""
    begun = 0
    for number in range(count):
        while begun < min(count, number + AT_ONCE):
            begin(begun)
            watch(begun)
            begun += 1
        read(number)


async def async_gather(
    count: int,
    begin: Callable[[int], Awaitable[None]],
    watch: Callable[[int], None],
    read: Callable[[int], Awaitable[None]],
) -> None:
    """The same, with tasks, which do not need `watch`."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:  # shared by all tasks
            await begin(number)
            await read(number)

    tasks = [asyncio.ensure_future(work()) for _ in range(min(count, AT_ONCE))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Merge(Generic[J, T]):
    """The messages of several jobs in the order of their arrival, as pairs of job and message.
    Message None: the job is done. Up to AT_ONCE jobs run at a time, each up to _AHEAD messages
    ahead of the reader."""

    def __init__(self, jobs: Sequence[J], read: Callable[[J], Iterable[T]]) -> None:
        self._left = len(jobs)
        self._read = read
        self._jobs = iter(jobs)
        self._taking = threading.Lock()
        self._closed = False
        # Destructors use both queues, and would block on queues of other types.
        self._found: queue.SimpleQueue[_Found[T]] = queue.SimpleQueue()
        self._credits: list[queue.SimpleQueue[None]] = []
        for number in range(min(len(jobs), AT_ONCE)):
            credit: queue.SimpleQueue[None] = queue.SimpleQueue()
            for _ in range(_AHEAD):
                credit.put(None)
            self._credits.append(credit)
            name = f"smg_proto.vllm prompt {number}"
            threading.Thread(target=self._work, args=(credit,), name=name, daemon=True).start()

    def _work(self, credit: "queue.SimpleQueue[None]") -> None:
        while not self._closed:
            with self._taking:
                job = next(self._jobs, None)
            if job is None:
                return
            error: BaseException | None = None
            try:
                for message in self._read(job):
                    credit.get()
                    if self._closed:
                        return
                    self._found.put((credit, job, message, None))
            except BaseException as failure:
                error = failure
            self._found.put((None, job, None, error))

    def next(self) -> tuple[J, T | None] | None:
        """None if all jobs are done."""
        if not self._left:
            return None
        credit, job, message, error = self._found.get()
        if self._closed:
            raise Ended
        if credit is not None:
            credit.put(None)
            return job, message
        if error is not None:
            raise error
        self._left -= 1
        return job, None

    def close(self) -> None:
        """Stop starting jobs. The caller ends the running calls."""
        self._closed = True
        for credit in self._credits:
            credit.put(None)
        self._found.put((None, None, None, None))  # wakes the reader


_Found = tuple["queue.SimpleQueue[None] | None", Any, "T | None", "BaseException | None"]


class AsyncMerge(Generic[J, T]):
    def __init__(self, jobs: Sequence[J], read: Callable[[J], AsyncIterator[T]]) -> None:
        self._left = len(jobs)
        self._read = read
        self._jobs = iter(jobs)
        workers = min(len(jobs), AT_ONCE)
        self._closed = False
        self._found: asyncio.Queue[tuple[Any, T | None, BaseException | None]]
        self._found = asyncio.Queue(_AHEAD * workers)
        self._tasks = [asyncio.ensure_future(self._work()) for _ in range(workers)]

    async def _work(self) -> None:
        for job in self._jobs:  # shared by all tasks
            error: BaseException | None = None
            try:
                async for message in self._read(job):
                    await self._found.put((job, message, None))
            except asyncio.CancelledError:
                raise
            except BaseException as failure:
                error = failure
            await self._found.put((job, None, error))

    async def next(self) -> tuple[J, T | None] | None:
        if not self._left:
            return None
        job, message, error = await self._found.get()
        if self._closed:
            raise Ended
        if error is not None:
            raise error
        if message is None:
            self._left -= 1
        return job, message

    def close(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        with suppress(asyncio.QueueFull):  # if so, the reader is awake
            self._found.put_nowait((None, None, None))
