"""Leaving streams, and how streams end."""

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from support import async_eventually, eventually

from engine.kit import PATIENCE, Client, fails, hangs, serving
from smg_proto import __version__
from smg_proto import vllm_engine_pb2 as pb
from smg_proto.engine import (
    AccessError,
    BusyError,
    ClosedError,
    DeadlineError,
    EngineError,
    FailedError,
    RequestError,
    UnavailableError,
    connect,
)
from smg_proto.engine._sync.calls import Caller
from smg_proto.testing import FakeVllmEngine, Fault, run_vllm_engine

GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"
VLLM: dict[str, Any] = {"contract": "vllm.grpc.engine"}
HEALTH = "/vllm.grpc.engine.VllmEngine/HealthCheck"
END = pb.GenerateResponse(complete=pb.GenerateComplete(finish_reason="stop"))
LONG: dict[str, Any] = {"token_ids": [300, 301], "max_tokens": 2000, "ignore_eos": True}


@pytest.fixture
def engine() -> Iterator[Any]:
    """The address of a slow fake engine."""
    with run_vllm_engine(FakeVllmEngine(token_delay=0.01)) as address:
        yield address


def cancelled(address: Any, count: int) -> bool:
    counters = address.servicer.record.counters
    return bool(counters.cancelled == count and counters.running == 0)


async def test_breaking_out_of_the_loop_ends_the_request(engine: Any) -> None:
    async with connect(engine) as client:
        async for piece in client.generate(**LONG):
            assert piece.token_ids
            break
        await async_eventually(lambda: cancelled(engine, 1))


def test_breaking_out_of_the_loop_ends_the_request_sync(engine: Any) -> None:
    with connect(engine) as client:
        for piece in client.generate(**LONG):
            assert piece.token_ids
            break
        eventually(lambda: cancelled(engine, 1))


async def test_leaving_the_block_ends_the_request(engine: Any) -> None:
    async with connect(engine) as client:
        async with client.generate(**LONG) as stream:
            first = await stream.__anext__()
            second = await stream.__anext__()
            assert first.token_ids and second.token_ids
        await async_eventually(lambda: cancelled(engine, 1))
        with pytest.raises(ClosedError, match="closed by this side"):
            await stream.__anext__()
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()


def test_leaving_the_block_ends_the_request_sync(engine: Any) -> None:
    with connect(engine) as client:
        with client.generate(**LONG) as stream:
            assert next(stream).token_ids and next(stream).token_ids
        eventually(lambda: cancelled(engine, 1))
        with pytest.raises(ClosedError, match="closed by this side"):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)


async def test_an_error_of_the_reader_ends_the_request(engine: Any) -> None:
    async with connect(engine) as client:
        with pytest.raises(ZeroDivisionError):
            async for _ in client.generate(**LONG):
                _ = 1 / 0
        gc.collect()  # the traceback held the stream
        await async_eventually(lambda: cancelled(engine, 1))


