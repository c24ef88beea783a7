"""LLMService over its backends, in a `grpc.server` and in a `grpc.aio.server`."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support import async_eventually, eventually, run, unhandled_signals_fail

from smg_proto import llm_pb2, llm_pb2_grpc
from smg_proto.errors import FieldViolation, SmgError, from_rpc_error
from smg_proto.llm import (
    AdapterConfig,
    Failover,
    FunctionBackend,
    LLMGRPCAdapter,
    LLMService,
    OpenAIBackend,
    Piece,
    SyncLLMService,
    VLLMBackend,
)
from smg_proto.testing import Answer, FakeVllmEngine, Fault, run_vllm_engine
from smg_proto.vllm import AsyncVLLMGrpcClient

SECRET = "sesame"


@contextmanager
def sync_server(
    backend: Any = None, kind: type[SyncLLMService] = SyncLLMService, **options: Any
) -> Iterator[grpc.Channel]:
    service = kind(backend, **options)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    llm_pb2_grpc.add_LLMServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        server.stop(0).wait()
        service.close()


@contextmanager
def aio_server(backend: Any = None, **options: Any) -> Iterator[grpc.Channel]:
    config = AdapterConfig(backend=backend, host="127.0.0.1", port=0, grace=0, **options)
    with LLMGRPCAdapter(config) as adapter, grpc.insecure_channel(adapter.address) as channel:
        yield channel


@pytest.fixture(params=[sync_server, aio_server], ids=["grpc.server", "grpc.aio.server"])
def serving(request: pytest.FixtureRequest) -> Any:
    """Either server: a context manager that takes a backend."""
    return request.param


def ask(channel: grpc.Channel, prompt: str = "a", **fields: Any) -> list[llm_pb2.GenerateResponse]:
    request = llm_pb2.GenerateRequest(prompt=prompt, **fields)
    return list(llm_pb2_grpc.LLMServiceStub(channel).Generate(request, timeout=20))


def fails(channel: grpc.Channel, prompt: str = "a", **fields: Any) -> SmgError:
    with pytest.raises(grpc.RpcError) as caught:
        ask(channel, prompt, **fields)
    return from_rpc_error(caught.value)


def text(replies: list[llm_pb2.GenerateResponse]) -> str:
    return "".join(reply.token for reply in replies)


async def test_the_documented_code_serves_in_an_aio_server() -> None:
    server = grpc.aio.server()
    llm_pb2_grpc.add_LLMServiceServicer_to_server(LLMService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = llm_pb2_grpc.LLMServiceStub(channel).Generate(
            llm_pb2.GenerateRequest(prompt="Hello, world!"), timeout=20
        )
        assert "".join([reply.token async for reply in call]) == "Hello, world!"
        with pytest.raises(grpc.aio.AioRpcError, match="prompt: is required"):
            await llm_pb2_grpc.LLMServiceStub(channel).Generate(llm_pb2.GenerateRequest()).read()
    await server.stop(None)


def test_the_error_for_the_wrong_kind_of_server_names_the_right_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def logged() -> list[str]:  # besides what gRPC logs when it is stopped early
        ours = [record for record in caplog.records if record.name == "smg_proto.llm"]
        return [record.getMessage() for record in ours]

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    llm_pb2_grpc.add_LLMServiceServicer_to_server(LLMService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        failure = fails(channel)
    server.stop(0).wait()
    assert failure.code is grpc.StatusCode.UNIMPLEMENTED
    assert failure.message == "LLMService is for grpc.aio.server; use SyncLLMService here"
    assert logged() == [failure.message]
    caplog.clear()

    async def in_aio() -> SmgError:
        server = grpc.aio.server()
        llm_pb2_grpc.add_LLMServiceServicer_to_server(SyncLLMService(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                return await asyncio.to_thread(fails, channel)
        finally:
            await server.stop(None)

    failure = asyncio.run(in_aio())
    assert failure.code is grpc.StatusCode.UNIMPLEMENTED
    assert failure.message == "SyncLLMService is for grpc.server; use LLMService here"
    assert logged() == [failure.message]


def test_a_subclass_may_override_generate() -> None:
    class Twice(LLMService):
        async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
            async for reply in super().Generate(request, context):
                yield reply
                yield reply

    async def serve() -> str:
        server = grpc.aio.server()
        llm_pb2_grpc.add_LLMServiceServicer_to_server(Twice(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                return text(await asyncio.to_thread(ask, channel, "a b"))
        finally:
            await server.stop(None)

    assert asyncio.run(serve()) == "aa b b"


def test_the_echo_backend_counts_tokens_and_stops(serving: Any) -> None:
    with serving() as channel:
        replies = ask(channel, "one two three four")
        assert [reply.token for reply in replies[:-1]] == ["one", " two", " three", " four"]
        end = replies[-1]
        assert (end.finish_reason, end.prompt_tokens, end.completion_tokens) == ("stop", 4, 4)
        assert not any(reply.HasField("finish_reason") for reply in replies[:-1])
        short = ask(channel, "one two three four", max_tokens=2)
        assert (text(short), short[-1].finish_reason) == ("one two", "length")
        assert text(ask(channel, "one two three four", stop=["re", "x"])) == "one two th"
        assert text(ask(channel, "one two", stop=["one"])) == ""
        assert text(ask(channel, "a bb", stop=["b"])) == "a "
        first, _ = ask(channel, "one two three", stop=[" two"])  # and the end
        assert first.token == "one"


def test_a_long_reply_is_complete(serving: Any) -> None:
    words = [f" {number}" for number in range(200)]

    async def count(prompt: str) -> AsyncIterator[str]:
        for word in words:
            yield word

    with serving(count) as channel:
        assert [reply.token for reply in ask(channel)] == words


def test_invalid_requests_are_rejected_with_the_field(serving: Any) -> None:
    with serving() as channel:
        for field, fields in (
            ("prompt", {"prompt": ""}),
            ("max_tokens", {"max_tokens": 0}),
            ("temperature", {"temperature": 3.0}),
            ("top_p", {"top_p": 0.0}),
            ("top_p", {"top_p": 1.5}),
            ("stop", {"stop": [""]}),
        ):
            failure = fails(channel, **fields)
            assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
            assert [found.field for found in failure.field_violations] == [field]
    with serving(allow_empty_prompt=True) as channel:
        assert text(ask(channel, "")) == ""


def test_any_async_function_is_a_backend(serving: Any) -> None:
    async def shout(prompt: str, stop: list[str] | None = None) -> AsyncIterator[str | Piece]:
        for word in prompt.split():
            yield word.upper()
        yield Piece("!", "stop", 1, 2)

    with serving(shout) as channel:
        replies = ask(channel, "a b", stop=["x"], model="m", request_id="r")
        assert [reply.token for reply in replies] == ["A", "B", "!"]
        assert replies[-1].completion_tokens == 2
        failure = fails(channel, "a", temperature=1.0)
        (found,) = failure.field_violations
        assert found == FieldViolation("temperature", "is not supported by this backend")


def test_a_function_gets_the_fields_that_it_has_parameters_for(serving: Any) -> None:
    fields: dict[str, Any] = {
        "max_tokens": 4, "temperature": 0.5, "top_p": 0.25, "stop": ["x", "y"], "seed": 11,
        "model": "m", "request_id": "r-1",
    }  # fmt: skip
    got: list[dict[str, Any]] = []

    async def every(prompt: str, **arguments: Any) -> AsyncIterator[str]:
        got.append(arguments)
        yield prompt

    async def some(prompt: str, seed: int = 0, stop: Any = ()) -> AsyncIterator[str]:
        got.append({"seed": seed, "stop": stop})
        yield prompt

    with serving(every) as channel:
        assert text(ask(channel, "a", **fields)) == "a"
    with serving(some) as channel:
        assert text(ask(channel, "a", seed=11, stop=["x", "y"], model="m")) == "a"
    assert got == [fields, {"seed": 11, "stop": ["x", "y"]}]


class Pieces:
    """An iterator that a function may return, with or without a way to close it."""

    def __init__(self) -> None:
        self.words = ["a", "b"]

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> str:
        if not self.words:
            raise StopAsyncIteration
        return self.words.pop(0)


class ClosingPieces(Pieces):
    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("pieces", [Pieces, ClosingPieces])
def test_what_a_function_returns_is_closed_if_it_can_be(pieces: type[Pieces], serving: Any) -> None:
    made = pieces()
    with serving(lambda prompt: made) as channel:
        assert text(ask(channel)) == "ab"
    assert getattr(made, "closed", 1) == 1


def test_a_failure_has_its_status_and_no_text_of_the_backend(
    serving: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(prompt: str) -> AsyncIterator[str]:
        yield "some"
        if prompt == "typed":
            raise SmgError(grpc.StatusCode.UNAVAILABLE, SECRET, reason="QUEUE_TIMEOUT")
        raise RuntimeError(f"{SECRET} {prompt}")

    with caplog.at_level(logging.DEBUG), serving(broken) as channel:
        failure = fails(channel, "secret prompt")
        assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "WORKER_ERROR")
        typed = fails(channel, "typed")
        assert (typed.code, typed.reason) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_TIMEOUT")
    for reported in (str(failure), str(typed), caplog.text):
        assert SECRET not in reported and "secret prompt" not in reported
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("INVALID_ARGUMENT", "the backend rejects the request"),
        ("NOT_FOUND", "the backend does not have this model"),
        ("UNAUTHENTICATED", "the backend requires another key"),
        ("PERMISSION_DENIED", "the backend does not permit the request"),
        ("RESOURCE_EXHAUSTED", "the backend is full; try again later"),
        ("DEADLINE_EXCEEDED", "the backend did not reply in time"),
        ("UNAVAILABLE", "the backend cannot be reached"),
        ("UNIMPLEMENTED", "the backend does not support the request"),
        ("DATA_LOSS", "the backend failed"),
    ],
)
def test_the_message_follows_from_the_status(code: str, message: str) -> None:
    async def broken(prompt: str) -> AsyncIterator[str]:
        raise SmgError(grpc.StatusCode[code], SECRET)
        yield

    with aio_server(broken) as channel:
        assert fails(channel).message == message


@pytest.mark.parametrize(
    ("reason", "metadata"),
    [("INVALID_REQUEST", {"http_status": "400"}), ("CONTEXT_LENGTH_EXCEEDED", {})],
)
def test_fields_that_another_server_rejects_have_no_text_of_it(
    reason: str, metadata: dict[str, str]
) -> None:
    async def broken(prompt: str) -> AsyncIterator[str]:
        code, fields = grpc.StatusCode.INVALID_ARGUMENT, [FieldViolation("prompt", SECRET)]
        raise SmgError(code, "no", reason, metadata=metadata, field_violations=fields)
        yield

    with aio_server(broken) as channel:
        failure = fails(channel)
    assert failure.reason == reason
    assert failure.field_violations == (FieldViolation("prompt", "the backend rejects it"),)


@pytest.mark.parametrize("how", ["cancel", "deadline", "client gone"])
def test_a_caller_that_disconnects_stops_the_backend(serving: Any, how: str) -> None:
    stopped = threading.Event()

    async def silent(prompt: str) -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.sleep(60)
        finally:
            stopped.set()

    with serving(silent) as channel:
        request = llm_pb2.GenerateRequest(prompt="a")
        timeout = 0.5 if how == "deadline" else 30
        replies = llm_pb2_grpc.LLMServiceStub(channel).Generate(request, timeout=timeout)
        assert next(replies).token == "first"
        if how == "cancel":
            replies.cancel()
        elif how == "client gone":
            channel.close()
        assert stopped.wait(5)


def test_a_slow_reader_holds_the_backend_back(serving: Any) -> None:
    made = 0

    async def endless(prompt: str) -> AsyncIterator[str]:
        nonlocal made
        while True:
            made += 1
            yield "x" * 10_000

    with serving(endless) as channel:
        replies = llm_pb2_grpc.LLMServiceStub(channel).Generate(
            llm_pb2.GenerateRequest(prompt="a"), timeout=30
        )
        next(replies)
        seen = -1
        while seen != made:  # until it stands still
            seen = made
            threading.Event().wait(0.3)
        assert made < 5_000
        replies.cancel()


def test_failover_happens_only_before_the_first_piece(serving: Any) -> None:
    def backend(name: str, *, before: bool, code: grpc.StatusCode) -> FunctionBackend:
        async def run(prompt: str) -> AsyncIterator[str]:
            if not before:
                yield name
            raise SmgError(code, "no")

        return FunctionBackend(run)

    async def good(prompt: str) -> AsyncIterator[str]:
        yield "good"

    away, bad = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT
    last = FunctionBackend(good)
    with serving(Failover(backend("a", before=True, code=away), last)) as channel:
        assert text(ask(channel)) == "good"
    with serving(Failover(backend("a", before=False, code=away), last)) as channel:
        assert fails(channel).code is away
    with serving(Failover(backend("a", before=True, code=bad), last)) as channel:
        assert fails(channel).code is bad


def test_the_retry_delay_reaches_the_caller(serving: Any) -> None:
    async def full(prompt: str) -> AsyncIterator[str]:
        yield ""
        wait = timedelta(seconds=7)
        raise SmgError(grpc.StatusCode.RESOURCE_EXHAUSTED, "no", retry_after=wait)

    with serving(full) as channel:
        assert fails(channel).retry_after == timedelta(seconds=7)


def test_failover_closes_all_its_backends_even_if_one_fails() -> None:
    closed = []

    class Held(FunctionBackend):
        def __init__(self, name: str) -> None:
            self.name = name

        async def aclose(self) -> None:
            closed.append(self.name)
            if self.name == "a":
                raise OSError

    with pytest.raises(OSError):
        asyncio.run(Failover(Held("a"), Held("b")).aclose())
    assert sorted(closed) == ["a", "b"]


def test_failover_needs_a_backend() -> None:
    with pytest.raises(ValueError, match="at least one backend"):
        Failover()


# --- The end of a service in a grpc.server ---


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name == "smg-proto-llm"}


class Silent:
    """A backend that says one word and then nothing."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def generate(self, request: llm_pb2.GenerateRequest) -> AsyncGenerator[Piece, None]:
        try:
            yield Piece("first")
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)  # takes its time
            self.events.append("stopped")

    async def aclose(self) -> None:
        self.events.append("closed")


