"""Attacks and load, in small: the front door serves the others, holds nothing back, and stays."""

import asyncio
import gzip
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from support import async_eventually

from frontdoor import raw_http2
from frontdoor.calls import REQUESTS, STREAMS, call, stub
from frontdoor.replay import EXCHANGES, Upstream, sse
from frontdoor.test_serve import MODELS, health, port_of, serve
from smg_proto import smg_pb2 as smg
from smg_proto._http.upstream import Timeouts
from smg_proto.errors import from_rpc_error
from smg_proto.frontdoor import FrontDoor, Options

pytestmark = [
    pytest.mark.load,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

Code = grpc.StatusCode
CHAT = EXCHANGES["chat"]["response"]["body"]
EVENTS = [sse(event) for event in EXCHANGES["chat_stream_usage"]["response"]["events"]]
STREAM = STREAMS["ChatService.StreamChat"]
MIB = 1 << 20


class Running:
    """A front door in a process of its own."""

    def __init__(self, pid: int, port: int, metrics_port: int, upstream: Upstream) -> None:
        self.pid, self.port, self.upstream = pid, port, upstream
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"

    def channel(self) -> grpc.aio.Channel:
        # A connection of its own, or gRPC would share one.
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    def resident(self) -> int:
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * 4096

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def active(self) -> int:
        import aiohttp

        async with aiohttp.ClientSession() as session, session.get(self._metrics) as reply:
            text = await reply.text()
        gauges = [
            line for line in text.splitlines() if line.startswith("smg_proto_active_requests{")
        ]
        return sum(int(line.rpartition(" ")[2]) for line in gauges)

    async def at_rest(self) -> None:
        """Nothing is in flight any more, here and upstream."""
        for _ in range(6000):
            if await self.active() == 0:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("something is in flight for ever")

    async def serves(self) -> None:
        """A good call is answered."""
        async with self.channel() as channel:
            self.upstream.forget()
            self.upstream.answer(200, CHAT)
            assert (await call(channel, "ChatService.Chat")).choices


@pytest.fixture
async def running(upstream: Upstream) -> AsyncIterator[Running]:
    upstream.answer(200, MODELS)
    flags = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--log-level", "warning"]
    async with serve(upstream.url, *flags) as (process, line):
        assert process.stderr
        log = asyncio.create_task(process.stderr.read())
        port = int(line.rpartition(" ")[2])
        found = Running(process.pid, port_of(line), port, upstream)
        await found.serves()
        upstream.forget()
        yield found
        assert process.returncode is None, "it is gone"
        process.terminate()
        await process.wait()
        assert "failed error=" not in (await log).decode()


async def code_of(work: Awaitable[Any]) -> str:
    try:
        await work
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason or error.code().name
    return "OK"


async def ends_well(channel: grpc.aio.Channel) -> None:
    """A whole stream; one that is OK without its end is a failed assertion."""
    last: Any = None
    async for event in stub(channel, "ChatService.StreamChat")(STREAM):
        last = event
    assert last is not None and last.HasField("end")


# --- Load ---


async def test_no_stream_is_ok_without_its_end_when_the_gateway_is_killed(running: Running) -> None:
    gone = asyncio.Event()

    async def paced(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if gone.is_set():
            assert request.transport
            request.transport.abort()
            return response
        await response.prepare(request)
        for event in EVENTS:
            await response.write(event)
            await asyncio.sleep(0.05)
            if gone.is_set():
                assert request.transport
                request.transport.abort()
        return response

    running.upstream.say(paced)
    ends: Counter[str] = Counter()
    stop = asyncio.Event()

    async def streams(channel: grpc.aio.Channel) -> None:
        while not stop.is_set():
            ends[await code_of(ends_well(channel))] += 1
            await asyncio.sleep(0.05)

    async with running.channel() as channel:

        async def serving() -> bool:
            return await health(channel, "smg.v1.ChatService") == 1

        async def until(wanted: bool) -> None:
            while await serving() != wanted:
                await asyncio.sleep(0.05)

        work = [asyncio.create_task(streams(channel)) for _ in range(100)]
        await async_eventually(lambda: ends["OK"] >= 300)
        before = running.resident()
        gone.set()
        running.upstream.ready = False
        await asyncio.wait_for(until(False), 60)
        await async_eventually(lambda: ends["STREAM_TRUNCATED"] and ends["GATEWAY_UNAVAILABLE"])
        gone.clear()
        running.upstream.ready = True
        ok = ends["OK"]
        await asyncio.wait_for(until(True), 60)
        await async_eventually(lambda: ends["OK"] >= ok + 300)
        stop.set()
        await asyncio.gather(*work)
    assert set(ends) == {"OK", "STREAM_TRUNCATED", "GATEWAY_UNAVAILABLE"}
    assert running.resident() - before < 32 * MIB
    await running.at_rest()


async def test_many_calls_leave_no_resources_behind(running: Running) -> None:
    async with running.channel() as channel:

        async def some(number: int) -> None:
            for _ in range(number):
                running.upstream.forget()
                running.upstream.answer(200, CHAT)
                await asyncio.gather(*(call(channel, "ChatService.Chat") for _ in range(50)))
                running.upstream.forget()
                running.upstream.stream(b"".join(EVENTS))
                await asyncio.gather(*(ends_well(channel) for _ in range(50)))

        await some(2)
        memory, files = running.resident(), running.descriptors()
        await some(12)
        await running.at_rest()
        assert running.resident() - memory < 16 * MIB
        assert running.descriptors() <= files + 60  # 50 connections wait for the next calls


async def test_clients_that_reset_at_once_leave_no_calls_in_flight(running: Running) -> None:
    running.upstream.stream(EVENTS[0], 60.0)
    async with running.channel() as channel:
        calls = [stub(channel, "ChatService.StreamChat")(STREAM) for _ in range(500)]
        await asyncio.sleep(0)
        for number, ask in enumerate(calls):
            if number % 3 == 0:
                await asyncio.sleep(0)
            ask.cancel()
        await running.serves()
    await running.at_rest()


async def test_slow_readers_take_no_memory(running: Running) -> None:
    piece = EVENTS[1].replace(b'"content": "', b'"content": "' + b"x" * 100_000)

    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(600):  # 60 MB
            await response.write(piece)
        return response

    running.upstream.say(flood)
    before = running.resident()
    async with running.channel() as channel:
        calls = [stub(channel, "ChatService.StreamChat")(STREAM) for _ in range(10)]
        for ask in calls:
            await ask.read()
        await asyncio.sleep(2)
        assert running.resident() - before < 96 * MIB
        for ask in calls:
            ask.cancel()
    await running.at_rest()


# --- Attacks of clients ---


async def test_messages_that_inflate_are_rejected(running: Running) -> None:
    before = running.resident()
    bomb = gzip.compress(bytes(50 * MIB))  # 50 KiB; a request may have 32 MiB
    headers = [(b"grpc-encoding", b"gzip")]
    for _ in range(8):
        path = "/smg.v1.ChatService/Chat"
        await asyncio.wait_for(
            raw_http2.call(running.port, path, bomb, headers, compressed=True), 60
        )
    assert not running.upstream.sent
    await running.serves()
    assert running.resident() - before < 64 * MIB


async def test_requests_beyond_a_limit_are_rejected_and_others_are_served(running: Running) -> None:
    async with running.channel() as channel:
        huge = smg.CompletionRequest(model="m", prompt="x" * (40 * MIB))
        send: Any = channel.unary_unary(
            "/smg.v1.CompletionService/Complete",
            request_serializer=smg.CompletionRequest.SerializeToString,
        )
        assert await code_of(send(huge)) == "RESOURCE_EXHAUSTED"
        ask = stub(channel, "ChatService.Chat")
        request = REQUESTS["ChatService.Chat"]
        for metadata in ([("x-a", "y" * MIB)], [(f"x-{n}", "y") for n in range(10_000)]):
            assert await code_of(ask(request, metadata=metadata)) != "OK"
        many = smg.ChatRequest(model="m", messages=[smg.ChatMessage() for _ in range(200_000)])
        assert await code_of(ask(many)) == "INVALID_REQUEST"
    assert not running.upstream.sent
    await running.serves()


async def test_idle_and_garbled_connections_do_no_harm(running: Running) -> None:
    before = running.descriptors()
    async with AsyncExitStack() as stack:
        for number in range(150):
            _, writer = await asyncio.open_connection("127.0.0.1", running.port)
            stack.callback(writer.close)
            if number % 3 == 1:
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
            elif number % 3 == 2:
                writer.write(raw_http2.PREFACE + b"\xff" * 200)
        await running.serves()
    await async_eventually(lambda: running.descriptors() <= before + 5, "all are closed")


# --- Attacks of gateways ---

OK_HEAD = b"HTTP/1.1 200 OK\r\n"
JSON_HEAD = OK_HEAD + b"content-type: application/json\r\n"
SSE_HEAD = OK_HEAD + b"content-type: text/event-stream\r\n"
BODY = json.dumps(CHAT).encode()
SHORT = JSON_HEAD + b"content-length: 2\r\n\r\n{}"
CHUNKED = JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n"
KNOWN = {"WORKER_ERROR", "STREAM_TRUNCATED", "GATEWAY_UNAVAILABLE", "WORKER_TIMEOUT"}
FAULTS: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"\x16\x03\x01garbage\r\n\r\n",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of 1000": b"HTTP/1.1 1000 OK\r\n\r\n",
    "HTTP/9": b"HTTP/9.9 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "many 1xx": b"HTTP/1.1 100 Continue\r\n\r\n" * 2000 + SHORT,
    "a header without end": OK_HEAD + b"x: " + b"y" * 100_000,
    "many headers": OK_HEAD + b"x: y\r\n" * 50_000 + b"\r\n",
    "a header with NUL": JSON_HEAD + b"x: a\0b\r\ncontent-length: 2\r\n\r\n{}",
    "half a body": JSON_HEAD + b"content-length: 5000\r\n\r\n" + BODY,
    "two lengths": JSON_HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a negative length": JSON_HEAD + b"content-length: -1\r\n\r\n{}",
    "length and chunks": JSON_HEAD
    + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a chunk of letters": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk that is huge": CHUNKED + b"f" * 30 + b"\r\n{}",
    "204 with a body": b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n{}",
    "another answer behind": JSON_HEAD + b"content-length: 2\r\n\r\n{}" + JSON_HEAD,
    "a redirect": b"HTTP/1.1 307 Go\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
    "gzip of nothing": JSON_HEAD + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    "a stream cut in a chunk": SSE_HEAD + b"transfer-encoding: chunked\r\n\r\nff\r\ndata: {",
    "a stream of nothing": SSE_HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a stream without [DONE]": SSE_HEAD + b"\r\n" + b"".join(EVENTS[:-1]),
    "a stream of only [DONE]": SSE_HEAD + b"\r\ndata: [DONE]\n\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n",
}


@asynccontextmanager
async def raw_gateway(answer: Callable[[], bytes]) -> AsyncIterator[str]:
    """An upstream that answers every request with these bytes, and closes."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/readiness" in head:
                writer.write(OK_HEAD + b"content-length: 0\r\nconnection: close\r\n\r\n")
            else:
                writer.write(answer())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_every_fault_of_a_gateway_is_a_status_and_the_next_call_is_served() -> None:
    now = b""
    limits = Timeouts(connect=5, request=5, idle=5)
    good = JSON_HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
    async with raw_gateway(lambda: now) as url:
        settings = Options(upstream=url, listen="127.0.0.1:0", wait=None, timeouts=limits)
        async with (
            FrontDoor(settings) as door,
            grpc.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel,
        ):
            for name, fault in FAULTS.items():
                now = fault
                reasons = {
                    await asyncio.wait_for(code_of(call(channel, "ChatService.Chat")), 60),
                    await asyncio.wait_for(code_of(ends_well(channel)), 60),
                }
                assert reasons <= KNOWN, (name, reasons)
                now = good
                assert (await call(channel, "ChatService.Chat")).choices, name


async def test_a_slow_gateway_is_ended_by_the_time_limit() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    from frontdoor.replay import front_door
    from frontdoor.replay import upstream as run_upstream

    limits = Timeouts(connect=5, request=1, idle=5)
    async with run_upstream() as output, front_door(output, timeouts=limits) as channel:
        output.say(drip)
        assert await code_of(call(channel, "ChatService.Chat")) == "WORKER_TIMEOUT"
        await async_eventually(lambda: output.dropped == 1, "it is closed")
