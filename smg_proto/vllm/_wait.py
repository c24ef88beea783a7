"""What sync and async code must do differently, in pairs: `X` and `AsyncX`, `x` and `async_x`.

The clients are written once, for asyncio, and the sync ones are generated from that. All that
waits, sleeps, or goes on in the background is here.
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
_LINGER: Final = 0.5  # seconds without streams after which the watching thread ends
_CONNECTIVITY_WAIT: Final = 0.5  # seconds for asking a channel of this process for its state


class Late(Exception):
    """What was waited for has not come in time."""


class Ended(Exception):
    """What was waited for will not come: this side has ended it."""


# Time limits for waits.
#
# gRPC's deadline is for a whole call. A stream must be ended when a message is late, however long
# it has been running; since a blocked read can be ended by cancelling the call only, somebody else
# has to look at the clock: a thread for all sync streams, a timer of the event loop for each async
# one. Neither is set anew for each message: a message costs one assignment.


class Timer:
    """Calls `late` when a wait takes too long. `shortest` is the shortest limit of a wait."""

    __slots__ = ("late", "shortest", "until")

    def __init__(self, shortest: float, late: Callable[[], None]) -> None:
        self.shortest = shortest
        self.late = late
        self.until: float = math.inf
        """When the present wait is too long, by time.monotonic(). To be set with each wait."""

    def start(self) -> None:
        """Waits may begin."""
        _WATCHDOG.add(self)

    def left(self) -> float:
        return self.until - time.monotonic()

    def stop(self) -> None:
        """No wait will follow."""
        _WATCHDOG.remove(self)


class _Watchdog:
    """One thread for the timers of all sync streams, and none when there are none."""

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
        """Without the lock: destructors call this, and they run at any moment in any thread."""
        self._timers.discard(timer)

    def _run(self) -> None:
        while self._look():
            pass

    def _look(self) -> bool:
        """End what is late, or wait until something may be. False: there are no timers.

        While it waits, it holds none of them: they hold their calls.
        """
        with self._changed:
            now = time.monotonic()
            # Copies: destructors take timers out.
            late = [timer for timer in list(self._timers) if timer.until <= now]
            self._timers.difference_update(late)
            if not late:
                # A wait that begins after this moment cannot end before `shortest` is over.
                ends = [min(timer.until, now + timer.shortest) for timer in list(self._timers)]
                self._wakes = min(ends, default=now + _LINGER)
                pause = min(self._wakes - now, threading.TIMEOUT_MAX)
                if not self._changed.wait(pause) and not ends and not self._timers:
                    self._thread = None
                    return False
        for timer in late:
            try:
                timer.late()
            except Exception:  # the others' limits must go on
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
    """A sleep that wake() ends, also one that has not begun yet."""

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


# Cancellation. grpc.aio raises CancelledError for a call that this side has cancelled, as asyncio
# does for a task that is cancelled. Sync calls have a status for the one, nothing for the other.

Cancelled: tuple[type[BaseException], ...] = ()
AsyncCancelled = asyncio.CancelledError


def cancellations() -> int:
    return 0


def async_cancellations() -> int:
    """How often the present task has been told to end. Python 3.10 does not count it: always 0."""
    if sys.version_info < (3, 11):
        return 0
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


class Home:
    """Where a client belongs. Sync ones belong to nobody."""

    def is_here(self) -> bool:
        return True

    def run(self, end: Callable[[], None]) -> None:
        """Call a function where it may be called, from wherever a destructor runs."""
        end()


class AsyncHome:
    """The event loop that a client belongs to."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def is_here(self) -> bool:
        return asyncio.get_running_loop() is self._loop

    def run(self, end: Callable[[], None]) -> None:
        try:
            here = self.is_here()
        except RuntimeError:  # no loop runs in this thread
            here = False
        if here:
            end()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(end)


# Calls.