def test_close_releases_callers_and_leaves_no_thread() -> None:
    backend = Silent()
    service = SyncLLMService(backend)
    pool = futures.ThreadPoolExecutor(max_workers=4)
    server = grpc.server(pool)
    llm_pb2_grpc.add_LLMServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = llm_pb2_grpc.LLMServiceStub(channel)
        calls = [stub.Generate(llm_pb2.GenerateRequest(prompt="a"), timeout=60) for _ in range(3)]
        for call in calls:
            assert next(call).token == "first"
        service.close()
        assert backend.events == ["stopped"] * 3 + ["closed"]
        assert threads() == set()
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            failure = from_rpc_error(caught.value)
            assert str(failure) == "UNAVAILABLE (WORKER_ERROR): the service is closed"
        assert fails(channel).message == "the service is closed"
        service.close()  # once more does no harm
    server.stop(0).wait()
    pool.shutdown(wait=True)  # no thread of the server hangs in a call


def test_a_stopped_server_leaves_no_thread_in_a_call() -> None:
    backend = Silent()
    service = SyncLLMService(backend)
    pool = futures.ThreadPoolExecutor(max_workers=4)
    server = grpc.server(pool)
    llm_pb2_grpc.add_LLMServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = llm_pb2.GenerateRequest(prompt="a")
        replies = llm_pb2_grpc.LLMServiceStub(channel).Generate(request, timeout=60)
        assert next(replies).token == "first"
        server.stop(0).wait()
    pool.shutdown(wait=True)
    service.close()
    assert backend.events == ["stopped", "closed"]


