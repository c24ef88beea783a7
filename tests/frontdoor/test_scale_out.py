"""Several front doors behind one target, with the service config that the package ships."""

import asyncio
import json
import signal
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from typing import Any, cast

import grpc
import pytest
from support import async_eventually

from frontdoor.calls import REQUESTS, STREAMS, stub
from frontdoor.replay import EXCHANGES, Upstream, sse
from frontdoor.test_processes import metrics
from frontdoor.test_serve import MODELS, port_of, serve
from smg_proto import smg_pb2
from smg_proto._serving.address import Address
from smg_proto._serving.server import Server
from smg_proto.frontdoor import Options

CONFIG = (files("smg_proto") / "service_config.json").read_text(encoding="utf-8")
METRICS = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
PATIENCE = 60
# What a second try could do twice: work that is stored, workers that are changed.
NOT_REPEATED = {
    "smg.v1.ResponseService": {
        "CreateResponse",
        "StreamResponse",
        "CancelResponse",
        "DeleteResponse",
    },
    "smg.v1.WorkerService": {
        "CreateWorker",
        "UpdateWorker",
        "ReplaceWorker",
        "DeleteWorker",
        "FlushCache",
    },
    "smg.v1.ConversationService": {
        "CreateConversation",
        "UpdateConversation",
        "DeleteConversation",
        "CreateConversationItems",
        "DeleteConversationItem",
    },
    "smg.v1.EngineService": {"StartProfile", "StopProfile"},
    "smg.v1.RealtimeService": {
        "Converse",
        "CreateRealtimeSession",
        "CreateTranscriptionSession",
        "CreateClientSecret",
    },
    "smg.v1.TokenizerService": {"CreateTokenizer", "DeleteTokenizer"},
}