async def test_cancelling_the_task_ends_the_request(engine: Any) -> None:
    async with connect(engine) as client:
        task = asyncio.create_task(client.complete(**LONG))
        await async_eventually(lambda: engine.servicer.record.counters.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await async_eventually(lambda: cancelled(engine, 1))
        assert (await client.complete(**LONG | {"max_tokens": 2})).token_ids


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count cancellations")
async def test_a_task_that_is_cancelled_while_its_connection_closes_is_cancelled(
    engine: Any,
) -> None:
    engine.servicer.script.add(Fault(delay=PATIENCE))
    async with connect(engine) as client:
        task = asyncio.create_task(client.complete(**LONG))
        await async_eventually(lambda: engine.servicer.record.counters.running == 1)
        task.cancel()
        await client.aclose()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_closing_a_stream_wakes_its_reader(engine: Any) -> None:
    engine.servicer.script.add(Fault(delay=PATIENCE))
    async with connect(engine) as client:
        stream = client.generate(**LONG)
        reading = asyncio.ensure_future(stream.__anext__())
        await async_eventually(lambda: engine.servicer.record.counters.running == 1)
        await stream.aclose()
        with pytest.raises(ClosedError):
            await reading


def test_closing_a_stream_wakes_its_reader_sync(engine: Any) -> None:
    engine.servicer.script.add(Fault(delay=PATIENCE))
    with connect(engine) as client:
        stream = client.generate(**LONG)
        errors: list[BaseException] = []

        def read() -> None:
            try:
                next(stream)
            except EngineError as error:
                errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        eventually(lambda: engine.servicer.record.counters.running == 1)
        stream.close()
        thread.join(PATIENCE)
        assert [type(error) for error in errors] == [ClosedError]


def test_a_close_while_the_call_starts_is_kept(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.servicer.script.add(Fault(delay=PATIENCE))
    starts = Caller.stream

    def stream_and_close(*arguments: Any) -> Any:
        started = starts(*arguments)
        stream.close()
        return started

    monkeypatch.setattr(Caller, "stream", stream_and_close)
    with connect(engine) as client:
        stream = client.generate(**LONG)
        with pytest.raises(ClosedError):
            next(stream)
    eventually(lambda: engine.servicer.record.counters.running == 0, "the server has ended it")


async def test_closing_the_connection_ends_its_streams(engine: Any) -> None:
    async with connect(engine) as client:
        stream = client.generate(**LONG)
        await stream.__anext__()
        reading = asyncio.ensure_future(_rest(stream))
    with pytest.raises(ClosedError):
        await reading
    await async_eventually(lambda: cancelled(engine, 1))
    for use in (client.complete(**LONG), client.info(), client.abort("x")):
        with pytest.raises(ClosedError, match="the connection has been closed"):
            await use
    with pytest.raises(ClosedError):
        await client.generate(**LONG).__anext__()


async def _rest(stream: Any) -> None:
    async for _ in stream:
        pass


def test_closing_the_connection_ends_its_streams_sync(engine: Any) -> None:
    with connect(engine) as client:
        stream = client.generate(**LONG)
        next(stream)
    with pytest.raises(ClosedError):
        list(stream)
    eventually(lambda: cancelled(engine, 1))
    with pytest.raises(ClosedError):
        client.complete(**LONG)


async def test_a_stream_that_nobody_reads_sends_nothing(engine: Any) -> None:
    async with connect(engine) as client:
        stream = client.generate(**LONG)
        await stream.aclose()
        with pytest.raises(ClosedError, match="the stream has been closed"):
            await stream.__anext__()
    assert engine.servicer.record.counters.started == 0


def test_a_connection_can_be_entered_only_once(engine: Any) -> None:
    connection = connect(engine)
    with connection:
        pass
    with pytest.raises(ClosedError, match="entered only once"), connection:
        pass
    with pytest.raises(ClosedError, match="entered only once"):
        asyncio.run(connection.__aenter__())


def test_the_time_limit_of_a_request(client: Client, engine: Any) -> None:
    with pytest.raises(DeadlineError) as caught:
        client.complete(engine, LONG | {"timeout": 0.2})
    assert caught.value.code == "DEADLINE_EXCEEDED"
    eventually(lambda: cancelled(engine, 1))


def test_the_time_limit_of_other_calls(client: Client) -> None:
    handlers: Any = {"/vllm.grpc.engine.VllmEngine/GetLoads": hangs}
    with serving(handlers) as server, pytest.raises(DeadlineError):
        client.call(server.target, "load", timeout=0.2, **VLLM)


@pytest.mark.parametrize(
    ("code", "kind", "what"),
    [
        ("INVALID_ARGUMENT", RequestError, "the server rejects the request"),
        ("OUT_OF_RANGE", RequestError, "the server rejects the request"),
        ("NOT_FOUND", RequestError, "the server does not know what the request names"),
        ("FAILED_PRECONDITION", RequestError, "the server is not set up for the request"),
        ("ALREADY_EXISTS", RequestError, "the server already has a request with this id"),
        ("UNAUTHENTICATED", AccessError, "the server rejects the credentials"),
        ("PERMISSION_DENIED", AccessError, "the server does not allow the call"),
        ("RESOURCE_EXHAUSTED", BusyError, "the engine is full, or a message exceeds a size limit"),
        ("UNAVAILABLE", UnavailableError, "no server, or it does not accept calls now"),
        ("DEADLINE_EXCEEDED", DeadlineError, "no complete reply in time"),
        ("INTERNAL", FailedError, "the call failed with INTERNAL"),
        ("CANCELLED", FailedError, "the server cancelled the call"),
        ("DATA_LOSS", FailedError, "the call failed with DATA_LOSS"),
        ("UNIMPLEMENTED", FailedError, "the server does not have the RPC"),
    ],
)
@pytest.mark.parametrize("after", [0, 2])
def test_each_status_raises_its_error(
    client: Client, code: str, kind: type[EngineError], what: str, after: int
) -> None:
    def handle(request: bytes, context: Any) -> Iterator[Any]:
        for token in range(after):
            yield pb.GenerateResponse(chunk=pb.GenerateStreamChunk(token_ids=[token]))
        context.abort(grpc.StatusCode[code], "about a secret prompt")

    with serving({GENERATE: handle}) as server:
        with pytest.raises(kind) as caught:
            client.pieces(server.target, LONG, **VLLM)
        assert (caught.value.code, caught.value.details) == (code, "about a secret prompt")
        assert str(caught.value).startswith(f"{server.target}: {what}")
        assert "secret" not in str(caught.value)


def test_the_servers_text_is_not_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    params = LONG | {"metadata": {"key": "sesame"}}
    handlers: Any = {GENERATE: fails(grpc.StatusCode.INTERNAL, "about a secret prompt")}
    with serving(handlers) as server, suppress(EngineError):
        client.complete(server.target, params, **VLLM)
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("smg_proto")]
    assert not any("secret" in line or "sesame" in line for line in ours)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [pb.GenerateResponse(chunk=pb.GenerateStreamChunk(token_ids=[1]))],
        [pb.GenerateResponse()],
        [pb.GenerateResponse(complete=pb.GenerateComplete(finish_reason="stop", index=7))],
    ],
    ids=["nothing", "no end", "unknown kind", "another sequence"],
)
def test_a_stream_without_its_end_fails(client: Client, messages: Any) -> None:
    problem = "the stream ended before 1 of its sequences did"
    with serving({GENERATE: messages}) as server, pytest.raises(FailedError, match=problem):
        client.pieces(server.target, LONG, **VLLM)