def test_a_call_that_is_cancelled_before_its_backend_starts_ends() -> None:
    reached, ended = threading.Event(), threading.Event()

    class Late(SyncLLMService):
        def Generate(self, request: Any, context: Any) -> Iterator[Any]:
            reached.set()
            eventually(lambda: not context.is_active())
            try:
                yield from super().Generate(request, context)
            finally:
                ended.set()

    async def silent(prompt: str) -> AsyncIterator[str]:
        await asyncio.sleep(3600)
        yield ""

    with sync_server(silent, kind=Late) as channel:
        request = llm_pb2.GenerateRequest(prompt="a")
        replies = llm_pb2_grpc.LLMServiceStub(channel).Generate(request, timeout=60)
        assert reached.wait(20)
        replies.cancel()
        assert ended.wait(5)


def test_a_subclass_that_closes_the_replies_stops_the_backend() -> None:
    stopped = threading.Event()

    async def silent(prompt: str) -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    class First(SyncLLMService):
        def Generate(self, request: Any, context: Any) -> Iterator[Any]:
            replies: Any = super().Generate(request, context)
            yield next(replies)
            replies.close()
            yield llm_pb2.GenerateResponse(token=f" stopped: {stopped.wait(5)}")

    with sync_server(silent, kind=First) as channel:
        assert text(ask(channel)) == "first stopped: True"


