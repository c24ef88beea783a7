"""Time limits and ends: one limit over all that a call does, and a close that is never lost."""

import asyncio
import contextlib
import gc
import logging
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from support import async_eventually, eventually
from vllm_kit import NEVER, Both, ScriptedEngine, chunk, complete

from smg_proto import common_pb2
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.testing import Address, FakeVllmEngine, Fault, run_vllm_engine
from smg_proto.vllm import (
    AsyncVLLMGrpcClient,
    Timeout,
    TokenDecoder,
    VLLMGrpcClient,
    VLLMGrpcClosedError,
    VLLMGrpcTimeoutError,
    VLLMGrpcUnavailableError,
    VLLMGrpcValidationError,
)
from smg_proto.vllm._async.call import Limits
from smg_proto.vllm._wait import AsyncOnce, Ended, Merge

Code = grpc.StatusCode


class Clocked(FakeVllmEngine):
    """Notes the time that each call has left, and refuses the first calls of Generate."""

    def __init__(self) -> None:
        super().__init__(profiler=True)
        self.left: list[float | None] = []
        self.refusals = 0

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[Any]:
        self.left.append(context.time_remaining())
        if self.refusals:
            self.refusals -= 1
            await context.abort(Code.UNAVAILABLE, "not now")
        async for message in super().Generate(request, context):
            yield message

    async def StartProfile(self, request: Any, context: Any) -> common_pb2.ProfileResponse:
        self.left.append(context.time_remaining())
        return await super().StartProfile(request, context)

    async def StopProfile(self, request: Any, context: Any) -> common_pb2.ProfileResponse:
        self.left.append(context.time_remaining())
        return await super().StopProfile(request, context)

    async def FlushCache(self, request: Any, context: Any) -> common_pb2.FlushCacheResponse:
        self.left.append(context.time_remaining())
        return await super().FlushCache(request, context)


@pytest.fixture
def clocked() -> Iterator[Address[FakeVllmEngine]]:
    with run_vllm_engine(Clocked()) as address:
        yield address


def seen(address: Address[FakeVllmEngine]) -> list[float | None]:
    assert isinstance(address.servicer, Clocked)
    return address.servicer.left


# One limit over token function, retries and defaults.