def test_a_reply_that_cannot_be_parsed_fails(client: Client) -> None:
    with serving({GENERATE: [b"\xff\xff\xff"]}) as server, pytest.raises(FailedError):
        client.pieces(server.target, LONG, **VLLM)


def test_a_message_over_the_limit(client: Client) -> None:
    number = (2 << 20) + 1  # of two bytes each
    chunk = pb.GenerateResponse(complete=pb.GenerateComplete(output_ids=[300] * number))
    with serving({GENERATE: [chunk]}) as server:
        completion = client.complete(server.target, LONG, **VLLM)  # over gRPC's own 4 MiB
        assert len(completion.token_ids) == number
        with pytest.raises(BusyError):
            client.complete(server.target, LONG, max_message_bytes=1 << 20, **VLLM)
    with serving({GENERATE: [END]}) as server, pytest.raises(BusyError):
        params = LONG | {"token_ids": [300] * 1000}
        client.complete(server.target, params, max_message_bytes=999, **VLLM)


async def test_calls_run_at_the_same_time(engine: Any) -> None:
    async with connect(engine) as client:
        params = LONG | {"max_tokens": 20}
        tasks = [asyncio.create_task(client.complete(**params)) for _ in range(10)]
        await async_eventually(lambda: engine.servicer.record.counters.running > 1)
        assert len({(await task).token_ids for task in tasks}) == 1


def test_metadata_of_the_call_and_of_the_connection(client: Client) -> None:
    sent = [("a", "1"), ("b-bin", b"\x00"), ("authorization", "Basic x")]
    options = {"metadata": sent, "token": "sesame", **VLLM}  # the token replaces the header
    with serving({GENERATE: [END], HEALTH: [b""]}) as server:
        client.complete(server.target, LONG | {"metadata": {"c": "3"}}, **options)
        client.call(server.target, "health", **options)
        assert [seen.get("c") for seen in server.metadata] == ["3", None]
        for seen in server.metadata:
            assert (seen["a"], seen["b-bin"]) == ("1", b"\x00")
            assert seen["authorization"] == "Bearer sesame"
            assert seen["user-agent"].startswith(f"smg-proto/{__version__} ")


def test_only_a_stream_is_streamed(client: Client) -> None:
    with serving({GENERATE: [END]}) as server:
        for call, streamed in ((client.pieces, True), (client.complete, False)):
            call(server.target, LONG, **VLLM)
            assert pb.GenerateRequest.FromString(server.requests[GENERATE]).stream is streamed