def test_the_service_keeps_nothing_of_a_finished_call() -> None:
    tasks: list[weakref.ref[Any]] = []

    async def noted(prompt: str) -> AsyncIterator[str]:
        task: Any = asyncio.current_task()
        tasks.append(weakref.ref(task))
        yield "a"

    with sync_server(noted) as channel:
        ask(channel)
        eventually(lambda: tasks[0]() is None or gc.collect() < 0, seconds=5)


def test_a_service_without_a_call_starts_no_thread() -> None:
    before = threads()
    service = SyncLLMService()
    assert threads() == before
    service.close()


# --- A vLLM engine behind it ---


@pytest.mark.parametrize(
    ("backend", "module"),
    [(OpenAIBackend, "smg_proto._http.upstream"), (VLLMBackend, "smg_proto.vllm")],
)
def test_a_backend_without_its_extra_fails_at_once(
    backend: Callable[[str], object], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=module):
        backend("http://127.0.0.1:1")


def test_a_vllm_engine_is_a_backend(serving: Any) -> None:
    engine = FakeVllmEngine()
    with run_vllm_engine(engine) as address, serving(VLLMBackend(str(address))) as channel:
        engine.script.add(Answer(text="One, two, three, four."))
        replies = ask(channel, "Count.", stop=["four"])
        assert text(replies) == "One, two, three, "
        assert replies[-1].finish_reason == "stop"
        assert replies[-1].prompt_tokens > 0
        assert ask(channel, "Count.", max_tokens=3)[-1].completion_tokens == 3
        engine.script.add(Fault(grpc.StatusCode.INTERNAL, details=SECRET, after=2))
        failure = fails(channel, "Count.")
        assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "WORKER_ERROR")
        assert SECRET not in str(failure)