def test_every_rpc_is_retried_or_listed_as_not_retried() -> None:
    config = json.loads(CONFIG)
    (methods,) = config["methodConfig"]
    # CANCELLED: what gRPC's server makes of a call that arrives while it begins to stop.
    assert methods["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]
    named = {(each["service"], each.get("method", "")) for each in methods["name"]}
    known = set()
    for service in smg_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            repeated = {(service.full_name, ""), (service.full_name, method.name)} & named
            known |= repeated
            never = method.name in NOT_REPEATED.get(service.full_name, ())
            assert bool(repeated) != never, f"{service.full_name}/{method.name}"
    assert known == named, "the config names what is not there"


@asynccontextmanager
async def doors(upstream: Upstream, number: int) -> AsyncIterator[list[tuple[Process, str]]]:
    async with AsyncExitStack() as stack:
        starting = [stack.enter_async_context(serve(upstream.url, *METRICS)) for _ in range(number)]
        yield [*await asyncio.gather(*starting)]


@asynccontextmanager
async def channel_to(running: list[tuple[Process, str]]) -> AsyncIterator[grpc.aio.Channel]:
    target = "ipv4:" + ",".join(f"127.0.0.1:{port_of(line)}" for _, line in running)
    options = [("grpc.service_config", CONFIG)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield channel


async def chat(channel: grpc.aio.Channel) -> str:
    """OK; BEGUN for a call that was lost when its reply had begun; else the status."""
    made = stub(channel, "ChatService.Chat")(REQUESTS["ChatService.Chat"], timeout=PATIENCE)
    try:
        await made
    except grpc.aio.AioRpcError as error:
        return "BEGUN" if "x-request-id" in error.initial_metadata() else error.code().name
    return "OK"


def reply_to_chats(upstream: Upstream) -> None:
    upstream.forget()
    upstream.answer(200, EXCHANGES["chat"]["response"]["body"], x_request_id="r")


async def served(line: str) -> float:
    result = await metrics(line)
    return sum(value for series, value in result.items() if "requests_started_total{" in series)


async def all_connected(
    upstream: Upstream, channel: grpc.aio.Channel, running: list[tuple[Process, str]]
) -> None:
    """Round robin goes over the servers that are connected so far."""
    reply_to_chats(upstream)

    async def connect() -> None:
        while min([await served(line) for _, line in running]) < 1:
            await chat(channel)

    await asyncio.wait_for(connect(), PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
async def test_load_is_balanced_and_no_call_is_lost_when_a_front_door_stops(
    upstream: Upstream, number: signal.Signals
) -> None:
    upstream.answer(200, MODELS)
    async with doors(upstream, 3) as running, channel_to(running) as channel:
        await all_connected(upstream, channel, running)
        before = [await served(line) for _, line in running]
        assert Counter([await chat(channel) for _ in range(30)]) == {"OK": 30}
        after = [await served(line) for _, line in running]
        assert [b - a for a, b in zip(before, after, strict=True)] == [10, 10, 10]

        ended: Counter[str] = Counter()
        gone = asyncio.Event()

        async def go_on() -> None:
            more = 3  # calls after the end of one
            while more:
                ended[await chat(channel)] += 1
                more -= gone.is_set()

        callers = [asyncio.create_task(go_on()) for _ in range(100)]
        await async_eventually(lambda: ended.total() > 300, "calls are in flight", PATIENCE)
        running[1][0].send_signal(number)
        await asyncio.wait_for(running[1][0].wait(), PATIENCE)
        gone.set()
        await asyncio.gather(*callers)
        # A process that is killed takes with it the calls that it was replying to.
        assert ended.keys() <= {"OK", *(["BEGUN"] if number == signal.SIGKILL else [])}, ended


async def test_only_started_streams_end_with_their_front_door(upstream: Upstream) -> None:
    events = [sse(event) for event in EXCHANGES["chat_stream_usage"]["response"]["events"]]
    upstream.answer(200, MODELS)
    async with doors(upstream, 3) as running, channel_to(running) as channel:
        await all_connected(upstream, channel, running)
        upstream.forget()
        go_on = asyncio.Event()
        upstream.stream(events[0], go_on, *events[1:])
        open_stream: Any = stub(channel, "ChatService.StreamChat")
        begun = [open_stream(STREAMS["ChatService.StreamChat"], timeout=PATIENCE) for _ in range(9)]
        for each in begun:
            await each.read()
        running[0][0].kill()
        await running[0][0].wait()
        go_on.set()
        codes: Counter[str] = Counter()
        for each in begun:
            await drain(each)
            codes[(await each.code()).name] += 1
        assert codes == {"OK": 6, "UNAVAILABLE": 3}
        reply_to_chats(upstream)
        assert await chat(channel) == "OK"


async def drain(stream: Any) -> None:
    """Read a stream to its end, whatever that is."""
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass


async def test_an_old_connection_is_replaced_and_its_stream_completes() -> None:
    settings = Options(upstream="http://127.0.0.1:1", max_connection_age=1).server_options
    server = Server(Address("127.0.0.1"), [], options=settings)
    go_on = asyncio.Event()

    async def peer(_: bytes, context: Any) -> bytes:
        return str(context.peer()).encode()

    async def stream(_: bytes, context: Any) -> AsyncIterator[bytes]:
        yield str(context.peer()).encode()
        await go_on.wait()
        yield b"end"

    handlers: dict[str, Any] = {
        "Peer": grpc.unary_unary_rpc_method_handler(peer),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    server.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
    async with server, grpc.aio.insecure_channel(str(server.address)) as channel:
        long: Any = cast(Any, channel.unary_stream("/t/Stream"))(b"", timeout=PATIENCE)
        first = await long.read()
        ask: Any = channel.unary_unary("/t/Peer")

        async def replaced() -> None:
            while await ask(b"", timeout=PATIENCE) == first:
                await asyncio.sleep(0.05)

        await asyncio.wait_for(replaced(), PATIENCE)
        go_on.set()
        assert await long.read() == b"end"
        assert await long.code() is grpc.StatusCode.OK