class Replies(Protocol):
    """What a stub returns for a server stream; gRPC has no public type for it."""

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
            raise self._future from None  # it is a grpc.RpcError with the status


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
    """Whether a channel is connected at this moment; None: it does not say."""
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    try:
        channel.subscribe(told.put)  # calls with the present state first
        try:
            return told.get(timeout=_CONNECTIVITY_WAIT) is grpc.ChannelConnectivity.READY
        finally:
            channel.unsubscribe(told.put)
    except Exception:
        return None


async def async_connected(channel: Any) -> bool | None:
    try:
        return channel.get_state() is grpc.ChannelConnectivity.READY
    except Exception:
        return None


def on_failure(replies: Any, passing: Collection[str], failed: Callable[[], None]) -> None:
    """Have a function called, in a thread of gRPC's, if a call fails otherwise than passing."""

    def look(ended: Any) -> None:
        if ended.code().name not in passing and ended.code() is not grpc.StatusCode.OK:
            failed()

    if replies is not None:
        replies.add_done_callback(look)


def async_on_failure(replies: Any, passing: Collection[str], failed: Callable[[], None]) -> None:
    """Not needed: the task that reads the call finds out."""


def answer(value: Any, seconds: float | None) -> Any:
    """What a function of the caller's has returned. Sync ones cannot be interrupted."""
    return value


async def async_answer(value: Any, seconds: float | None) -> Any:
    """The same, awaited if need be, for so long at most: else Late."""
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


def aside(work: Callable[..., T], *arguments: Any) -> T:
    """Do work that takes a while."""
    return work(*arguments)


async def async_aside(work: Callable[..., T], *arguments: Any) -> T:
    """Do work that takes a while, beside the event loop."""
    return await asyncio.to_thread(work, *arguments)


# Work in the background.


class Once(Generic[T]):
    """Something that is done once, in the background, for all who wait for it. After a failure it
    is begun again by the next who asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run: Future[T] | None = None

    def begin(self, work: Callable[[], T]) -> None:
        """Begin, unless it is under way or done."""
        with self._lock:
            run = self._run
            if run is None or (run.done() and run.exception() is not None):
                self._run = run = Future[T]()
                name = "smg_proto.vllm background"
                threading.Thread(target=_do, args=(run, work), name=name, daemon=True).start()

    def value(self) -> T | None:
        """The result, if it is there."""
        run = self._run
        return run.result() if run is not None and run.done() and not run.exception() else None

    def get(self, work: Callable[[], T], seconds: float | None) -> T:
        """Wait for the result. Late: it has not come in time."""
        self.begin(work)
        run = self._run
        assert run is not None
        if not wait([run], seconds).done:
            raise Late
        return run.result()

    def forget(self) -> None:
        """Let the next who asks begin anew."""
        self._run = None

    def stop(self) -> None:
        """Nobody will ask any more. Calls that it makes are ended by the client's close()."""


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
            self._task.add_done_callback(_look_at)

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


def _look_at(task: "asyncio.Task[Any]") -> None:
    """Take notice of a failure: whoever waits gets it, and it is no fault if nobody does."""
    if not task.cancelled():
        task.exception()


def gather(
    count: int,
    begin: Callable[[int], None],
    watch: Callable[[int], None],
    read: Callable[[int], None],
) -> None:
    """Begin several calls and read each to its end, some at a time. `watch` sees to it that the
    failure of one ends the read of another."""
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
    """The same with a task for each: nobody has to watch."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:  # shared by all
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
    """The messages of several calls in the order in which they come, as pairs of job and message;
    message None: that job is done. Some calls at a time, each a little ahead of the reader at most.
    """

    def __init__(self, jobs: Sequence[J], read: Callable[[J], Iterable[T]]) -> None:
        self._left = len(jobs)
        self._read = read
        self._jobs = iter(jobs)
        self._taking = threading.Lock()
        self._closed = False
        # Both kinds of queue may be used by destructors, which other kinds would block.
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
        """None: all have ended."""
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
        """Stop taking up jobs. The caller ends the calls that run."""
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
        for job in self._jobs:  # shared by all
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
        with suppress(asyncio.QueueFull):  # then the reader is awake
            self._found.put_nowait((None, None, None))