def test_an_engine_gets_the_callers_parameters(serving: Any) -> None:
    engine = FakeVllmEngine()
    with (
        run_vllm_engine(engine) as address,
        serving(VLLMBackend(str(address), token=SECRET)) as channel,
    ):
        ask(channel, "a", max_tokens=4, temperature=0.5, top_p=0.25, seed=11, request_id="r-1")
        (seen,) = [received for received in engine.record.received if received.rpc == "Generate"]
        assert dict(seen.metadata)["authorization"] == f"Bearer {SECRET}"
        sent: Any = seen.request
        sampling = sent.sampling_params
        assert (sampling.max_tokens, sampling.seed) == (4, 11)
        assert (sampling.temperature, sampling.top_p) == (0.5, 0.25)
        assert sent.request_id.startswith("r-1")


def test_the_error_names_a_field_that_the_client_rejects(serving: Any) -> None:
    with run_vllm_engine() as address, serving(VLLMBackend(str(address))) as channel:
        failure = fails(channel, request_id="")
    assert (failure.code.name, failure.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert failure.field_violations == (FieldViolation("request_id", "the engine rejects it"),)


def test_first_calls_at_the_same_time_open_one_client(serving: Any) -> None:
    engine = FakeVllmEngine()
    with run_vllm_engine(engine) as address, serving(VLLMBackend(str(address))) as channel:
        engine.script.add(Fault(delay=0.2), rpc="GetTokenizer", times=None)
        with futures.ThreadPoolExecutor(max_workers=4) as callers:
            sent = [callers.submit(ask, channel, "a", max_tokens=2) for _ in range(4)]
            assert all(text(each.result()) for each in sent)
        seen = [received.rpc for received in engine.record.received]
        assert seen.count("GetTokenizer") == 1


def test_calls_work_after_a_failed_first_call(serving: Any) -> None:
    engine = FakeVllmEngine()
    with run_vllm_engine(engine) as address, serving(VLLMBackend(str(address))) as channel:
        engine.script.add(Fault(grpc.StatusCode.NOT_FOUND, SECRET), rpc="GetTokenizer")
        failure = fails(channel, "a")
        assert failure.code is grpc.StatusCode.NOT_FOUND and SECRET not in str(failure)
        assert text(ask(channel, "a", max_tokens=2))


@pytest.mark.parametrize(
    ("pushback", "delay"), [("500", timedelta(seconds=0.5)), ("0", None), ("never", None)]
)
def test_a_full_engine_returns_a_retry_delay(
    serving: Any, pushback: str, delay: timedelta | None
) -> None:
    class Full(FakeVllmEngine):
        async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, SECRET)
            yield  # never reached; makes it a stream

    with (
        run_vllm_engine(Full()) as address,
        serving(VLLMBackend(str(address), max_retries=0)) as channel,
    ):
        failure = fails(channel, "a")
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.retry_after == delay