@pytest.mark.parametrize("what", ["unary", "create", "stream"])
def test_a_slow_token_function_uses_up_the_limit(
    what: str, both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    def slow() -> str:
        time.sleep(0.4)
        return "t"

    client = both.make(address, token=slow)
    with pytest.raises(VLLMGrpcTimeoutError):
        match what:
            case "unary":
                both.run(client.health.check(timeout=0.2))
            case "create":
                both.create(client, prompt="x", timeout=0.2)
            case _:
                both.final(client, prompt="x", timeout=0.2)
    assert not engine.record.received  # nothing was sent when the time was over


@pytest.mark.parametrize("what", ["unary", "create", "stream", "defaults", "embed"])
async def test_a_token_function_that_hangs_is_limited(
    what: str, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    ended = 0

    async def never() -> str:
        nonlocal ended
        try:
            await asyncio.sleep(3600)
        finally:
            ended += 1
        return "t"

    async with AsyncVLLMGrpcClient(target=address, token=never) as client:
        create = client.completions.create
        with pytest.raises(VLLMGrpcTimeoutError, match="token function"):
            match what:
                case "unary":
                    await client.health.check(timeout=0.2)
                case "create":
                    await create(prompt="x", timeout=0.2)
                case "stream":
                    await create(prompt="x", timeout=0.2, stream=True)
                case "defaults":
                    await create(prompt="x", timeout=0.2, use_model_defaults=True)
                case _:
                    await client.embeddings.create(input=[[1], [2]], timeout=0.2)
    while not ended:  # it has been cancelled, which its own loop must carry out
        await asyncio.sleep(0)
    assert not engine.record.received


async def test_an_error_of_the_token_function_is_its_own(address: Address[FakeVllmEngine]) -> None:
    async def broken() -> str:
        raise asyncio.TimeoutError("mine")

    async with AsyncVLLMGrpcClient(target=address, token=broken) as client:
        with pytest.raises(asyncio.TimeoutError, match="mine"):
            await client.health.check()
        with pytest.raises(asyncio.TimeoutError, match="mine"):
            await client.is_healthy()


def test_the_models_defaults_are_a_part_of_the_call(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    client = both.make(address, decoder=None)
    both.run(client.health.check())
    engine.script.add(Fault(delay=0.6), rpc="GetModelInfo", times=None)
    engine.script.add(Fault(delay=0.6), rpc="Generate", times=None)
    with pytest.raises(VLLMGrpcTimeoutError):
        both.create(client, prompt="x", max_tokens=1, timeout=0.9, use_model_defaults=True)


@pytest.mark.parametrize("stream", [False, True])
def test_retries_share_the_limit(
    stream: bool, both: Both, clocked: Address[FakeVllmEngine]
) -> None:
    client = both.make(clocked, initial_backoff=1.0, max_backoff=1.0)
    assert isinstance(clocked.servicer, Clocked)
    clocked.servicer.refusals = 2
    limit: Any = Timeout(stream=9) if stream else 9  # gRPC rounds longer ones
    assert (both.final if stream else both.create)(client, prompt="x", max_tokens=1, timeout=limit)
    first, _, third = (left or 0.0 for left in seen(clocked))
    assert first <= 9 and third > 0
    assert first - third >= 0.5  # two waits of 0.5 s at least


def test_time_in_create_counts_for_the_first_message(
    both: Both, scripted: ScriptedEngine, scripted_server: Address[FakeVllmEngine]
) -> None:
    """Most of the limit goes into the token, so little is left for the message."""

    def slowly() -> str:
        time.sleep(1.0)
        return "t"

    client = both.make(scripted_server, token=slowly, decoder=None)
    scripted.messages = [chunk(1), complete(1)]
    scripted.pause = lambda number: 0.0 if number else 1.2
    stream = both.stream(client, prompt="x", model="m", timeout=Timeout(first_message=1.3))
    with pytest.raises(VLLMGrpcTimeoutError, match=r"no first message within 1\.3 s"):
        both.each(stream)


def test_waiting_for_headers_is_limited(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(delay=30.0), rpc="Generate", times=None)
    client = both.make(address)
    stream: Any = both.stream(client, prompt="x", timeout=0.3)
    with pytest.raises(VLLMGrpcTimeoutError, match="no first message"):
        both.run(stream.initial_metadata())
    stream = both.stream(client, prompt="x", timeout=Timeout(first_message=0.6))
    with pytest.raises(VLLMGrpcTimeoutError):
        both.run(stream.initial_metadata())
    with pytest.raises(VLLMGrpcTimeoutError):  # which it keeps saying
        both.next(stream)


# Limits of administration.


def test_administration_gets_the_time_it_needs_unless_a_limit_is_set(
    both: Both, clocked: Address[FakeVllmEngine]
) -> None:
    client = both.make(clocked)
    both.run(client.admin.stop_profile())
    both.run(client.admin.flush_cache(timeout_s=100))
    for limited in (both.make(clocked, timeout=7), client.with_options(timeout=7)):
        both.run(limited.admin.stop_profile())
        both.run(limited.admin.flush_cache(timeout_s=100))
    both.run(client.admin.stop_profile(timeout=7))
    both.run(client.admin.stop_profile(timeout=None))
    left = seen(clocked)
    assert 500 < (left[0] or 0) <= 600 and 100 < (left[1] or 0) <= 107
    assert all(0 < (one or 0) < 8 for one in left[2:7])
    assert left[7] is None


def test_a_flush_gets_five_seconds_more_than_the_servers_patience(
    both: Both, clocked: Address[FakeVllmEngine]
) -> None:
    admin, short = both.make(clocked).admin, both.make(clocked, timeout=20).admin

    def limit(call: Any, **given: Any) -> float:
        both.run(call(**given))
        return seen(clocked)[-1] or 0.0

    assert 70 < limit(admin.flush_cache, timeout_s=80) < 85.5
    requests = [one.request for one in clocked.servicer.record.received if one.rpc == "FlushCache"]
    assert requests[-1] == common_pb2.FlushCacheRequest(timeout_s=80)
    assert 45 < limit(admin.flush_cache) < 60.5
    assert 45 < limit(admin.start_profile) < 60.5
    assert 580 < limit(admin.stop_profile) < 602  # gRPC rounds long limits to seconds
    assert 45 < limit(admin.start_profile) < 60.5
    assert 20 < limit(admin.stop_profile, timeout=30) < 30.5
    assert 10 < limit(short.flush_cache, timeout_s=80) < 20.5


def test_the_environments_limit_counts_as_set(
    both: Both, clocked: Address[FakeVllmEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_GRPC_TIMEOUT", "7")
    both.run(both.make(clocked).admin.stop_profile())
    assert 0 < (seen(clocked)[0] or 0) < 8


def test_a_subscription_is_limited_only_if_somebody_says_so(
    both: Both, address: Address[FakeVllmEngine]
) -> None:
    with run_vllm_engine() as idle:
        limited = both.make(idle, timeout=Timeout(first_message=0.3))
        with pytest.raises(VLLMGrpcTimeoutError):
            both.next(both.run(limited.kv_events.subscribe()))
        free = both.run(both.make(idle).kv_events.subscribe())
        assert free._call._timer is None


@pytest.mark.parametrize("huge", [10**400, 1e300, float("inf"), float("nan"), -1, "1", True])
def test_absurd_times_are_refused(huge: Any, both: Both, client: Any) -> None:
    def refused(param: str, what: Any) -> None:
        with pytest.raises(VLLMGrpcValidationError) as caught:
            what()
        assert caught.value.param == param

    refused("timeout", lambda: both.create(client, prompt="x", timeout=huge))
    refused("timeout", lambda: both.stream(client, prompt="x", timeout=huge))
    refused("timeout.idle", lambda: Timeout(idle=huge))
    refused("timeout", lambda: client.with_options(timeout=huge))
    refused("timeout", lambda: both.run(client.wait_for_ready(timeout=huge)))
    refused("poll_interval", lambda: both.run(client.wait_for_ready(poll_interval=huge)))
    refused("timeout_s", lambda: both.run(client.admin.flush_cache(timeout_s=huge)))
    refused("max_backoff", lambda: both.make("x:1", max_backoff=huge))


def test_the_limits_of_others_go_on_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from smg_proto.vllm._wait import Timer

    def fails() -> None:
        raise RuntimeError("a defect")

    struck = threading.Event()
    broken, sound = Timer(0.05, fails), Timer(0.05, struck.set)
    for timer in (broken, sound):
        timer.start()
    broken.until = time.monotonic() + 0.1
    sound.until = time.monotonic() + 0.3
    assert struck.wait(20)
    for timer in (broken, sound):
        timer.stop()


@pytest.mark.parametrize("end", ["read", "close"])
def test_a_stream_that_has_ended_leaves_no_timer(end: str, both: Both, client: Any) -> None:
    """A timer would hold on to its call, and wake up for it again and again."""
    stream: Any = both.stream(client, prompt="x", max_tokens=3, timeout=3600)
    call = weakref.ref(stream._run.first)
    both.run(stream.get_final_completion() if end == "read" else stream.close())
    del stream

    def gone() -> bool:
        gc.collect()
        return call() is None

    both.eventually(gone)


# Ends that are not lost.


class OnRetry(logging.Handler):
    """Does something in the moment in which a retry is decided on."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self._act = act

    def emit(self, record: logging.LogRecord) -> None:
        if "retrying" in record.getMessage():
            self._act()


@pytest.fixture
def on_retry() -> Iterator[Any]:
    logger = logging.getLogger("smg_proto.vllm")
    handlers: list[logging.Handler] = []

    def install(act: Any) -> None:
        handlers.append(OnRetry(act))
        logger.addHandler(handlers[-1])
        logger.setLevel(logging.INFO)

    yield install
    for handler in handlers:
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def generated(engine: FakeVllmEngine) -> int:
    return [r.rpc for r in engine.record.received].count("Generate")


def test_a_close_in_the_moment_of_a_retry_is_kept(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine, on_retry: Any
) -> None:
    engine.script.add(Fault(Code.UNAVAILABLE), rpc="Generate")
    client = both.make(address, initial_backoff=20.0, max_backoff=20.0, timeout=None)
    stream: Any = both.stream(client, prompt="x", max_tokens=2000)

    def close() -> None:
        if both.asynchronous:
            stream.cancel()
            return
        other = threading.Thread(target=stream.close)
        other.start()
        other.join()

    on_retry(close)
    with pytest.raises(VLLMGrpcClosedError):
        both.next(stream)
    assert generated(engine) == 1 and engine.record.counters.running == 0


def test_a_close_while_the_call_is_made_is_kept(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    client = both.make(address, decoder=None)
    both.run(client.models.retrieve())
    engine.token_delay = 3600.0
    connection = client._connection
    make = connection._methods["Generate"]

    def make_and_close(*args: Any, **named: Any) -> Any:
        replies = make(*args, **named)
        if not both.asynchronous:
            both.eventually(lambda: generated(engine) == 1)
        for call in list(connection.calls):
            call.close()  # as another thread might
        return replies

    connection._methods["Generate"] = make_and_close
    stream: Any = both.stream(client, prompt="x")
    both.eventually(lambda: engine.record.counters.running == 0)
    with pytest.raises(VLLMGrpcClosedError):
        both.next(stream)


async def test_a_cancel_while_the_token_is_renewed_is_kept(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(Code.UNAVAILABLE), rpc="Generate")
    renewing, go_on, sent = asyncio.Event(), asyncio.Event(), 0

    async def token() -> str:
        nonlocal sent
        sent += 1
        if sent > 1:
            renewing.set()
            await go_on.wait()
        return "t"

    async with AsyncVLLMGrpcClient(
        target=address, token=token, initial_backoff=0.01, decoder=None
    ) as client:
        stream = await client.completions.create(prompt="x", model="m", stream=True)
        reading = asyncio.ensure_future(stream.__anext__())
        await renewing.wait()
        stream.cancel()
        go_on.set()
        with pytest.raises(VLLMGrpcClosedError):
            await reading
        assert generated(engine) == 1
        with pytest.raises(VLLMGrpcClosedError):
            await stream.__anext__()


@pytest.mark.parametrize("who", ["stream", "client"])
def test_closing_ends_the_wait_for_a_retry(
    who: str, both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine, on_retry: Any
) -> None:
    engine.script.add(Fault(Code.UNAVAILABLE), rpc="Generate", times=None)
    client = both.make(address, initial_backoff=20.0, max_backoff=20.0, timeout=None)
    stream: Any = both.stream(client, prompt="x", max_tokens=2000)
    waiting = threading.Event()
    on_retry(waiting.set)

    async def read_and_close() -> None:
        reading = asyncio.ensure_future(stream.__anext__())
        await async_eventually(waiting.is_set, "a retry is waited for")
        await (stream if who == "stream" else client).close()
        await reading

    def close() -> None:
        waiting.wait(20)
        time.sleep(0.05)
        (stream if who == "stream" else client).close()

    with pytest.raises(VLLMGrpcClosedError):
        if both.asynchronous:
            both.run(read_and_close())
        else:
            threading.Thread(target=close).start()
            both.next(stream)
    assert generated(engine) == 1


def test_closing_a_client_ends_streams_on_a_channel_of_the_callers(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.02
    before = engine.record.counters.cancelled

    async def use_async() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            client = AsyncVLLMGrpcClient(channel=channel)
            stream = await client.completions.create(prompt="x", max_tokens=2000, stream=True)
            await stream.__anext__()
            await client.close()
            while engine.record.counters.cancelled == before:
                await asyncio.sleep(0.01)
            with pytest.raises(VLLMGrpcClosedError, match="client is closed"):
                await stream.__anext__()
            async with AsyncVLLMGrpcClient(channel=channel) as another:
                assert (await another.health.check()).healthy

    if both.asynchronous:
        both.run(use_async())
        return
    with grpc.insecure_channel(address) as channel:
        client = VLLMGrpcClient(channel=channel)
        stream = client.completions.create(prompt="x", max_tokens=2000, stream=True)
        next(stream)
        client.close()
        eventually(lambda: engine.record.counters.cancelled == before + 1)
        with pytest.raises(VLLMGrpcClosedError, match="client is closed"):
            next(stream)
        with VLLMGrpcClient(channel=channel) as another:
            assert another.health.check().healthy


def test_closing_a_client_ends_a_call_that_another_thread_waits_for(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(delay=30.0), rpc="HealthCheck", times=None)
    engine.token_delay = 0.05
    client = VLLMGrpcClient(target=address, timeout=None)
    errors: list[BaseException] = []

    def call(what: Any) -> None:
        try:
            what()
        except BaseException as error:
            errors.append(error)

    calls = [
        client.health.check,
        lambda: client.completions.create(prompt="x", max_tokens=2000),
        lambda: client.completions.create(prompt=["x", "y"], max_tokens=2000),
        lambda: client.completions.create(
            prompt=["x", "y"], max_tokens=2000, stream=True
        ).get_final_completion(),
    ]
    threads = [threading.Thread(target=call, args=(what,)) for what in calls]
    for thread in threads:
        thread.start()
    eventually(lambda: engine.record.counters.running == 5)
    client.close()
    for thread in threads:
        thread.join(20)
    assert [type(error) for error in errors] == [VLLMGrpcClosedError] * 4
    eventually(lambda: engine.record.counters.running == 0)


async def test_a_reader_in_another_task_is_told_of_the_end(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.token_delay = 3600.0
    async with AsyncVLLMGrpcClient(target=address, timeout=None) as client:
        for prompt in ("x", ["x", "y"]):
            stream = await client.completions.create(prompt=prompt, stream=True)
            reading = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(0.1)
            stream.cancel()
            with pytest.raises(VLLMGrpcClosedError):
                await reading
            stream = await client.completions.create(prompt=prompt, stream=True)
            final = asyncio.ensure_future(stream.get_final_completion())
            await asyncio.sleep(0.1)
            stream.cancel()
            assert all(c.finish_reason is None for c in (await final).choices)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count cancellations")
async def test_a_task_that_swallowed_a_cancellation_still_gets_the_timeout(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(delay=30.0), rpc="Generate", times=None)

    async def use() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        async with AsyncVLLMGrpcClient(target=address) as client:
            stream = await client.completions.create(prompt="x", stream=True, timeout=0.2)
            await stream.__anext__()

    task = asyncio.ensure_future(use())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(VLLMGrpcTimeoutError):
        await task


def test_an_async_stream_may_be_dropped_in_any_thread(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.02
    before = engine.record.counters.cancelled

    async def use() -> None:
        async with AsyncVLLMGrpcClient(target=address) as client:
            held = [await client.completions.create(prompt="x", max_tokens=2000, stream=True)]
            await held[0].__anext__()

            def drop() -> None:
                held.clear()
                gc.collect()

            await asyncio.to_thread(drop)
            while engine.record.counters.cancelled == before:
                await asyncio.sleep(0.01)

    asyncio.run(use())


# Errors that stay.


class Breaking:
    """A tokenizer that fails in the middle of a text."""

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
        return [1]

    def decode(self, ids: list[int], /, *, skip_special_tokens: bool = True) -> str:
        if 3 in ids:
            raise RuntimeError("the tokenizer broke")
        return "a" * len(ids)


def test_an_error_of_the_tokenizer_is_not_the_end_of_the_text(
    both: Both, scripted: ScriptedEngine, scripted_server: Address[FakeVllmEngine]
) -> None:
    scripted.messages = [chunk(1), chunk(2), chunk(3), complete(3)]
    client = both.make(scripted_server, decoder=TokenDecoder(Breaking()))
    stream: Any = both.stream(client, prompt=[1])
    with pytest.raises(RuntimeError, match="the tokenizer broke"):
        both.each(stream)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the tokenizer broke"):
            both.run(stream.get_final_completion())
        with pytest.raises(RuntimeError, match="the tokenizer broke"):
            both.next(stream)
    with pytest.raises(RuntimeError, match="the tokenizer broke"):
        both.create(client, prompt=[1])


async def test_a_stream_whose_reader_was_cancelled_says_so(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.05
    async with AsyncVLLMGrpcClient(target=address) as client:
        stream = await client.completions.create(prompt="x", max_tokens=2000, stream=True)
        await stream.__anext__()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(stream.get_final_completion(), 0.2)
        with pytest.raises(VLLMGrpcClosedError):
            await stream.__anext__()


def test_what_fails_for_good_after_a_message_is_not_retryable(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.script.add(Fault(Code.UNAVAILABLE, "Cancelling all calls", after=2), rpc="Generate")
    with pytest.raises(VLLMGrpcUnavailableError) as caught:
        both.final(both.make(address), prompt="x", max_tokens=9)
    assert not caught.value.retryable


def test_a_call_that_cannot_begin_is_forgotten(
    both: Both, address: Address[FakeVllmEngine]
) -> None:
    def token() -> str:
        raise KeyError("no token")

    client = both.make(address, token=token)
    for stream in (False, True):
        with pytest.raises(KeyError):
            both.run(client.completions.create(prompt=[1], stream=stream))
        with pytest.raises(KeyError):
            both.run(client.health.check())
        assert not client._connection.calls


def test_a_limit_that_has_passed_makes_no_call(
    both: Both, client: Any, engine: FakeVllmEngine
) -> None:
    for call in (
        lambda: both.create(client, prompt=[1], timeout=1e-9),
        lambda: both.run(client.health.check(timeout=1e-9)),
    ):
        with pytest.raises(VLLMGrpcTimeoutError) as caught:
            call()
        assert caught.value.message == "the time limit of the call was exceeded before it was made"
        assert caught.value.code == "DEADLINE_EXCEEDED"
    assert not engine.record.received


def test_a_call_that_is_closed_while_it_is_made_is_cancelled(
    both: Both, scripted: ScriptedEngine, scripted_client: Any
) -> None:
    """As another thread may do it at any time."""
    scripted.messages, scripted.pause = [complete(1)], lambda number: NEVER
    connection = scripted_client._connection
    real = connection.method

    def method(*given: Any) -> Any:
        make, request = real(*given)

        def call(*arguments: Any, **options: Any) -> Any:
            replies = make(*arguments, **options)
            for one in list(connection.calls):
                one.close("closed meanwhile")
            return replies

        return call, request

    connection.method = method
    stream: Any = both.stream(scripted_client, prompt=[1], model="m", decoder=None)
    connection.method = real
    replies = stream._run.first._replies
    both.eventually(replies.done)
    assert replies.cancelled() and not connection.calls
    with pytest.raises(VLLMGrpcClosedError, match="closed meanwhile"):
        both.next(stream)


def test_an_interrupted_read_ends_the_call(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt() -> Any:
        raise Interrupt

    async def interrupt_later() -> Any:
        raise Interrupt

    engine.token_delay = 0.02
    before = engine.record.counters.cancelled
    stream: Any = both.stream(both.make(address, decoder=None), prompt=[1], max_tokens=2000)
    both.next(stream)
    call = stream._run.first
    call._next = interrupt_later if both.asynchronous else interrupt
    with pytest.raises(Interrupt):
        both.next(stream)
    assert call.done
    both.eventually(lambda: engine.record.counters.cancelled == before + 1)
    events: Any = both.run(both.make(address).kv_events.subscribe())
    call = events._call  # which nothing else ends
    call._next = interrupt_later if both.asynchronous else interrupt
    with pytest.raises(Interrupt):
        both.next(events)
    assert call.done


def test_a_token_function_may_use_the_time_that_is_left(both: Both, client: Any) -> None:
    caller = client.with_options(token=lambda: "t")._caller
    call = caller.call("HealthCheck", pb.HealthCheckRequest(), caller.options, Limits())
    found = both.run(call._with_token((), time.monotonic() + 0.9))
    assert found == (("authorization", "Bearer t"),)


async def test_a_task_that_is_cancelled_between_two_tries_is_cancelled(
    address: Address[FakeVllmEngine],
) -> None:
    address.servicer.script.add(Fault(Code.UNAVAILABLE), rpc="Generate", times=None)
    async with AsyncVLLMGrpcClient(
        target=address, initial_backoff=30.0, max_backoff=30.0, timeout=None, decoder=None
    ) as client:
        calls: Any = client._connection.calls
        task = asyncio.ensure_future(client.completions.create(prompt=[1]))
        await async_eventually(lambda: any(call._pause is not None for call in calls))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled() and not calls
        address.servicer.script.add(Fault(Code.UNAVAILABLE), rpc="SubscribeKvEvents", times=None)
        events: Any = await client.kv_events.subscribe()
        reader = asyncio.ensure_future(anext(events))
        await async_eventually(lambda: events._call._pause is not None)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert not calls


def test_a_stream_of_a_client_that_is_closed_names_its_request(
    both: Both, address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.02
    client = both.make(address, decoder=None)
    stream: Any = both.stream(client, prompt=[1], max_tokens=2000, request_id="mine")
    both.next(stream)
    both.run(client.close())
    with pytest.raises(VLLMGrpcClosedError, match="the client is closed") as caught:
        for _ in range(2000):
            both.next(stream)
    assert caught.value.request_id == "mine"


async def test_a_task_that_waits_for_headers_can_be_cancelled(
    address: Address[FakeVllmEngine],
) -> None:
    address.servicer.script.add(Fault(delay=30.0), rpc="Generate", times=None)
    async with AsyncVLLMGrpcClient(target=address, decoder=None) as client:
        stream = await client.completions.create(prompt=[1], stream=True)
        task = asyncio.ensure_future(stream.initial_metadata())
        await async_eventually(lambda: address.servicer.record.received)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        again = asyncio.ensure_future(stream.initial_metadata())
        await asyncio.sleep(0)
        stream.cancel("enough")
        with pytest.raises(VLLMGrpcClosedError, match="enough"):
            await again


def test_a_client_that_is_closed_ends_calls_of_several_prompts(
    address: Address[FakeVllmEngine], engine: FakeVllmEngine
) -> None:
    engine.token_delay = 0.05
    client = VLLMGrpcClient(target=address, decoder=None)
    prompts = [[1], [2], [3]]

    def close() -> None:
        eventually(lambda: engine.record.counters.running == len(prompts))
        client.close()

    closer = threading.Thread(target=close)
    closer.start()
    try:
        with pytest.raises(VLLMGrpcClosedError, match="the client is closed"):
            client.completions.create(prompt=prompts, max_tokens=2000)
    finally:
        closer.join()


def test_a_prompt_that_cannot_start_ends_those_that_have(both: Both) -> None:
    engine = FakeVllmEngine(token_delay=0.5)
    counters, begun = engine.record.counters, list[str]()

    def token() -> str:
        begun.append("")
        if len(begun) > 1:
            both.eventually(lambda: counters.running == 1)
            raise RuntimeError("no token")
        return "secret"

    async def slow() -> str:
        begun.append("")
        if len(begun) > 1:
            await async_eventually(lambda: counters.running == 1)
            raise RuntimeError("no token")
        return "secret"

    with run_vllm_engine(engine) as address:
        client = both.make(address, decoder=None, token=slow if both.asynchronous else token)
        with pytest.raises(RuntimeError, match="no token") as caught:
            both.create(client, prompt=[[1], [2]], max_tokens=2000)
        both.eventually(lambda: counters.cancelled + counters.aborted == 1)
        assert caught.value  # the traceback holds the calls until here
        both.run(client.close())


async def test_a_reader_of_several_prompts_learns_that_they_were_closed(
    address: Address[FakeVllmEngine],
) -> None:
    address.servicer.script.add(Fault(delay=30.0), rpc="Generate", times=None)
    async with AsyncVLLMGrpcClient(target=address, decoder=None) as client:
        stream = await client.completions.create(prompt=[[1], [2]], stream=True)
        reader = asyncio.ensure_future(anext(stream))
        received = address.servicer.record.received
        await async_eventually(lambda: [one.rpc for one in received].count("Generate") == 2)
        stream.cancel("enough")
        with pytest.raises(VLLMGrpcClosedError, match="enough"):
            await reader


def test_a_thread_that_reads_several_prompts_learns_that_they_were_closed(
    address: Address[FakeVllmEngine],
) -> None:
    address.servicer.script.add(Fault(delay=30.0), rpc="Generate", times=None)
    received = address.servicer.record.received
    with VLLMGrpcClient(target=address, decoder=None) as client:
        stream = client.completions.create(prompt=[[1], [2]], stream=True)

        def close() -> None:
            eventually(lambda: [one.rpc for one in received].count("Generate") == 2)
            stream.cancel("enough")

        closer = threading.Thread(target=close)
        closer.start()
        with pytest.raises(VLLMGrpcClosedError, match="enough"):
            next(stream)
        closer.join()


@pytest.mark.parametrize("stopped", [False, True])
async def test_background_work_that_nobody_waits_for_ends_quietly(stopped: bool) -> None:
    told: list[Any] = []
    ended: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def work() -> str:
        try:
            await asyncio.sleep(NEVER if stopped else 0)
            raise RuntimeError("mine")
        finally:
            ended.append("ended")

    once = AsyncOnce[str]()
    once.begin(work)
    await asyncio.sleep(0)
    if stopped:
        once.stop()
    await async_eventually(lambda: ended)
    del once
    await asyncio.sleep(0)
    gc.collect()
    assert not told


def test_a_merge_that_was_closed_ends_threads_that_wait_for_its_reader() -> None:
    ended: list[int] = []
    read: list[int] = []

    def endless(job: int) -> Iterator[int]:
        try:
            while True:
                read.append(job)
                yield job
        finally:
            ended.append(job)

    merge: Merge[int, int] = Merge([1, 2], endless)
    eventually(lambda: len(read) == 18)  # eight each, and one that waits
    assert not ended
    merge.close()
    eventually(lambda: sorted(ended) == [1, 2])
    assert len(read) == 18


def test_a_merge_that_was_closed_ends_its_reader() -> None:
    gate = threading.Event()

    def read(job: int) -> Iterator[int]:
        gate.wait(20)
        yield job

    merge = Merge([0, 1], read)
    merge.close()
    with pytest.raises(Ended):
        merge.next()
    gate.set()
