"""LLMService over its backends, in a `grpc.server` and in a `grpc.aio.server`."""

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from support import run

from smg_proto import llm_pb2, llm_pb2_grpc
from smg_proto.errors import SmgError, from_rpc_error
from smg_proto.llm import (
    AdapterConfig,
    Failover,
    FunctionBackend,
    LLMGRPCAdapter,
    LLMService,
    Piece,
    VLLMBackend,
)
from smg_proto.testing import Answer, FakeVllmEngine, Fault, run_vllm_engine

SECRET = "sesame"


@contextmanager
def sync_server(backend: Any = None, **options: Any) -> Iterator[grpc.Channel]:
    service = LLMService(backend, **options)
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


def test_the_snippet_serves() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    llm_pb2_grpc.add_LLMServiceServicer_to_server(LLMService(), server)
    port = server.add_insecure_port("[::]:0")
    server.start()
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        assert text(ask(channel, "Hello, world!")) == "Hello, world!"
    server.stop(0)


def test_an_echo_counts_stops_and_ends(serving: Any) -> None:
    with serving() as channel:
        replies = ask(channel, "one two three four")
        assert [reply.token for reply in replies[:-1]] == ["one", " two", " three", " four"]
        end = replies[-1]
        assert (end.finish_reason, end.prompt_tokens, end.completion_tokens) == ("stop", 4, 4)
        assert not any(reply.HasField("finish_reason") for reply in replies[:-1])
        short = ask(channel, "one two three four", max_tokens=2)
        assert (text(short), short[-1].finish_reason) == ("one two", "length")
        assert text(ask(channel, "one two three four", stop=["re", "x"])) == "one two th"


def test_bad_requests_are_refused_with_the_field(serving: Any) -> None:
    with serving() as channel:
        for field, fields in (
            ("prompt", {"prompt": ""}),
            ("max_tokens", {"max_tokens": 0}),
            ("temperature", {"temperature": 3.0}),
            ("top_p", {"top_p": 0.0}),
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
        assert [found.field for found in failure.field_violations] == ["temperature"]


def test_a_failure_tells_its_status_and_nothing_of_the_backend(
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
    for told in (str(failure), str(typed), caplog.text):
        assert SECRET not in told and "secret prompt" not in told
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize("how", ["cancel", "deadline", "client gone"])
def test_a_caller_that_is_gone_stops_the_backend(serving: Any, how: str) -> None:
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


def test_failover_goes_on_before_the_first_piece_only(serving: Any) -> None:
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

    def generate(asked: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        for word in asked.prompt.split():
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


def test_an_adapter_serves_when_serve_returns_and_frees_its_port() -> None:
    adapter = LLMGRPCAdapter({"host": "127.0.0.1", "port": 0}).serve()
    with grpc.insecure_channel(adapter.address) as channel:
        assert text(ask(channel, "here")) == "here"
    with pytest.raises(OSError, match="cannot listen on 127"):
        LLMGRPCAdapter({"host": "127.0.0.1", "port": adapter.port}).serve()
    adapter.shutdown()
    assert adapter.wait(0)
    with LLMGRPCAdapter({"host": "127.0.0.1", "port": adapter.port}) as again:
        assert again.port == adapter.port


def test_an_adapter_listens_where_it_is_documented_to() -> None:
    assert LLMGRPCAdapter().config.host == "[::]"
    assert LLMGRPCAdapter().config.port == 50051


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown setting 'prot'; there are .*port"):
        LLMGRPCAdapter({"prot": 1})


def test_a_shutdown_lets_calls_at_work_end() -> None:
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


def test_it_is_imported_without_any_extra() -> None:
    program = "import sys, smg_proto.llm; print({'aiohttp', 'pydantic'} & set(sys.modules))"
    assert run(sys.executable, "-c", program).strip() == "set()"