def test_closing_a_service_closes_its_engine_client(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[object] = []
    close = AsyncVLLMGrpcClient.close

    async def noted(client: AsyncVLLMGrpcClient) -> None:
        closed.append(client)
        await close(client)

    monkeypatch.setattr(AsyncVLLMGrpcClient, "close", noted)
    with run_vllm_engine() as address:
        with serving(VLLMBackend(str(address))) as channel:
            ask(channel, "a", max_tokens=1)
            assert not closed
        assert closed


# --- The published contract has two fields ---


def two_fields() -> tuple[type[Message], type[Message]]:
    """What a peer has that was generated from `prompt` and `token` alone."""
    file = descriptor_pb2.FileDescriptorProto(name="llm.proto", package="entity.grpc")
    for name, field in (("GenerateRequest", "prompt"), ("GenerateResponse", "token")):
        string = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
        single = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
        message = file.message_type.add(name=name)
        message.field.add(name=field, number=1, type=string, label=single)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = [pool.FindMessageTypeByName(f"entity.grpc.{m.name}") for m in file.message_type]
    request, reply = map(message_factory.GetMessageClass, found)
    return request, reply


def test_a_two_field_client_is_served(serving: Any) -> None:
    request, reply = two_fields()
    with serving() as channel:
        call = channel.unary_stream(
            "/entity.grpc.LLMService/Generate",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        assert "".join(each.token for each in call(request(prompt="a b c"))) == "a b c"


def test_a_two_field_server_is_understood() -> None:
    request, reply = two_fields()

    def generate(sent: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        for word in sent.prompt.split():
            yield reply(token=word)

    handler: Callable[..., Any] = grpc.unary_stream_rpc_method_handler
    methods = {
        "Generate": handler(
            generate,
            request_deserializer=request.FromString,
            response_serializer=reply.SerializeToString,
        )
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    generic = grpc.method_handlers_generic_handler("entity.grpc.LLMService", methods)
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        replies = ask(channel, "a b", max_tokens=3)
        assert [each.token for each in replies] == ["a", "b"]
        assert not replies[-1].HasField("finish_reason")
    server.stop(0)


# --- The adapter ---


def test_an_adapter_is_ready_when_serve_returns_and_frees_its_port() -> None:
    adapter = LLMGRPCAdapter({"host": "127.0.0.1", "port": 0}).serve()
    with grpc.insecure_channel(adapter.address) as channel:
        assert text(ask(channel, "here")) == "here"
    with pytest.raises(OSError, match="cannot listen on 127"):
        LLMGRPCAdapter({"host": "127.0.0.1", "port": adapter.port}).serve()
    assert [thread.name for thread in threading.enumerate()].count("smg-proto-llm") == 1
    for start in (adapter.serve, adapter.run):
        with pytest.raises(RuntimeError, match="already started"):
            start()
    for _ in range(2):
        adapter.shutdown()
        assert adapter.wait(0)
    LLMGRPCAdapter({"port": 0}).shutdown()  # it has not started
    with LLMGRPCAdapter({"host": "127.0.0.1", "port": adapter.port}) as again:
        assert again.port == adapter.port


def test_an_adapter_listens_on_loopback_by_default() -> None:
    adapter = LLMGRPCAdapter()
    assert adapter.address == "127.0.0.1:50051"
    assert LLMGRPCAdapter({"host": "::1", "port": 1}).address == "[::1]:1"
    with pytest.raises(ValueError, match=r'invalid address "127\.0\.0\.1:65536": the port'):
        LLMGRPCAdapter({"port": 65536})


@pytest.mark.parametrize(("settings", "limit"), [({}, 4 << 20), ({"max_request": 100}, 100)])
def test_a_request_above_the_maximum_is_rejected(settings: dict[str, int], limit: int) -> None:
    with aio_server(**settings) as channel:
        failure = fails(channel, "a" * limit, stop=["a"])  # a short reply
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_adapter_serves_health_and_reflection() -> None:
    with LLMGRPCAdapter({"port": 0}) as adapter, grpc.insecure_channel(adapter.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        status = health.Check(health_pb2.HealthCheckRequest(service="entity.grpc.LLMService"))
        assert status.status == health_pb2.HealthCheckResponse.SERVING


def test_an_adapter_has_the_certificate_of_its_settings() -> None:
    authority = Authority()
    identity = authority.issue("adapter")
    credentials = grpc.ssl_server_credentials([(identity.key, identity.certificate)])
    trust = grpc.ssl_channel_credentials(authority.certificate)
    with (
        LLMGRPCAdapter({"port": 0, "credentials": credentials}) as adapter,
        grpc.secure_channel(adapter.address, trust) as channel,
    ):
        assert text(ask(channel, "here")) == "here"


def test_an_adapter_listens_on_a_unix_socket(tmp_path: Path) -> None:
    with (
        LLMGRPCAdapter({"host": f"unix:{tmp_path}/llm.sock"}) as adapter,
        grpc.insecure_channel(adapter.address) as channel,
    ):
        assert text(ask(channel, "here")) == "here"
        with pytest.raises(OSError, match="cannot listen on unix:"):
            LLMGRPCAdapter({"host": f"unix:{tmp_path}/llm.sock"}).serve()


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown setting 'prot'; choose from .*port"):
        LLMGRPCAdapter({"prot": 1})


def test_a_shutdown_lets_calls_in_flight_finish() -> None:
    go_on = threading.Event()

    async def slow(prompt: str) -> AsyncIterator[str]:
        yield "a"
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        yield "b"

    adapter = LLMGRPCAdapter({"backend": slow, "host": "127.0.0.1", "port": 0}).serve()
    with grpc.insecure_channel(adapter.address) as channel:
        replies = llm_pb2_grpc.LLMServiceStub(channel).Generate(
            llm_pb2.GenerateRequest(prompt="a"), timeout=20
        )
        assert next(replies).token == "a"
        stopping = threading.Thread(target=adapter.shutdown)
        stopping.start()
        go_on.set()
        assert [reply.token for reply in replies] == ["b"]
        stopping.join(10)
    assert adapter.wait(0)


def test_a_signal_ends_an_adapter_after_its_calls(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async def slow(prompt: str) -> AsyncIterator[str]:
        yield "a"
        os.kill(os.getpid(), signal.SIGTERM)
        await async_eventually(lambda: "stopping drain=5s" in caplog.text)
        yield "b"

    def call() -> str:
        eventually(lambda: adapter.port)
        with grpc.insecure_channel(adapter.address) as channel:
            return text(ask(channel))

    adapter = LLMGRPCAdapter({"port": 0, "backend": slow})
    with futures.ThreadPoolExecutor() as pool, unhandled_signals_fail():
        called = pool.submit(call)
        with caplog.at_level(logging.INFO):
            adapter.run()
        assert called.result() == "ab"
    assert capsys.readouterr().out == f"LLMService on {adapter.address}\n"
    assert adapter.wait(0)


def test_the_package_is_imported_without_any_extra() -> None:
    program = "import sys, smg_proto.llm; print({'aiohttp', 'pydantic'} & set(sys.modules))"
    assert run(sys.executable, "-c", program).strip() == "set()"
